"""``python -m tests.perf.queues [SECONDS]``: what a virtqueue costs per chain, by both engines.

A round serves 256 chains of 64-byte segments, the split ring's heads in random order:

* ``single``: one ``pop``, one byte written through a view, one ``add_used``, and so on;
* ``many``: ``pop_many``, one byte written through a view of each chain, ``add_used_many``;
* ``batch``: ``pop_batch``, all lengths looked at, ``add_used_batch``;
* ``device``: a device that does nothing, called for each chain or for batches; one that answers
  requests of header, data and status, given as chains or as frames; and the entropy device with
  4 KiB to fill.

All cases take turns, ``python`` those of plain Python and ``native`` those of the native engine,
where it was built. A figure is the best of all rounds in nanoseconds of processor time, with its
ratio to a loop of ``struct.unpack_from`` and one ``dict`` insertion and removal, measured in the
same turns. Nothing is asserted.
"""

import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from virtio import (
    ChainBatch,
    DescriptorChain,
    Device,
    Entropy,
    Queue,
    QueueLayout,
    Request,
    engine,
    queue,
)
from virtio.testing import Bench, Segment, flat_memory

CHAINS = 256
HEADER = struct.Struct("<IIQ")
ROUNDS_A_TURN = 3
SEGMENT_BYTES = 64
SECONDS = 60.0
INDIRECT_DESC, RING_PACKED, VERSION_1 = 1 << 28, 1 << 34, 1 << 32
NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15
TABLE_AT, AVAIL_AT, USED_AT, TABLES_AT, DATA_AT = 0x0, 0x40000, 0x50000, 0x60000, 0x100000


@dataclass(frozen=True)
class Shape:
    """What every chain of a case looks like: segments to read, segments to write."""

    name: str
    readable: int
    writable: int
    indirect: bool = False

    def segments(self, chain: int) -> list[tuple[int, int, int]]:
        """Return address, length and flags, NEXT where it belongs, of each segment."""
        count = self.readable + self.writable
        return [
            (
                DATA_AT + (chain * count + i) * SEGMENT_BYTES,
                SEGMENT_BYTES,
                (WRITE if i >= self.readable else 0) | (NEXT if i < count - 1 else 0),
            )
            for i in range(count)
        ]


SHAPES = (
    Shape("1", 0, 1),
    Shape("3", 1, 2),
    Shape("16", 4, 12),
    Shape("16 indirect", 4, 12, indirect=True),
)


class Ring:
    """A driver that makes the same 256 chains available again and again, at no cost in between."""

    def __init__(self, shape: Shape, *, packed: bool) -> None:
        self.memory = flat_memory((0, 4 << 20))
        self.packed = packed
        self.rounds = 0
        chains = [self.direct(shape, chain) for chain in range(CHAINS)]
        entries = sum(map(len, chains))
        self.size = entries if packed else 1 << (entries - 1).bit_length()
        (self._make_packed if packed else self._make_split)(chains)
        layout = QueueLayout(self.size, TABLE_AT, AVAIL_AT, USED_AT)
        features = INDIRECT_DESC | (RING_PACKED if packed else 0)
        self.queue = Queue(self.memory, layout, features)

    def direct(self, shape: Shape, chain: int) -> list[tuple[int, int, int]]:
        """Return what of a chain is in the ring: its segments, or one pointer to their table."""
        segments = shape.segments(chain)
        if not shape.indirect:
            return segments
        at, length = TABLES_AT + chain * 16 * len(segments), 16 * len(segments)
        table = [self.pack(i, *segment, i + 1) for i, segment in enumerate(segments)]
        self.memory.view(at, length)[:] = b"".join(table)
        return [(at, length, INDIRECT)]

    def pack(self, chain: int, address: int, length: int, flags: int, following: int) -> bytes:
        """Return a descriptor in the form of the ring."""
        tail = (chain, flags) if self.packed else (flags, following)
        return struct.pack("<QIHH", address, length, *tail)

    def _make_split(self, chains: Sequence[Sequence[tuple[int, int, int]]]) -> None:
        descriptors: list[bytes] = []
        heads = []
        for chain in chains:
            heads.append(len(descriptors))
            for segment in chain:
                descriptors.append(self.pack(0, *segment, len(descriptors) + 1))
        table = b"".join(descriptors)
        self.memory.view(TABLE_AT, len(table))[:] = table
        Random(1).shuffle(heads)
        self.avail = self.memory.view(AVAIL_AT, 4 + 2 * self.size).cast("H")
        for slot in range(self.size):
            self.avail[2 + slot] = heads[slot % CHAINS]

    def _make_packed(self, chains: Sequence[Sequence[tuple[int, int, int]]]) -> None:
        self.ring = self.memory.view(TABLE_AT, 16 * self.size)
        self.laps = [
            b"".join(
                self.pack(number, address, length, flags | available, 0)
                for number, chain in enumerate(chains)
                for address, length, flags in chain
            )
            for available in (AVAIL, USED)
        ]

    def refill(self) -> None:
        """Make all chains available."""
        if self.packed:
            self.ring[:] = self.laps[self.rounds % 2]
        self.rounds += 1
        if not self.packed:
            self.avail[1] = self.rounds * CHAINS & 0xFFFF


