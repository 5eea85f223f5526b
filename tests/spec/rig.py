"""A device on its virtio-mmio transport, with a driver for the registers and one for each queue.

Also the two forms of a virtqueue, for tests that hold for both.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from transport import VirtioMmio, VirtioTransport
from transport.testing import MmioDriver, RecordingLine
from virtio.device.lifecycle import VirtioDevice
from virtio.memory import FlatMemory, GuestMemory
from virtio.testing import ManualLoop, PackedDriver, QueueDriver, SplitDriver, Used, flat_memory
from virtio.virtqueue.queue import Queue
from virtio.virtqueue.state import QueueLayout

VERSION_1 = 1 << 32
EVENT_IDX = 1 << 29
INDIRECT_DESC = 1 << 28
RING_SHARE_BYTES = 1 << 18


@dataclass(frozen=True)
class Form:
    """One of the two forms of a virtqueue; ``features`` is what negotiates it."""

    name: str
    features: int
    driver_class: type[SplitDriver] | type[PackedDriver]

    def ring(
        self, memory: GuestMemory, size: int = 8, features: int = 0, *, base: int = 0x1000
    ) -> QueueDriver:
        """Return the driver's side of a queue of this form, its rings and buffers from ``base``."""
        return self.driver_class(
            memory,
            size,
            base=base,
            event_idx=bool(features & EVENT_IDX),
            indirect=bool(features & INDIRECT_DESC),
        )

    def pair(
        self, memory: GuestMemory, size: int = 8, features: int = 0, *, base: int = 0x1000
    ) -> tuple[QueueDriver, Queue]:
        """Return both sides of a queue of this form, with no transport in between."""
        driver = self.ring(memory, size, features, base=base)
        return driver, Queue(memory, QueueLayout(*driver.layout), self.features | features)


SPLIT = Form("split", VERSION_1, SplitDriver)
PACKED = Form("packed", VERSION_1 | 1 << 34, PackedDriver)


class Rig:
    """A device behind its registers.

    ``driver`` has the registers, ``rings`` the driver's side of the queues by index, ``line`` the
    interrupt line, ``loop`` the machine's event loop, which moves only when told to.
    """

    def __init__(self, device: VirtioDevice, memory: FlatMemory | None = None) -> None:
        self.device = device
        self.memory = memory or flat_memory((0, 4 << 20))
        self.line = RecordingLine()
        self.loop = ManualLoop()
        self.rings: dict[int, QueueDriver] = {}
        self.plug_in()

    def plug_in(self) -> None:
        """Put the device on its transport."""
        transport = VirtioMmio(self.device, self.memory, self.line, self.loop, name="rig")
        self.transport: VirtioTransport = transport
        self.driver = MmioDriver(transport)

    def negotiate(self, features: int = 0, form: Form = SPLIT) -> None:
        """Reset, and accept ``features`` beside those of the form; fails when refused."""
        accepted = features | form.features
        assert self.driver.negotiate(accepted), f"the device refuses features {accepted:#x}"

    def reach(self, status: int, features: int = 0) -> None:
        """Reset, and go as far as ``status``; no queue is enabled on the way."""
        self.driver.status = 0
        for step in (0x01, 0x03, 0x0B, 0x0F):
            if step <= status:
                self.driver.accept_features(VERSION_1 | features)
                self.driver.status = step
        assert self.driver.status == status, f"status {status:#x} cannot be reached"

    def add_ring(
        self, index: int, features: int = 0, form: Form = SPLIT, size: int = 8
    ) -> QueueDriver:
        """Make the driver's side of a queue, zeroed, with its own part of memory."""
        base = self.memory.regions[0][0] + (index + 1) * RING_SHARE_BYTES
        self.memory.view(base, RING_SHARE_BYTES)[:] = bytes(RING_SHARE_BYTES)
        ring = self.rings[index] = form.ring(self.memory, size, features, base=base)
        return ring

    def ring_at(self, base: int) -> QueueDriver:
        """Return the driver's side of a split queue of 8 somewhere in memory; it joins no list."""
        return SPLIT.ring(self.memory, 8, base=base)

    def add_queue(
        self, index: int, features: int = 0, form: Form = SPLIT, size: int = 8
    ) -> QueueDriver:
        """Make a queue's driver side, and enable the queue; fails when refused."""
        ring = self.add_ring(index, features, form, size)
        assert self.driver.set_up_queue(index, *ring.layout), f"the device refuses queue {index}"
        return ring

    def prepare(self, features: int = 0, form: Form = SPLIT, size: int = 8) -> None:
        """Negotiate, and enable every queue that exists then; DRIVER_OK is not set."""
        self.negotiate(features, form)
        self.rings.clear()
        for index in self.present_queues():
            self.add_queue(index, features, form, size)

    def start(self, features: int = 0, form: Form = SPLIT, size: int = 8) -> None:
        """Take the device all the way to DRIVER_OK."""
        self.prepare(features, form, size)
        self.driver.go_live()
        self.transport.service()

    def present_queues(self) -> list[int]:
        """Return the indices below 8 whose QueueSizeMax is not 0."""
        present = []
        for index in range(8):
            self.driver.write(0x30, index)
            if self.driver.read(0x34):
                present.append(index)
        return present

    def config_image(self, length: int, offset: int = 0) -> bytes:
        """Return configuration space, read byte by byte."""
        return b"".join(self.read_config(offset + i, 1) for i in range(length))

    def read_config(self, offset: int, length: int) -> bytes:
        """Return bytes of configuration space, read at once."""
        return self.driver.transport.read(0x100 + offset, length)

    def write_config(self, offset: int, data: bytes) -> None:
        """Write configuration space at once."""
        self.driver.transport.write(0x100 + offset, data)

    def poke_config(self, offset: int, data: bytes) -> None:
        """Write configuration space, byte by byte."""
        for i in range(len(data)):
            self.write_config(offset + i, data[i : i + 1])

    def registers(self) -> list[int]:
        """Return all that a driver can read of the device, configuration space left out.

        The selectors are put to each value in turn, and are 0 afterwards.
        """
        read, write = self.driver.read, self.driver.write
        values = [read(offset) for offset in (0x00, 0x04, 0x08, 0x0C, 0x60, 0x70, 0xFC)]
        for word in (4, 3, 2, 1, 0):
            write(0x14, word)
            values.append(read(0x10))
        for index in (7, 6, 5, 4, 3, 2, 1, 0):
            write(0x30, index)
            values += [read(0x34), read(0x44), read(0xC0)]
        return values

    def add(self, index: int, request: tuple[Sequence[bytes], Sequence[int]]) -> int:
        """Make a request available and kick; nothing is served yet. Returns its token."""
        token = self.rings[index].add(*request)
        self.driver.notify(index)
        return token

    def kick(self, index: int) -> None:
        """Notify in both ways: through the register, and as KVM does, through the eventfd."""
        self.driver.notify(index)
        os.eventfd_write(self.transport.notify_fds[index], 1)

    def serve(self) -> None:
        """Let the device handle all notifications."""
        self.transport.service()

    def request(self, index: int, request: tuple[Sequence[bytes], Sequence[int]]) -> Used:
        """Send one chain and serve; it must be the only one that comes back."""
        self.add(index, request)
        self.serve()
        [used] = self.rings[index].collect()
        return used

    def close(self) -> None:
        self.transport.close()
