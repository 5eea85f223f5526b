"""The virtio-pci transport: the structures behind BAR 0 of a function, over the common core.

VIRTIO 1.4 "Common configuration structure layout", "Notification structure layout", "ISR status
capability".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from transport.core import VirtioTransport
from transport.line import InterruptLine
from transport.pci import layout
from transport.pci.generation import NarrowGeneration
from transport.pci.interrupts import PciInterrupts
from transport.pci.message import MessageSink
from transport.pci.msix import NO_VECTOR
from transport.queue_registers import Area, QueueRegisters
from transport.status import VIRTIO_CONFIG_S_DRIVER_OK
from transport.tap import DeviceTap
from virtio.device.lifecycle import EventLoop, VirtioDevice
from virtio.errors import ConfigurationError
from virtio.features import VIRTIO_F_RING_PACKED, mask
from virtio.memory import GuestMemory

Read = Callable[[], int]
Write = Callable[[int], None]

CONFIG_WIDTHS: Final = (1, 2, 4, 8)
NOTIFY_WIDTHS: Final = (2, 4)
ISR_WIDTHS: Final = (1, 2, 4)
NO_BUS_MASTER: Final = (
    "the driver notifies a device that may not reach memory: it forgot to set the bus master bit of"
    " the Command register"
)
WORD: Final = 0xFFFF_FFFF
LOW: Final = 0
HIGH: Final = 32


class VirtioPci(VirtioTransport):
    """One virtio device behind the ``layout.BAR_BYTES`` of its function's BAR 0.

    ``read`` and ``write`` take accesses at byte offsets into the BAR from the threads of the
    virtual CPUs, any number at once. An access that the specification does not provide for reads 0
    or is dropped (``PCI-23``). ``sink`` sends the messages of MSI-X, ``line`` is INTx. Raises
    :class:`ConfigurationError` for a device with more queues than there is room for.
    """

    def __init__(
        self,
        device: VirtioDevice,
        memory: GuestMemory,
        sink: MessageSink,
        line: InterruptLine,
        loop: EventLoop,
        *,
        name: str = "",
        poll_us: int = 0,
    ) -> None:
        queues = len(device.queue_max_sizes)
        if queues > layout.MAX_QUEUES:
            raise ConfigurationError(
                f"{name or type(device).__name__}: has {queues} queues; on PCI a device has at"
                f" most {layout.MAX_QUEUES}"
            )
        self.msix = PciInterrupts(queues, sink, line, self._drop_message)
        super().__init__(device, memory, self.msix, loop, name=name, poll_us=poll_us)
        self.generation = NarrowGeneration()
        self._sink = sink
        self._readable: dict[tuple[int, int], Read] = {}
        self._writable: dict[tuple[int, int], Write] = {}
        self._lay_out()
        self.pause(paused=True)  # until the driver makes the function a bus master

    def _lay_out(self) -> None:
        readable, writable, negotiation = self._readable, self._writable, self.negotiation

        def field(offset: int, width: int, read: Read, write: Write | None = None) -> None:
            readable[offset, width] = read
            if write is not None:
                writable[offset, width] = write

        def setting(offset: int, width: int, read: Read, write: Write) -> None:
            field(offset, width, read, partial(self._store, write))

        setting(0x00, 4, lambda: negotiation.device_select, negotiation.select_device_word)
        field(0x04, 4, negotiation.read_offered)
        setting(0x08, 4, lambda: negotiation.driver_select, negotiation.select_driver_word)
        setting(0x0C, 4, negotiation.read_accepted, negotiation.accept)
        field(0x10, 2, lambda: self.msix.config_vector, self.msix.map_config)
        field(0x12, 2, lambda: len(self.queue_registers))
        field(0x14, 1, lambda: self.status, self.write_status)
        field(0x15, 1, self._read_generation)
        setting(0x16, 2, lambda: self.queue_select, self._select_queue)
        setting(0x18, 2, self._of_queue(lambda queue: queue.size), self._write_size)
        field(0x1A, 2, self._read_vector, self._write_vector)
        field(0x1C, 2, self._of_queue(lambda queue: int(queue.ready)), self._write_enable)
        field(0x1E, 2, self._of_queue(lambda queue: queue.index))
        self._lay_out_area(0x20, "descriptor_area")
        self._lay_out_area(0x28, "driver_area")
        self._lay_out_area(0x30, "device_area")
        field(0x38, 2, lambda: 0)  # queue_notif_config_data: bit 39 is not offered
        field(0x3A, 2, self._of_queue(lambda queue: int(queue.resetting)), self._write_reset)
        field(0x3C, 2, lambda: 0)  # admin_queue_index and admin_queue_num: bit 41 is not offered
        field(0x3E, 2, lambda: 0)

    def _lay_out_area(self, offset: int, area: Area) -> None:
        read = self._of_queue(lambda queue: int(getattr(queue, area)))
        self._readable |= {
            (offset, 4): lambda: read() & WORD,
            (offset + 4, 4): lambda: read() >> HIGH,
            (offset, 8): read,
        }
        self._writable |= {
            (offset, 4): partial(self._store, partial(self._write_half, area, LOW)),
            (offset + 4, 4): partial(self._store, partial(self._write_half, area, HIGH)),
            (offset, 8): partial(self._store, partial(self._write_address, area)),
        }

    def close(self) -> None:
        """Stop the device for good, and let go of its vectors; harmless when repeated."""
        super().close()
        self._sink.close()

    def _watch_messages(self, tap: DeviceTap | None) -> None:
        self.msix.watch(tap)

    # Accesses

    def read(self, offset: int, length: int) -> bytes:
        """Return the ``length`` bytes that the guest reads at ``offset``."""
        if offset < layout.COMMON_BYTES:
            register = self._readable.get((offset, length))
            if register is not None:
                return register().to_bytes(length, "little")
        elif offset == layout.ISR:
            if length in ISR_WIDTHS:  # wider than the structure, but some driver may do it
                return self.msix.read_isr().to_bytes(length, "little")
        elif layout.DEVICE <= offset < layout.DEVICE + layout.DEVICE_BYTES:
            if length in CONFIG_WIDTHS:
                return self._read_device(offset - layout.DEVICE, length)
        elif layout.TABLE <= offset < layout.PENDING:
            return self.msix.read_table(offset - layout.TABLE, length)
        elif offset >= layout.PENDING:
            return self.msix.read_pending(offset - layout.PENDING, length)
        self.report.dropped("read of %d bytes at %#x", length, offset)
        return bytes(length)

    def write(self, offset: int, data: bytes) -> None:
        """Take the bytes that the guest writes at ``offset``; returns when they took effect."""
        if not self._write(offset, data):
            self.report.dropped("write of %d bytes at %#x", len(data), offset)

    def _write(self, offset: int, data: bytes) -> bool:
        if offset < layout.COMMON_BYTES:
            register = self._writable.get((offset, len(data)))
            if register is None:
                return False
            register(int.from_bytes(data, "little"))
        elif layout.DEVICE <= offset < layout.DEVICE + layout.DEVICE_BYTES:
            if len(data) not in CONFIG_WIDTHS:
                return False
            self.write_config(offset - layout.DEVICE, data)
        elif layout.NOTIFY <= offset < layout.TABLE:
            return self._write_notify(offset - layout.NOTIFY, len(data))
        elif layout.TABLE <= offset < layout.PENDING:
            return self.msix.write_table(offset - layout.TABLE, data)
        else:
            return False
        return True

    def in_structure(self, offset: int, length: int) -> bool:
        """Whether an access lies in one of the structures that capabilities tell of."""
        return any(
            start <= offset and offset + length <= start + size
            for start, size in (
                (layout.COMMON, layout.COMMON_BYTES),
                (layout.ISR, 1),
                (layout.DEVICE, layout.DEVICE_BYTES),
                (layout.NOTIFY, layout.NOTIFY_MULTIPLIER * len(self.queue_registers)),
            )
        )

    def notify_offset(self, index: int) -> int:
        """Return where behind the BAR a queue is notified."""
        return layout.NOTIFY + layout.NOTIFY_MULTIPLIER * index

    # Registers

    def _store(self, setting: Write, value: int) -> None:
        with self._registers:
            setting(value)

    def _of_queue(self, read: Callable[[QueueRegisters], int]) -> Read:
        def read_selected() -> int:
            queue = self.selected_queue
            return 0 if queue is None else read(queue)

        return read_selected

    def _read_generation(self) -> int:
        with self.device.config_lock:
            return self.generation.look(self.device.config_generation)

    def _read_device(self, offset: int, length: int) -> bytes:
        # Noted before it is read: a change in between then costs a step more, not one too few.
        with self.device.config_lock:
            self.generation.reads(self.device.config_generation)
        return self.read_config(offset, length)

    def _select_queue(self, value: int) -> None:
        self.queue_select = value

    def _write_size(self, value: int) -> None:
        queue = self.selected_queue
        packed = self.features & mask(VIRTIO_F_RING_PACKED)
        possible = queue is not None and 1 <= value <= queue.max_size
        if queue is not None and possible and (packed or not value & (value - 1)):
            queue.set_size(value)
        else:
            self.report.dropped("queue_size = %d on queue %d", value, self.queue_select)

    def _write_half(self, area: Area, shift: int, value: int) -> None:
        queue = self.selected_queue
        if queue is not None:
            queue.set_address(area, shift, value)

    def _write_address(self, area: Area, value: int) -> None:
        self._write_half(area, LOW, value & WORD)
        self._write_half(area, HIGH, value >> HIGH)

    def _read_vector(self) -> int:
        queue = self.selected_queue
        return NO_VECTOR if queue is None else self.msix.queue_vectors[queue.index]

    def _write_vector(self, value: int) -> None:
        queue = self.selected_queue
        if queue is not None:
            self.msix.map_queue(queue.index, value)

    def _write_enable(self, value: int) -> None:
        queue = self.selected_queue
        if queue is None or value != 1:
            self.report.dropped("queue_enable = %#x on queue %d", value, self.queue_select)
        else:
            self.enable_queue(queue)

    def _write_reset(self, value: int) -> None:
        queue = self.selected_queue
        if queue is None or value != 1:
            self.report.dropped("queue_reset = %#x on queue %d", value, self.queue_select)
        else:
            self.reset_queue(queue)

    def _write_notify(self, offset: int, width: int) -> bool:
        # The address names the queue. What is written, its index and with NOTIFICATION_DATA a ring
        # position, is a hint, and the rings themselves are read anyway (``PCI-40``).
        if width not in NOTIFY_WIDTHS or offset % layout.NOTIFY_MULTIPLIER:
            return False
        if self.paused and self.status & VIRTIO_CONFIG_S_DRIVER_OK:
            self.report.warn_once(NO_BUS_MASTER)
        self.notify(offset // layout.NOTIFY_MULTIPLIER)
        return True

    def _drop_message(self, vector: int, address: int) -> None:
        self.report.dropped("message of vector %d to %#x, which takes none", vector, address)
