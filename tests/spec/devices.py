"""The devices that every general test of the specification runs over: one case for each.

A device that joins the project gets its case here, and the tests of the groups COM and MMIO cover
it. All numbers are typed from VIRTIO 1.4; none comes from the device.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.spec.fs import OneFile
from virtio.balloon import Balloon
from virtio.block import Block, BlockBackend
from virtio.console import Console, ConsolePort
from virtio.device import declaration as declarative
from virtio.device.declaration import Device, feature, queue
from virtio.entropy import Entropy
from virtio.fs import Fs
from virtio.net import Net, NoNetwork
from virtio.virtqueue.chain import DescriptorChain
from virtio.vsock import Vsock

SECTORS = 128

INDIRECT_DESC = 1 << 28
EVENT_IDX = 1 << 29
VERSION_1 = 1 << 32
RING_PACKED = 1 << 34
IN_ORDER = 1 << 35
NOTIFICATION_DATA = 1 << 38
RING_RESET = 1 << 40
DEFAULT_RING = INDIRECT_DESC | EVENT_IDX | VERSION_1 | RING_RESET
EVERY_RING = DEFAULT_RING | RING_PACKED | NOTIFICATION_DATA


class Medium(BlockBackend):
    """A disk in memory, with every ability; ``calls`` lists what was asked of it."""

    may_wait = False

    def __init__(self, *, read_only: bool = False, can_unmap: bool = True) -> None:
        self.data = bytearray(SECTORS * 512)
        self.size_bytes = len(self.data)
        self.read_only = read_only
        self.can_unmap = can_unmap
        self.calls: list[str] = []

    def readv(self, views: Sequence[memoryview], offset: int) -> None:
        self.calls.append("readv")
        for view in views:
            view[:] = self.data[offset : offset + len(view)]
            offset += len(view)

    def writev(self, views: Sequence[memoryview], offset: int) -> None:
        self.calls.append("writev")
        for view in views:
            self.data[offset : offset + len(view)] = view
            offset += len(view)

    def flush(self) -> None:
        self.calls.append("flush")

    def discard(self, offset: int, length: int) -> None:
        self.calls.append("discard")
        self.data[offset : offset + length] = bytes(length)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        self.calls.append("write_zeroes")
        self.data[offset : offset + length] = bytes(length)


class Gadget(Device):
    """A device of no type in the specification that has one of everything a device can have.

    Queue 0 echoes. Queue 1 holds its chains in ``held`` until :meth:`finish`, or until the device
    is reset. Queue 2 exists only with EXTRA, and answers with nothing.
    """

    device_id = 0x7F

    BASE = feature(0)
    EXTRA = feature(1, requires=(BASE,), when=lambda device: device.extras)
    FAR = feature(50)
    FARTHEST = feature(127)

    counter = declarative.field("u64", 0x00, default=0x0102_0304_0506_0708)
    word = declarative.field("u32", 0x08, default=0x1112_1314)
    half = declarative.field("u16", 0x0C, default=0x2122)
    byte = declarative.field("u8", 0x0E, default=0x31)
    knob = declarative.field("u8", 0x0F, default=0x41, writable=True)
    label = declarative.field("bytes", 0x10, length=6, default=b"gadget")
    # 0x16 and 0x17 are padding.
    extra = declarative.field("u32", 0x18, feature=EXTRA, default=0x5152_5354)
    dial = declarative.field("u32", 0x1C, default=0x6162_6364, writable=True)
    extra_dial = declarative.field("u16", 0x20, feature=EXTRA, default=0x7172, writable=True)
    hatch = declarative.field("u16", 0x22, default=0, writable=True, early=True)

    def __init__(self, *, extras: bool = True, ring_features: int = DEFAULT_RING) -> None:
        self.extras = extras
        self.held: list[DescriptorChain] = []
        super().__init__(ring_features=ring_features)

    @queue(size=256)
    def echoq(self, chain: DescriptorChain) -> int:
        return chain.write(chain.read(chain.readable_length))

    @queue(size=64)
    def slowq(self, chain: DescriptorChain) -> None:
        self.held.append(chain)

    @queue(size=16, feature=EXTRA)
    def extraq(self, chain: DescriptorChain) -> int:
        return 0

    def finish(self) -> None:
        """Complete what is held, as a worker would that had no idea of resets."""
        for chain in self.held:
            chain.complete(chain.write(b"done"))
        self.held = []

    def reset(self) -> None:
        self.held = []
        super().reset()


@dataclass(frozen=True)
class DeviceCase:
    """A device, and what the specification lets a driver see of it.

    ``make(ring_features=...)`` returns a new one. ``features`` is what it must offer beside the
    ring features, ``requires`` the prerequisites of bits, each a bit number with those it needs,
    ``requires_any`` those of which it needs one.
    ``queue_sizes`` has the largest sizes of all queues with all features accepted, ``plain_queues``
    how many of them there are with VERSION_1 alone.

    ``config`` is the configuration space at power-on, ``writable`` the ranges of it, (offset,
    length), that a driver may write once features are accepted, and ``early`` those that it may
    always. ``change(device)`` makes the device change its configuration, if it can.

    ``request``, contents to read and sizes to write, is what queue ``queue`` completes at once with
    ``answer`` bytes.
    """

    name: str
    make: Callable[..., Device]
    device_id: int
    queue_sizes: tuple[int, ...]
    plain_queues: int
    request: tuple[Sequence[bytes], Sequence[int]]
    answer: int
    features: frozenset[int] = frozenset()
    requires: dict[int, tuple[int, ...]] = field(default_factory=dict)
    requires_any: dict[int, tuple[int, ...]] = field(default_factory=dict)
    config: bytes = b""
    writable: tuple[tuple[int, int], ...] = ()
    early: tuple[tuple[int, int], ...] = ()
    change: Callable[[Any], None] | None = None
    queue: int = 0

    @property
    def offer(self) -> int:
        """The feature set that the device offers with ``DEFAULT_RING``."""
        return DEFAULT_RING | sum(1 << bit for bit in self.features)


BLOCK_READ = ((struct.pack("<IIQ", 0, 0, 3),), (512, 1))

BLOCK_CONFIG = struct.pack(
    "<QIIHBBIBBHIBBHIIIIIB3x",
    *(SECTORS, 0, 254, 0, 0, 0, 512),
    *(3, 0, 8, 0),
    *(1, 0, 2),
    *(1 << 22, 16, 8, 1 << 14, 1, 1),
)
BLOCK_MINIMAL_CONFIG = struct.pack("<QIIHBBIBBHI", SECTORS, 0, 254, 0, 0, 0, 512, 3, 0, 8, 0)

GADGET_CONFIG = bytes.fromhex(
    "0807060504030201 14131211 2221 31 41 676164676574 0000 54535251 64636261 7271 0000"
)
GADGET_MINIMAL_CONFIG = bytes.fromhex(
    "0807060504030201 14131211 2221 31 41 676164676574 0000 00000000 64636261 0000 0000"
)


def make_block(**options: Any) -> Block:
    return Block(Medium(), queues=2, **options)


def make_read_only_block(**options: Any) -> Block:
    return Block(Medium(read_only=True, can_unmap=False), **options)


def shrink_block(device: Block) -> None:
    device.resize(64)


def make_console(**options: Any) -> Console:
    return Console([ConsolePort(console=True), ConsolePort("agent")], max_ports=3, **options)


def resize_console(device: Console) -> None:
    device.resize(132, 43)


def make_vsock(**options: Any) -> Vsock:
    return Vsock(0x0102_0304, **options)


def move_vsock(device: Vsock) -> None:
    device.guest_cid += 1


def make_balloon(**options: Any) -> Balloon:
    balloon = Balloon(lambda address, length, *, zeroed: None, **options)
    balloon.num_pages = 0x0102_0304
    return balloon


def move_balloon(device: Balloon) -> None:
    device.num_pages += 1


def count_gadget(device: Gadget) -> None:
    device.counter += 1


NET_CONFIG = struct.pack("<6sHHHIB", b"\2\0\0\0\0\1", 0, 2, 1500, 10_000, 1)
NET_MINIMAL_CONFIG = struct.pack("<6sHHHIB", b"\2\0\0\0\0\1", 0, 0, 0, 0, 0)
CONTROLLED: dict[int, tuple[int, ...]] = dict.fromkeys((2, 18, 19, 20, 21, 22, 23), (17,))
NEED_GUEST_CSUM: dict[int, tuple[int, ...]] = dict.fromkeys((7, 8, 54, 55), (1,))
NEED_CSUM: dict[int, tuple[int, ...]] = dict.fromkeys((11, 12, 56), (0,))


def make_net(**options: Any) -> Net:
    return Net(mac=b"\2\0\0\0\0\1", mtu=1500, pairs=2, speed=10_000, **options)


def make_minimal_net(**options: Any) -> Net:
    return Net(NoNetwork(), mac=b"\2\0\0\0\0\1", offloads=False, **options)


def turn_link(device: Net) -> None:
    device.link = not device.link


def make_minimal_gadget(**options: Any) -> Gadget:
    return Gadget(extras=False, **options)


def make_fs(**options: Any) -> Fs:
    return Fs(OneFile(), "share", queues=2, **options)


FS_INIT = struct.pack("<IIQQIIIHHIIII", 56, 26, 1, 0, 0, 0, 0, 0, 0, 7, 37, 65536, 0)

CASES = (
    DeviceCase(
        "entropy",
        Entropy,
        device_id=4,
        queue_sizes=(256,),
        plain_queues=1,
        request=((), (64,)),
        answer=64,
    ),
    DeviceCase(
        "block",
        make_block,
        device_id=2,
        queue_sizes=(256, 256),
        plain_queues=1,
        request=BLOCK_READ,
        answer=513,
        features=frozenset({2, 6, 9, 10, 11, 12, 13, 14}),
        config=BLOCK_CONFIG,
        writable=((0x20, 1),),
        change=shrink_block,
    ),
    DeviceCase(
        "block-read-only",
        make_read_only_block,
        device_id=2,
        queue_sizes=(256,),
        plain_queues=1,
        request=BLOCK_READ,
        answer=513,
        features=frozenset({2, 5, 6, 9, 10}),
        config=BLOCK_MINIMAL_CONFIG,
        change=shrink_block,
    ),
    DeviceCase(
        "console",
        make_console,
        device_id=3,
        queue_sizes=(128, 128, 32, 32, 128, 128, 128, 128),
        plain_queues=2,
        request=((b"hello\n",), ()),
        answer=0,
        features=frozenset({0, 1, 2}),
        config=struct.pack("<HHII", 80, 25, 3, 0),
        early=((0x08, 4),),
        change=resize_console,
        queue=1,
    ),
    DeviceCase(
        "vsock",
        make_vsock,
        device_id=19,
        queue_sizes=(128, 128, 128),
        plain_queues=3,
        request=((struct.pack("<QQIIIHHIII", 0x0102_0304, 2, 1, 1, 0, 1, 3, 0, 0, 0),), ()),
        answer=0,
        features=frozenset({0, 1, 2}),
        config=struct.pack("<Q", 0x0102_0304),
        change=move_vsock,
        queue=1,
    ),
    DeviceCase(
        "balloon",
        make_balloon,
        device_id=5,
        queue_sizes=(128, 128, 128, 128, 128),
        plain_queues=2,
        request=((struct.pack("<II", 7, 0xFFFF_FFFF),), ()),
        answer=0,
        features=frozenset(range(6)),
        config=struct.pack("<IIII", 0x0102_0304, 0, 0, 0),
        writable=((0x04, 4), (0x0C, 4)),
        change=move_balloon,
    ),
    DeviceCase(
        "net",
        make_net,
        device_id=1,
        queue_sizes=(256, 256, 256, 256, 64),
        plain_queues=2,
        request=((bytes(12), b"\xff" * 6 + bytes(54)), ()),
        answer=0,
        features=frozenset({*range(4), 5, 7, 8, 9, 11, 12, 13, *range(15, 24), 54, 55, 56, 63}),
        requires=CONTROLLED | NEED_GUEST_CSUM | NEED_CSUM,
        requires_any={9: (7, 8), 13: (11, 12)},
        config=NET_CONFIG,
        change=turn_link,
        queue=1,
    ),
    DeviceCase(
        "net-minimal",
        make_minimal_net,
        device_id=1,
        queue_sizes=(256, 256, 64),
        plain_queues=2,
        request=((bytes(12), b"\xff" * 6 + bytes(54)), ()),
        answer=0,
        features=frozenset({5, 15, 16, 17, 18, 19, 20, 21, 23}),
        requires={bit: CONTROLLED[bit] for bit in (18, 19, 20, 21, 23)},
        config=NET_MINIMAL_CONFIG,
        change=turn_link,
        queue=1,
    ),
    DeviceCase(
        "fs",
        make_fs,
        device_id=26,
        queue_sizes=(128, 1024, 1024),
        plain_queues=3,
        request=((FS_INIT,), (16, 64)),
        answer=80,
        config=struct.pack("<36sI", b"share", 2),
        queue=1,
    ),
    DeviceCase(
        "gadget",
        Gadget,
        device_id=0x7F,
        queue_sizes=(256, 64, 16),
        plain_queues=2,
        request=((b"hello",), (8,)),
        answer=5,
        features=frozenset({0, 1, 50, 127}),
        requires={1: (0,)},
        config=GADGET_CONFIG,
        writable=((0x0F, 1), (0x1C, 4), (0x20, 2)),
        early=((0x22, 2),),
        change=count_gadget,
    ),
    DeviceCase(
        "gadget-minimal",
        make_minimal_gadget,
        device_id=0x7F,
        queue_sizes=(256, 64),
        plain_queues=2,
        request=((b"hello",), (8,)),
        answer=5,
        features=frozenset({0, 50, 127}),
        config=GADGET_MINIMAL_CONFIG,
        writable=((0x0F, 1), (0x1C, 4)),
        early=((0x22, 2),),
        change=count_gadget,
    ),
)

CHANGING = tuple(case for case in CASES if case.change)
