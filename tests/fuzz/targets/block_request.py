"""Fuzz the block device with requests of any shape: what a driver may put into one chain.

Input: 5 bytes of set-up (read-only, operations of the medium that fail, features accepted, bytes
moved per step), 32 descriptors of 5 bytes (address, length, flags: 1 writable, 2 the last of its
chain), then the content of guest memory from address 0 on. After each request: it came back once,
with a legal status and length, only its writable buffers were written, and the medium is as it was
when the answer is a refusal.
"""

import struct

from tests.fuzz.targets import assert_one_line
from tests.fuzz.targets.devices import Medium, disk
from tests.fuzz.targets.ram import FuzzRam
from virtio.block import Block, transfer
from virtio.device.lifecycle import Activation
from virtio.errors import DriverError
from virtio.testing import ManualLoop
from virtio.virtqueue.queue import Queue
from virtio.virtqueue.state import QueueLayout

SET_UP = struct.Struct("<BBHB")
DESCRIPTOR = struct.Struct("<HHB")
DESCRIPTORS_MAX = 32
SCRIPT_END = SET_UP.size + DESCRIPTORS_MAX * DESCRIPTOR.size
OPERATIONS = ("readv", "writev", "flush", "discard", "write_zeroes")

# The rings stand apart from what the requests can reach.
RINGS = 1 << 32
LAYOUT = QueueLayout(DESCRIPTORS_MAX, RINGS, RINGS + 0x200, RINGS + 0x280)
RAM = FuzzRam((0, 0x1000), (RINGS, 0x400))
TABLE = RAM.offset_of(LAYOUT.descriptor_area)
AVAILABLE = RAM.offset_of(LAYOUT.driver_area)
USED = RAM.offset_of(LAYOUT.device_area)
USED_RING = (USED, USED + 4 + 8 * DESCRIPTORS_MAX + 2)

Chain = list[tuple[int, int, bool]]


class Bay:
    """A medium, and a disk made anew of it for every input: one never forgets a failed sync."""

    def __init__(self, medium: Medium) -> None:
        self.medium = medium
        self.device: Block = disk(medium)
        self.loop = ManualLoop()

    def plug_in(self, refused: int) -> None:
        """Take a new device to DRIVER_OK, with all features but those that are refused."""
        self.device.reset()
        self.loop.forget()
        self.medium.put_back()
        self.device = disk(self.medium)
        features = self.device.device_features & ~refused & ~(1 << 34) | 1 << 32
        self.device.negotiated(features)
        queue = Queue(RAM.memory, LAYOUT, features)
        queue.interrupt = lambda: None
        self.device.activate(Activation(RAM.memory, features, [queue], lambda: None, self.loop))

    def send(self, number: int, first: int, chain: Chain) -> None:
        """Send one request, the ``number``-th, and check what the device made of it."""
        expose(number, first, chain)
        before, medium_before = RAM.snapshot(), bytes(self.medium.data)
        self.device.handle_queue(0)
        self._wait_for_answer(number)
        index, length = struct.unpack_from("<II", RAM.content, USED + 4 + 8 * number)
        assert index == first, "another chain came back"
        assert length <= sum(size for _, size, writable in chain if writable)
        RAM.assert_kept(before, [USED_RING, *written(chain)])
        status = status_of(chain)
        assert status in (None, 0, 1, 2), f"status {status}"
        if status and not self.medium.faults:
            assert self.medium.data == medium_before, "refused, and done nevertheless"

    def _wait_for_answer(self, number: int) -> None:
        for _ in range(2000):
            if RAM.content[USED + 2] == number + 1:
                return
            self.loop.advance()
        raise AssertionError("the request never came back")


def expose(number: int, first: int, chain: Chain) -> None:
    """Write descriptors and make them available, as the ``number``-th chain."""
    for index, (address, length, writable) in enumerate(chain, first):
        flags = 2 * writable | (index + 1 < first + len(chain))
        entry = (address, length, flags, index + 1)
        struct.pack_into("<QIHH", RAM.content, TABLE + 16 * index, *entry)
    struct.pack_into("<H", RAM.content, AVAILABLE + 4 + 2 * number, first)
    struct.pack_into("<H", RAM.content, AVAILABLE + 2, number + 1)


def written(chain: Chain) -> list[tuple[int, int]]:
    """Return where the device may write, as offsets into the content of RAM."""
    places = [(address, size) for address, size, writable in chain if writable and size]
    return [(RAM.offset_of(at), RAM.offset_of(at) + size) for at, size in places]


def status_of(chain: Chain) -> int | None:
    """Return the last writable byte of a chain, None if there is none."""
    places = written(chain)
    return RAM.content[places[-1][1] - 1] if places else None


def chains_of(script: bytes) -> list[tuple[int, Chain]]:
    """Return the chains of a script, with the index of their first descriptor."""
    found: list[tuple[int, Chain]] = []
    chain: Chain = []
    whole = script[: len(script) // DESCRIPTOR.size * DESCRIPTOR.size]
    for index, (address, length, flags) in enumerate(DESCRIPTOR.iter_unpack(whole)):
        chain.append((address & 0xFFF, length & 0x7FF, bool(flags & 1)))
        if flags & 2:
            found.append((index + 1 - len(chain), chain))
            chain = []
    return found


BAYS = (Bay(Medium()), Bay(Medium(read_only=True)))


def one_input(data: bytes) -> None:
    """Run one input."""
    if len(data) < SET_UP.size:
        return
    options, faults, refused, step = SET_UP.unpack_from(data)
    bay = BAYS[options & 1]
    RAM.load(data[SCRIPT_END:])
    usual, transfer.STEP_BYTES = transfer.STEP_BYTES, (step + 1) * 512  # type: ignore[misc]
    try:
        bay.plug_in(refused)
        bay.medium.faults = frozenset(n for bit, n in enumerate(OPERATIONS) if faults >> bit & 1)
        for number, (first, chain) in enumerate(chains_of(data[SET_UP.size : SCRIPT_END])):
            bay.send(number, first, chain)
    except DriverError as error:
        assert_one_line(error)
    finally:
        transfer.STEP_BYTES = usual  # type: ignore[misc]
    RAM.assert_canaries()
