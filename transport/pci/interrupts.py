"""The interrupts of a virtio PCI function: a vector for each event, or one line for all.

VIRTIO 1.4 "ISR status capability", "MSI-X Vector Configuration", "Used Buffer Notifications",
"Notification of Device Configuration Changes".
"""

import threading
from collections.abc import Callable
from typing import Annotated, Any, Final

from transport.line import InterruptLine
from transport.pci.configuration import PCI_COMMAND_INTX_DISABLE, PCI_COMMAND_MASTER
from transport.pci.message import MessageSink
from transport.pci.msix import (
    NO_VECTOR,
    PCI_MSIX_ENTRY_SIZE,
    PCI_MSIX_FLAGS_ENABLE,
    PCI_MSIX_FLAGS_MASKALL,
    MsixVectors,
)
from transport.tap import DeviceTap
from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from virtio.saved import U16, Length, Within, check_saved

VIRTIO_PCI_ISR_QUEUE: Final = 1
VIRTIO_PCI_ISR_CONFIG: Final = 2

MAX_VECTORS: Final = 512

Vector = U16
IsrBits = Annotated[int, Within(0, VIRTIO_PCI_ISR_QUEUE | VIRTIO_PCI_ISR_CONFIG)]


class PciInterruptsState(NamedTuple):
    """What is pending, and where the driver wants to hear of it.

    ``table`` are the entries of the MSI-X table as a driver reads them, ``pending`` the mask of
    vectors. What Command and Message Control hold is part of the configuration space.
    """

    isr: IsrBits
    config_vector: Vector
    queue_vectors: Annotated[list[Vector], Length(MAX_VECTORS)]
    table: Annotated[bytes, Length(MAX_VECTORS * PCI_MSIX_ENTRY_SIZE)]
    pending: Annotated[int, Within(0, (1 << MAX_VECTORS) - 1)]