def single(queue: Queue) -> None:
    """Serve one chain after the other."""
    while (chain := queue.pop()) is not None:
        touch(chain)
        queue.add_used(chain, chain.writable_length)


def many(queue: Queue) -> None:
    """Serve lists of chains."""
    chains = queue.pop_many(CHAINS)
    for chain in chains:
        touch(chain)
    queue.add_used_many([(chain, chain.writable_length) for chain in chains])


def batch(queue: Queue) -> None:
    """Serve batches."""
    while chains := queue.pop_batch(CHAINS):
        queue.add_used_batch(chains, chains.writable_lengths)


def touch(chain: DescriptorChain) -> None:
    chain.writable[0][0] = 1


def reference() -> None:
    """The yardstick: a structure copied, an entry of a ``dict`` made and removed."""
    table, copy = bytes(16 * CHAINS), struct.Struct("<QIHH").unpack_from
    entries = {}
    for at in range(CHAINS):
        entries[at] = copy(table, 16 * at)
    for at in range(CHAINS):
        del entries[at]


class NullEach(Device):
    """Answers each chain with nothing."""

    device_id = 42

    @queue(size=CHAINS)
    def nullq(self, chain: DescriptorChain) -> int:
        return 0


class NullBatch(Device):
    """Answers each batch with nothing."""

    device_id = 42

    @queue(size=CHAINS, batch=True)
    def nullq(self, chains: ChainBatch) -> list[int]:
        return [0] * len(chains)


class RequestChains(Device):
    """Takes requests apart by itself: looks at header and data, stores a status."""

    device_id = 42

    @queue(size=4 * CHAINS)
    def requestq(self, chain: DescriptorChain) -> int:
        status, header, data = chain.split_status(), chain.unpack(HEADER), chain.writable
        if status is None or header is None or not data:
            return 0
        status[0] = 0
        return chain.room


class RequestFrames(Device):
    """Does the same with frames."""

    device_id = 42

    @queue(size=4 * CHAINS, header=HEADER)
    def requestq(self, request: Request) -> int:
        if request.header is None or not request.data_in:
            return 0
        return request.finish(0, request.data_in_bytes)


@dataclass
class Case:
    """Something to measure; ``prepare`` is not part of it."""

    name: str
    prepare: Callable[[], object]
    work: Callable[[], object]
    best: float = float("inf")

    def run(self) -> None:
        """Take a turn: some rounds, as the first one finds the caches cold."""
        for _ in range(ROUNDS_A_TURN):
            self.prepare()
            started = time.thread_time_ns()
            self.work()
            self.best = min(self.best, time.thread_time_ns() - started)


def queue_cases() -> list[Case]:
    """Return every form, shape and way to serve."""
    cases = []
    for packed in (False, True):
        for shape in SHAPES:
            for serve in (single, many, batch):
                ring = Ring(shape, packed=packed)
                name = f"{'packed' if packed else 'split':7} {shape.name:12} {serve.__name__}"
                cases.append(Case(name, ring.refill, partial(serve, ring.queue)))
    return cases


def device_cases() -> list[Case]:
    """Return the devices on split rings, in bursts of the default length."""
    request = [(16, False), (512, True), (1, True)]
    return [
        device_case("null, each", NullEach(), [(64, True)]),
        device_case("null, batch", NullBatch(), [(64, True)]),
        device_case("requests, chains", RequestChains(), request),
        device_case("requests, frames", RequestFrames(), request),
        device_case("entropy, 4 KiB", Entropy(), [(4096, True)]),
    ]


def device_case(name: str, device: Device, parts: Sequence[tuple[int, bool]]) -> Case:
    """Return a device whose driver sends 256 chains each round.

    ``parts`` are the segments of each: their bytes, and whether the device may write them.
    """
    bench = Bench(device, VERSION_1, queue_size=4 * CHAINS, memory_bytes=4 << 20)
    [driver] = bench.drivers

    def prepare() -> None:
        driver.collect()
        for number in range(CHAINS):
            driver.add_segments(
                [
                    Segment(0x200000 + 4096 * number + 1024 * at, length, writable)
                    for at, (length, writable) in enumerate(parts)
                ]
            )

    return Case(f"device  {name}", prepare, bench.serve)


def main(seconds: float) -> None:
    """Measure and print."""
    yardstick = Case("reference", lambda: None, reference)
    cases = [yardstick]
    for name in ("python", "native") if engine.current() != "python" else ("python",):
        engine.use(name)
        for case in (*queue_cases(), *device_cases()):
            case.name = f"{name:7} {case.name}"
            cases.append(case)
    end = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < end or rounds < 3:
        for case in cases:
            case.run()
        rounds += 1
    print(f"Python {sys.version.split()[0]}, {rounds} turns of {CHAINS} chains\n")
    print(f"{'':36}{'ns per chain':>13}{'ratio':>8}")
    for case in cases:
        print(f"{case.name:36}{case.best / CHAINS:13.0f}{case.best / yardstick.best:8.2f}")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
