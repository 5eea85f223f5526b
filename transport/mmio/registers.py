"""The virtio-mmio transport, version 2: a window of registers in guest-physical memory.

VIRTIO 1.4 "MMIO Device Register Layout".
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from transport.core import VirtioTransport
from transport.line import InterruptLine
from transport.mmio.interrupt import MmioInterrupt
from transport.queue_registers import Area
from virtio.device.lifecycle import EventLoop, VirtioDevice
from virtio.features import VIRTIO_F_NOTIFICATION_DATA, mask
from virtio.memory import GuestMemory

MAGIC: Final = 0x7472_6976
VERSION: Final = 2
VENDOR: Final = 0x4D4D_5650
NO_SHARED_MEMORY: Final = 0xFFFF_FFFF

CONFIG: Final = 0x100
CONFIG_WIDTHS: Final = (1, 2, 4, 8)
REGISTER_WIDTH: Final = 4

LOW: Final = 0
HIGH: Final = 32


class VirtioMmio(VirtioTransport):
    """One virtio device behind a window of ``WINDOW_SIZE`` bytes.

    ``read`` and ``write`` take accesses at byte offsets into the window from the threads of the
    virtual CPUs, any number at once. An access that the specification does not provide for reads 0
    or is dropped.
    """

    WINDOW_SIZE: Final = 0x1000
    QUEUE_NOTIFY: Final = 0x050

    def __init__(
        self,
        device: VirtioDevice,
        memory: GuestMemory,
        line: InterruptLine,
        loop: EventLoop,
        *,
        name: str = "",
        poll_us: int = 0,
    ) -> None:
        interrupt = MmioInterrupt(line)
        super().__init__(device, memory, interrupt, loop, name=name, poll_us=poll_us)
        self._readable: dict[int, Callable[[], int]] = {
            0x000: lambda: MAGIC,
            0x004: lambda: VERSION,
            0x008: lambda: self.device.device_id,
            0x00C: lambda: VENDOR,
            0x010: self.negotiation.read_offered,
            0x034: self._read_queue_size_max,
            0x044: self._read_queue_ready,
            0x060: lambda: interrupt.status,
            0x070: lambda: self.status,
            0x0B0: lambda: NO_SHARED_MEMORY,
            0x0B4: lambda: NO_SHARED_MEMORY,
            0x0B8: lambda: NO_SHARED_MEMORY,
            0x0BC: lambda: NO_SHARED_MEMORY,
            0x0C0: self._read_queue_reset,
            0x0FC: self.read_config_generation,
        }
        settings: dict[int, Callable[[int], None]] = {
            0x014: self.negotiation.select_device_word,
            0x020: self.negotiation.accept,
            0x024: self.negotiation.select_driver_word,
            0x030: self._write_queue_select,
            0x038: self._write_queue_size,
            0x080: partial(self._write_queue_address, "descriptor_area", LOW),
            0x084: partial(self._write_queue_address, "descriptor_area", HIGH),
            0x090: partial(self._write_queue_address, "driver_area", LOW),
            0x094: partial(self._write_queue_address, "driver_area", HIGH),
            0x0A0: partial(self._write_queue_address, "device_area", LOW),
            0x0A4: partial(self._write_queue_address, "device_area", HIGH),
            0x0AC: self._write_shared_memory_select,
        }
        self._writable: dict[int, Callable[[int], None]] = {
            offset: partial(self._store, setting) for offset, setting in settings.items()
        }
        # Commands take the locks that they need by themselves.
        self._writable |= {
            0x044: self._write_queue_ready,
            self.QUEUE_NOTIFY: self._write_queue_notify,
            0x064: interrupt.acknowledge,
            0x070: self.write_status,
            0x0C0: self._write_queue_reset,
        }

    def read(self, offset: int, length: int) -> bytes:
        """Return the ``length`` bytes that the guest reads at ``offset``."""
        if offset >= CONFIG:
            if length in CONFIG_WIDTHS:
                return self.read_config(offset - CONFIG, length)
        elif length == REGISTER_WIDTH:
            register = self._readable.get(offset)
            if register is not None:
                return register().to_bytes(4, "little")
        self.report.dropped("read of %d bytes at %#x", length, offset)
        return bytes(length)

    def write(self, offset: int, data: bytes) -> None:
        """Take the bytes that the guest writes at ``offset``; returns when they took effect."""
        if offset >= CONFIG:
            if len(data) in CONFIG_WIDTHS:
                self.write_config(offset - CONFIG, data)
                return
        elif len(data) == REGISTER_WIDTH:
            register = self._writable.get(offset)
            if register is not None:
                register(int.from_bytes(data, "little"))
                return
        self.report.dropped("write of %d bytes at %#x", len(data), offset)

    def _store(self, setting: Callable[[int], None], value: int) -> None:
        with self._registers:
            setting(value)

    def _read_queue_size_max(self) -> int:
        queue = self.selected_queue
        return 0 if queue is None else queue.max_size

    def _read_queue_ready(self) -> int:
        queue = self.selected_queue
        return 0 if queue is None else int(queue.ready)

    def _read_queue_reset(self) -> int:
        queue = self.selected_queue
        return 0 if queue is None else int(queue.resetting)

    def _write_queue_select(self, value: int) -> None:
        self.queue_select = value

    def _write_queue_size(self, value: int) -> None:
        queue = self.selected_queue
        if queue is not None:
            queue.set_size(value)

    def _write_queue_address(self, area: Area, shift: int, value: int) -> None:
        queue = self.selected_queue
        if queue is not None:
            queue.set_address(area, shift, value)

    def _write_shared_memory_select(self, value: int) -> None:
        """Ignore the choice of a shared memory region: there are none (``MMIO-38``)."""

    def _write_queue_ready(self, value: int) -> None:
        queue = self.selected_queue
        if queue is None or value > 1:
            self.report.dropped("QueueReady = %#x on queue %d", value, self.queue_select)
        elif value:
            self.enable_queue(queue)
        else:
            self.disable_queue(queue)

    def _write_queue_reset(self, value: int) -> None:
        queue = self.selected_queue
        if queue is None or value != 1:
            self.report.dropped("QueueReset = %#x on queue %d", value, self.queue_select)
        else:
            self.reset_queue(queue)

    def _write_queue_notify(self, value: int) -> None:
        # The ring position in the upper half is a hint, and the rings themselves are read anyway.
        has_position = self.features & mask(VIRTIO_F_NOTIFICATION_DATA)
        self.notify(value & 0xFFFF if has_position else value)