class PciInterrupts:
    """The interrupts of one function with ``queue_count`` queues.

    ``sink`` sends messages, and ``on_bad_address`` gets vector and address of one that none takes.
    ``line`` is INTx: a level that follows the ISR bits while MSI-X is off.
    One lock guards all of it, from the event over masks to the sink, so that an event is not lost
    between a mask that falls and a vector that moves (``PCI-44``, ``PCI-56``). It is innermost.
    ``isr`` may be read without.
    """

    def __init__(
        self,
        queue_count: int,
        sink: MessageSink,
        line: InterruptLine,
        on_bad_address: Callable[[int, int], None],
    ) -> None:
        self.isr = 0
        self.used_count = 0
        self.config_count = 0
        self.config_vector = NO_VECTOR
        self.queue_vectors = [NO_VECTOR] * queue_count
        self.vectors = MsixVectors(max(2, queue_count + 1), sink, on_bad_address)
        self._line = line
        self._level = False
        self._line_disabled = False
        self._enabled = False
        self._lock = threading.Lock()

    # Events

    def used(self, queue: int) -> None:
        """Tell the driver of used buffers: by the queue's vector, or by ISR and line."""
        with self._lock:
            if not self._enabled:
                return
            if not self.vectors.enabled:
                self.used_count += 1
                self._set_isr(VIRTIO_PCI_ISR_QUEUE)
            elif self.queue_vectors[queue] != NO_VECTOR:
                self.used_count += 1
                self.vectors.signal(self.queue_vectors[queue])

    def config(self) -> None:
        """Tell the driver of a configuration change; the ISR bit comes first (``PCI-45``)."""
        with self._lock:
            if not self._enabled:
                return
            self._set_isr(VIRTIO_PCI_ISR_CONFIG)
            if not self.vectors.enabled:
                self.config_count += 1
            elif self.config_vector != NO_VECTOR:
                self.config_count += 1
                self.vectors.signal(self.config_vector)

    def enable(self) -> None:
        """Let events through, from DRIVER_OK on (``COM-02``)."""
        with self._lock:
            self._enabled = True

    def disable(self) -> None:
        """Drop all further events; the driver still sees those that are pending."""
        with self._lock:
            self._enabled = False

    def reset(self) -> None:
        """Drop what is pending and all further events, and unmap every vector (``PCI-36``).

        The table, its masks and what enables it belong to PCI, and stay.
        """
        with self._lock:
            self._enabled = False
            self.config_vector = NO_VECTOR
            self.queue_vectors = [NO_VECTOR] * len(self.queue_vectors)
            self.vectors.pending = 0
            self.isr = 0
            self._update_line()

    def forget_queue(self, queue: int) -> None:
        """Unmap the vector of a queue that was reset (``PCI-33``)."""
        self.map_queue(queue, NO_VECTOR)

    def watch(self, tap: DeviceTap | None) -> None:
        """Tell ``tap`` of each message, or nobody any more."""
        with self._lock:
            self.vectors.watch(tap)

    # What the driver does

    def read_isr(self) -> int:
        """Return the ISR bits, clear them and let the line fall (``PCI-44``)."""
        with self._lock:
            isr, self.isr = self.isr, 0
            self._update_line()
            return isr

    def map_config(self, vector: int) -> None:
        """Have configuration changes signalled by a vector; by none if there is no such one."""
        with self._lock:
            before, self.config_vector = self.config_vector, self._existing(vector)
            self._moved(before, self.config_vector)

    def map_queue(self, queue: int, vector: int) -> None:
        """Have used buffers of a queue signalled by a vector; by none if there is no such one."""
        with self._lock:
            before, self.queue_vectors[queue] = self.queue_vectors[queue], self._existing(vector)
            self._moved(before, self.queue_vectors[queue])

    def read_table(self, offset: int, length: int) -> bytes:
        """Return what the driver reads of the MSI-X table."""
        with self._lock:
            return self.vectors.read_table(offset, length)

    def write_table(self, offset: int, data: bytes) -> bool:
        """Take what the driver writes to the MSI-X table; False when it is dropped."""
        with self._lock:
            return self.vectors.write_table(offset, data)

    def read_pending(self, offset: int, length: int) -> bytes:
        """Return what the driver reads of the pending bits."""
        with self._lock:
            return self.vectors.read_pending(offset, length)

    def set_control(self, command: int, message_control: int) -> None:
        """Take the values of the Command register and of Message Control, after a write to them."""
        with self._lock:
            self._line_disabled = bool(command & PCI_COMMAND_INTX_DISABLE)
            self.vectors.set_control(
                enabled=bool(message_control & PCI_MSIX_FLAGS_ENABLE),
                function_masked=bool(message_control & PCI_MSIX_FLAGS_MASKALL),
                bus_master=bool(command & PCI_COMMAND_MASTER),
            )
            self._update_line()

    @property
    def asserts(self) -> bool:
        """Whether an interrupt waits to be seen, as bit 3 of Status tells (``PCI-46``)."""
        return bool(self.isr) and not self.vectors.enabled

    # State

    def describe(self) -> str:
        """Return what is pending, for a person to read."""
        if self.vectors.enabled:
            return f"MSI-X pending {self.vectors.pending:#x}"
        return f"ISR {self.isr:#x}"

    def state(self) -> dict[str, Any]:
        """Return what is pending, and where the driver wants to hear of it."""
        with self._lock:
            return PciInterruptsState(
                self.isr,
                self.config_vector,
                list(self.queue_vectors),
                self.vectors.table(),
                self.vectors.pending,
            )._asdict()

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned, and signal what is pending.

        Command and Message Control have been restored before. Raises :class:`ConfigurationError`
        for values that no such state has.
        """
        saved = self._checked(state)
        with self._lock:
            self.isr = saved.isr
            self.config_vector = saved.config_vector
            self.queue_vectors = list(saved.queue_vectors)
            vectors = self.vectors
            vectors.restore(saved.table, saved.pending)
            vectors.set_control(
                enabled=vectors.enabled,
                function_masked=vectors.function_masked,
                bus_master=vectors.bus_master,
            )
            self._update_line()

    def _checked(self, state: dict[str, Any]) -> PciInterruptsState:
        try:
            saved = PciInterruptsState(**state)
        except TypeError:
            raise ConfigurationError(
                f"saved interrupts: have the parts {', '.join(state)}; must be"
                f" {', '.join(PciInterruptsState._fields)}"
            ) from None
        check_saved("interrupts", saved)
        count = self.vectors.count
        mapped = {saved.config_vector, *saved.queue_vectors} - {NO_VECTOR}
        for fault, message in (
            (len(saved.queue_vectors) != len(self.queue_vectors), "another number of queues"),
            (len(saved.table) != self.vectors.table_bytes, "a table of another size"),
            (saved.pending >> count, "a pending vector that does not exist"),
            (max(mapped, default=0) >= count, "a mapped vector that does not exist"),
        ):
            if fault:
                raise ConfigurationError(
                    f"saved interrupts: there is {message}; the device has"
                    f" {len(self.queue_vectors)} queues and {count} vectors"
                )
        return saved

    # Helpers, with the lock held

    def _existing(self, vector: int) -> int:
        return vector if vector < self.vectors.count else NO_VECTOR

    def _moved(self, before: int, after: int) -> None:
        """Forget what is pending of a vector that lost its last event; not of one that moved."""
        if after == NO_VECTOR and before not in (self.config_vector, *self.queue_vectors):
            self.vectors.forget(before)

    def _set_isr(self, bit: int) -> None:
        self.isr |= bit
        self._update_line()

    def _update_line(self) -> None:
        level = self.asserts and not self._line_disabled
        if level != self._level:
            self._level = level
            if level:
                self._line.raise_()
            else:
                self._line.lower()
