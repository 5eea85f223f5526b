"""The settings of one queue that a driver makes through registers: size, addresses, enabled or not.

VIRTIO 1.4 "Virtqueue Configuration".
"""

from collections.abc import Sequence
from typing import Final, Literal

from virtio.errors import ConfigurationError, DriverError
from virtio.memory import GuestMemory
from virtio.named_tuple import NamedTuple
from virtio.saved import U32, U64
from virtio.virtqueue.queue import Queue
from virtio.virtqueue.ring import MAX_QUEUE_SIZE
from virtio.virtqueue.state import QueueLayout, QueueState

Area = Literal["descriptor_area", "driver_area", "device_area"]

WORD: Final = 0xFFFF_FFFF


class QueueRegistersState(NamedTuple):
    """The settings as a plain value."""

    size: U32
    descriptor_area: U64
    driver_area: U64
    device_area: U64
    ready: bool


class QueueRegisters:
    """The settings of the queue at ``index``.

    ``max_size`` is QueueSizeMax, 0 while there is no such queue. ``ready`` is what QueueReady
    reads; while it is set the other settings are frozen. ``resetting`` is what QueueReset reads.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.max_size = 0
        self.set_defaults()

    def set_defaults(self) -> None:
        """Forget what the driver configured; the size starts out as the largest one."""
        self.ready = False
        self.resetting = False
        self.size = self.max_size
        self.descriptor_area = 0
        self.driver_area = 0
        self.device_area = 0

    def set_max_size(self, max_size: int) -> None:
        """Store QueueSizeMax under the features that are accepted now."""
        if self.size == self.max_size:
            self.size = max_size
        self.max_size = max_size

    def set_size(self, size: int) -> None:
        """Store QueueSize; dropped while the queue is enabled (``MMIO-11``)."""
        if not self.ready:
            self.size = size

    def set_address(self, area: Area, shift: int, word: int) -> None:
        """Store half of an area's address: the low one (``shift`` 0) or the high one (32).

        Dropped while the queue is enabled (``MMIO-10``, ``MMIO-11``).
        """
        if not self.ready:
            other_half = getattr(self, area) & WORD << (32 - shift)
            setattr(self, area, other_half | word << shift)

    def open(self, memory: GuestMemory, features: int) -> Queue:
        """Return a new queue as configured; raises :class:`DriverError` when there can be none."""
        if not 1 <= self.size <= self.max_size:
            message = f"QueueSize is {self.size}; must be 1 to {self.max_size}"
            raise DriverError("SPL-02", message, queue=self.index)
        layout = QueueLayout(self.size, self.descriptor_area, self.driver_area, self.device_area)
        return Queue(memory, layout, features, index=self.index)

    def reopen(self, memory: GuestMemory, state: QueueState) -> Queue:
        """Return a queue that goes on where its state was saved.

        Raises :class:`ConfigurationError` when there can be no such queue.
        """
        if state.layout.size > self.max_size:
            raise ConfigurationError(
                f"saved queue {self.index}: size is {state.layout.size}, must be 1 to"
                f" {self.max_size}"
            )
        try:
            return Queue.from_state(memory, state)
        except DriverError as error:  # rings or chains that are not in this memory
            # Whose views would keep it from being unmapped, as long as the error is looked at.
            from virtio.frames import clear_frames

            clear_frames(error.__traceback__)
            raise ConfigurationError(f"saved queue {self.index}: {error}") from None

    def describe(self) -> str:
        """Return size and state in a line, for a person to read."""
        state = "ready" if self.ready else "not ready"
        return f"queue {self.index}: size {self.size} of {self.max_size}, {state}"

    def state(self) -> QueueRegistersState:
        """Return the settings as a plain value."""
        return QueueRegistersState(
            self.size, self.descriptor_area, self.driver_area, self.device_area, self.ready
        )

    def restore(self, state: QueueRegistersState) -> None:
        """Restore what :meth:`state` returned."""
        self.size = state.size
        self.descriptor_area = state.descriptor_area
        self.driver_area = state.driver_area
        self.device_area = state.device_area
        self.ready = state.ready


def make_queue_registers(max_sizes: Sequence[int]) -> list[QueueRegisters]:
    """Return the registers of each queue of a device.

    Raises :class:`ConfigurationError` for a largest size that no queue can have (``MMIO-09``).
    """
    for index, max_size in enumerate(max_sizes):
        if not 1 <= max_size <= MAX_QUEUE_SIZE or max_size & (max_size - 1):
            raise ConfigurationError(
                f"queue {index}: the largest size is {max_size};"
                f" must be a power of two from 1 to {MAX_QUEUE_SIZE}"
            )
    return [QueueRegisters(index) for index in range(len(max_sizes))]
