"""Fuzz all engines with the same rings and requests, and compare what they made of them.

Input: 6 bytes of set-up (flags, queue size, start position, what is available), 0x400 bytes of
rings, then the content of guest memory behind them. A block device over a file serves the queue
chain by chain, with Python alone, with native code, and with handlers in Python on native rings:
guest memory, disk, positions, counts, interrupts and the error of a broken ring must be the same to
the byte.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tests.fuzz.targets.devices import EVERY_RING_FEATURE, SECTORS, Medium
from tests.fuzz.targets.ram import FuzzRam
from virtio import engine
from virtio.block import Block
from virtio.device import handlers as queue_kind
from virtio.device.lifecycle import Activation
from virtio.errors import DriverError
from virtio.testing import ManualLoop
from virtio.virtqueue.queue import Queue
from virtio.virtqueue.state import QueueLayout, QueueState
from vmm.disk.raw import RawDisk

SET_UP = struct.Struct("<BBHH")
RINGS_BYTES = 0x400
CALLS_MAX = 40
PACKED, EVENT_IDX, INDIRECT = 1 << 34, 1 << 29, 1 << 28
FLUSH, VERSION_1 = 1 << 9, 1 << 32

# What the rings are in, what adjoins it in the guest only, a hole, and memory above 4 GiB.
RAM = FuzzRam((0, 0x1000), (0x1000, 0x400), (1 << 32, 0x800))
SPLIT_LAYOUT, PACKED_LAYOUT = (0, 0x200, 0x280), (0, 0x3F0, 0x3F8)


class ChainByChain(Block):
    """A disk that tells the driver of each request before it looks at the next one."""


ChainByChain.queue_kinds = {"requestq": replace(Block.queue_kinds["requestq"], burst=1)}

DISKS = {read_only: RawDisk.scratch(SECTORS * 512) for read_only in (False, True)}


@contextmanager
def using(name: str) -> Iterator[None]:
    """Serve by one engine, one chain at a time."""
    usual, burst = engine.current(), queue_kind.NATIVE_BURST
    queue_kind.NATIVE_BURST = 1  # type: ignore[misc]
    engine.use(name)
    try:
        yield
    finally:
        queue_kind.NATIVE_BURST = burst  # type: ignore[misc]
        engine.use(usual)


def outcome(name: str, data: bytes) -> dict[str, Any]:
    """Return all that an engine did with an input."""
    flags, size_byte, start, available = SET_UP.unpack_from(data)
    features = VERSION_1 | (PACKED if flags & 1 else 0)
    features |= (EVENT_IDX if flags & 2 else 0) | (INDIRECT if flags & 4 else 0)
    features |= FLUSH if flags & 8 else 0
    size, layout = 1 << size_byte % 6, QueueLayout(1 << size_byte % 6, *SPLIT_LAYOUT)
    if flags & 1:
        size = size_byte % 63 + 1
        layout = QueueLayout(size, *PACKED_LAYOUT)
    laps = 2 * size if flags & 1 else 1 << 16
    RAM.load(data[SET_UP.size :])
    if not flags & 1:
        index = (start + available % (2 * size)) & 0xFFFF
        RAM.memory.view(layout.driver_area + 2, 2)[:] = index.to_bytes(2, "little")
    disk = DISKS[bool(flags & 16)]
    disk.read_only = False
    disk.writev([memoryview(Medium.blank)], 0)
    disk.read_only = bool(flags & 16)
    loop, interrupts = ManualLoop(), [0]
    with using(name):
        device = ChainByChain(disk, ring_features=EVERY_RING_FEATURE)
        device.negotiated(features)
        at = start % laps
        state = QueueState(0, layout, features, at, at, 0, (), None)
        queue = Queue.from_state(RAM.memory, state)
        queue.interrupt = lambda: interrupts.__setitem__(0, interrupts[0] + 1)
        device.activate(Activation(RAM.memory, features, [queue], lambda: None, loop))
        calls, error = serve(device, loop)
        counts = (queue.completed, queue.bytes_read, queue.bytes_written)
        final = queue.state()
        queue.reset()
        device.reset()
    RAM.assert_canaries()
    content = bytearray(len(Medium.blank))
    disk.readv([memoryview(content)], 0)
    return {
        "calls": calls,
        "error": error,
        "counts": counts,
        "queue": final,
        "interrupts": interrupts,
        "memory": bytes(RAM.content),
        "disk": bytes(content),
    }


def serve(device: Block, loop: ManualLoop) -> tuple[int, str]:
    """Call the device until it has nothing more to do; returns how often, and what broke it."""
    for call in range(CALLS_MAX):
        try:
            if not device.handle_queue(0) and not loop.advance():
                return call, ""
        except DriverError as error:
            return call, str(error)
    return CALLS_MAX, ""


def one_input(data: bytes) -> None:
    """Run one input."""
    if len(data) < SET_UP.size or engine.native() is None:
        return
    python = outcome("python", data)
    for name in ("native", "rings"):
        other = outcome(name, data)
        different = [part for part in python if python[part] != other[part]]
        assert not different, f"python and {name} differ in {', '.join(different)}"
