"""The block device against a byte array: random requests, with a medium that fails at times."""

import errno
import pickle
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.fuzz.machines import machine_settings
from virtio.block import Block, BlockBackend, transfer
from virtio.testing import Bench, QueueFull, Used

SECTORS = 24
IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
FLUSH_BIT, WCE_BIT, DISCARD_BIT, ZEROES_BIT = 1 << 9, 1 << 11, 1 << 13, 1 << 14
VERSION_1, RING_PACKED = 1 << 32, 1 << 34
RINGS = 1 << 28 | 1 << 29
SERIAL = "a-fuzzed-disk"
POISON = b"\xa5"

sectors = st.integers(0, SECTORS + 2) | st.integers(0, (1 << 64) - 1)
counts = st.integers(0, 6)
cuts = st.lists(st.integers(0, 700), max_size=4)


class Medium(BlockBackend):
    """A backend in memory with a volatile cache: ``stable`` is what a power cut would leave."""

    may_wait = False
    size_bytes = SECTORS * 512
    can_unmap = True

    def __init__(self, *, read_only: bool) -> None:
        self.read_only = read_only
        self.data = bytearray(i // 512 + 1 for i in range(self.size_bytes))
        self.stable = bytes(self.data)
        self.broken: frozenset[str] = frozenset()

    def readv(self, views: Sequence[memoryview], offset: int) -> None:
        """Fill the views."""
        self._check("readv", offset, sum(map(len, views)))
        for view in views:
            view[:] = self.data[offset : offset + len(view)]
            offset += len(view)

    def writev(self, views: Sequence[memoryview], offset: int) -> None:
        """Write the views."""
        self._check("writev", offset, sum(map(len, views)))
        for view in views:
            self.data[offset : offset + len(view)] = view
            offset += len(view)

    def flush(self) -> None:
        """Make everything stable."""
        self._check("flush", 0, 0)
        self.stable = bytes(self.data)

    def discard(self, offset: int, length: int) -> None:
        """Clear the range, as most media do."""
        self._check("discard", offset, length)
        self.data[offset : offset + length] = bytes(length)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Clear the range."""
        self._check("write_zeroes", offset, length)
        self.data[offset : offset + length] = bytes(length)

    def _check(self, operation: str, offset: int, length: int) -> None:
        assert 0 <= offset <= offset + length <= self.size_bytes
        assert operation in ("readv", "flush") or not self.read_only
        if operation in self.broken:
            raise OSError(errno.EIO, "told to fail")


@dataclass
class Expected:
    """What a request must come back with; ``data`` is what the device wrote before the status."""

    status: int
    room: int
    data: bytes = b""


class BlockMachine(RuleBasedStateMachine):
    """Every request is answered as a byte array would, and the medium holds the same bytes."""

    @initialize(
        read_only=st.booleans(),
        refused=st.sets(st.sampled_from([FLUSH_BIT, WCE_BIT, DISCARD_BIT, ZEROES_BIT])),
        packed=st.booleans(),
        step=st.sampled_from([512, 1024, 8 << 20]),
    )
    def plug_in(self, read_only: bool, refused: set[int], packed: bool, step: int) -> None:
        """Make a disk and take it live."""
        self.usual_step = transfer.STEP_BYTES
        transfer.STEP_BYTES = step  # type: ignore[misc]
        self.medium = Medium(read_only=read_only)
        self.model = bytearray(self.medium.data)
        self.sync_lost = False
        device = self.make_device()
        self.features = device.device_features & ~sum(refused)
        self.features &= ~0 if packed else ~RING_PACKED
        self.bench = Bench(device, self.features, queue_size=64, memory_bytes=1 << 18)
        self.writeback = not self.features & WCE_BIT or bool(self.features & FLUSH_BIT)
        self.expected: dict[int, Expected] = {}

    def make_device(self) -> Block:
        """Return another instance of the same disk."""
        device = Block(self.medium, serial=SERIAL, ring_features=VERSION_1 | RINGS | RING_PACKED)
        device.max_discard_sectors, device.max_write_zeroes_sectors = 5, 4
        return device

    def teardown(self) -> None:
        """Put the step back."""
        transfer.STEP_BYTES = getattr(self, "usual_step", transfer.STEP_BYTES)  # type: ignore[misc]

    # Requests

    @rule(sector=sectors, count=counts, odd=st.integers(0, 5), cut=cuts)
    def read(self, sector: int, count: int, odd: int, cut: list[int]) -> None:
        """Read some sectors, at times not whole ones; several reads may be on their way."""
        room = count * 512 + (odd == 5)
        expected = Expected(OK, room)
        if odd == 5 or not self.inside(sector, count) or (room and "readv" in self.medium.broken):
            expected.status = IOERR
        else:
            expected.data = bytes(self.model[sector * 512 : sector * 512 + room])
        # Requests overlap only where that has a defined outcome: reads with reads.
        self.send(IN, sector, b"", expected, cut, wait=False)

    @rule(sector=sectors, content=st.binary(max_size=6), odd=st.integers(0, 5), cut=cuts)
    def write(self, sector: int, content: bytes, odd: int, cut: list[int]) -> None:
        """Write some sectors, each filled with a byte of ``content``; at times not whole ones."""
        self.serve()
        count = len(content)
        payload = b"".join(bytes([byte]) * 512 for byte in content) + b"!" * (odd == 5)
        fails = bool(payload) and "writev" in self.medium.broken
        if self.medium.read_only or odd == 5 or not self.inside(sector, count) or fails:
            self.send(OUT, sector, payload, Expected(IOERR, 0), cut)
            return
        self.model[sector * 512 : sector * 512 + len(payload)] = payload
        self.send(OUT, sector, payload, Expected(self.stabilized(), 0), cut)

    @rule(room=st.integers(0, 40), cut=cuts)
    def get_id(self, room: int, cut: list[int]) -> None:
        """Ask for the name, with any room for it."""
        name = SERIAL.encode().ljust(20, b"\0")[:room]
        self.send(GET_ID, 0, b"", Expected(OK, room, name), cut)

    @rule(cut=cuts)
    def flush(self, cut: list[int]) -> None:
        """Flush."""
        self.serve()
        self.send(FLUSH, 0, b"", Expected(self.synced(), 0), cut)

    @rule(
        kind=st.sampled_from([DISCARD, WRITE_ZEROES]),
        ranges=st.lists(
            st.tuples(sectors, counts | st.integers(0, (1 << 32) - 1), st.integers(0, 3)),
            max_size=3,
        ),
        odd=st.integers(0, 7),
        cut=cuts,
    )
    def clear(
        self, kind: int, ranges: list[tuple[int, int, int]], odd: int, cut: list[int]
    ) -> None:
        """Discard or clear ranges."""
        self.serve()
        payload = b"".join(struct.pack("<QII", *one) for one in ranges) + b"?" * (odd == 7)
        status = self.cleared(kind, ranges, len(payload))
        self.send(kind, 0, payload, Expected(status, 0), cut)

    def cleared(self, kind: int, ranges: list[tuple[int, int, int]], length: int) -> int:
        """Do it to the model; returns the status."""
        bit, flags, most, operation = (
            (DISCARD_BIT, 0, 16, "discard")
            if kind == DISCARD
            else (ZEROES_BIT, 1, 1, "write_zeroes")
        )
        if self.medium.read_only:
            return IOERR
        if not self.features & bit:
            return UNSUPP
        if not ranges or length % 16 or len(ranges) > most:
            return IOERR
        limit = 5 if kind == DISCARD else 4
        for _, count, flag in ranges:
            if flag & ~flags:
                return UNSUPP
            if count > limit:
                return IOERR
        if not all(self.inside(sector, count) for sector, count, _ in ranges):
            return IOERR
        for sector, count, _ in ranges:
            if count and operation in self.medium.broken:
                return IOERR
            self.model[sector * 512 : (sector + count) * 512] = bytes(count * 512)
        return self.stabilized()

    @rule(kind=st.integers(0, (1 << 32) - 1), sector=sectors, room=st.integers(0, 20))
    def unknown(self, kind: int, sector: int, room: int) -> None:
        """Ask for what no disk does."""
        if kind in (IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES):
            return
        refused = kind == 14 and self.medium.read_only
        self.send(kind, sector, b"", Expected(IOERR if refused else UNSUPP, room), [])

    @rule(header=st.binary(max_size=15), room=st.integers(0, 9))
    def send_no_header(self, header: bytes, room: int) -> None:
        """Send less than a header."""
        self.serve()
        if header or room:
            used = self.bench.request([header] if header else [], [room] if room else [])
            assert used.length == (1 if room == 1 else 0)
            assert used.data[-1:] == (bytes([IOERR]) if room else b"")

    # Life

    @rule(broken=st.sets(st.sampled_from(["readv", "writev", "discard", "write_zeroes", "flush"])))
    def break_medium(self, broken: set[str]) -> None:
        """Make some operations fail from here on."""
        self.serve()
        self.medium.broken = frozenset(broken)

    @rule()
    def repair_medium(self) -> None:
        """Let everything work."""
        self.serve()
        self.medium.broken = frozenset()

    @rule()
    def lose_a_sync(self) -> None:
        """Make one sync fail, and repair the medium: none must succeed any more."""
        self.break_medium({"flush"})
        self.flush([])
        self.repair_medium()

    @rule(value=st.integers(0, 255))
    def write_writeback(self, value: int) -> None:
        """Choose the cache mode, where that was negotiated."""
        self.serve()
        self.bench.device.write_config(0x20, bytes([value]))
        if self.features & WCE_BIT and value < 2:
            self.writeback = bool(value)
        if self.features & WCE_BIT:
            assert self.bench.device.read_config(0x20, 1) == bytes([self.writeback])

    @rule()
    def save_and_restore(self) -> None:
        """Go on with another instance; what was on its way is done there."""
        device = self.make_device()
        state = pickle.loads(pickle.dumps(self.bench.device.state()))
        device.negotiated(self.features)
        self.bench.restore_into(device)
        assert self.bench.device.state() == state

    @rule()
    def reset(self) -> None:
        """Reset the device; a sync that failed is not forgotten."""
        self.serve()
        self.bench.reset()
        self.bench = Bench(self.bench.device, self.features, queue_size=64, memory_bytes=1 << 18)
        self.writeback = not self.features & WCE_BIT or bool(self.features & FLUSH_BIT)

    @rule()
    def serve(self) -> None:
        """Let the device finish, and compare every answer."""
        bench = self.bench
        bench.serve()
        while bench.loop.advance():
            bench.serve()
        for used in bench.drivers[0].collect():
            self.check(used, self.expected.pop(used.token))
        assert not self.expected
        assert self.medium.data == self.model

    def check(self, used: Used, expected: Expected) -> None:
        """Compare one answer."""
        assert used.data[-1] == expected.status
        if expected.status != OK:
            assert used.length == int(expected.room == 0)
            return
        wrote = len(expected.data)
        assert used.data[:wrote] == expected.data
        assert used.data[wrote:-1] == POISON * (expected.room - wrote)
        assert used.length == wrote + (wrote == expected.room)

    # The model

    def inside(self, sector: int, count: int) -> bool:
        """Whether a range lies on the medium."""
        return sector + count <= SECTORS

    def stabilized(self) -> int:
        """Return the status of a change: it is synced when the cache is write-through."""
        through = not self.writeback if self.features & WCE_BIT else not self.features & FLUSH_BIT
        return self.synced() if through else OK

    def synced(self) -> int:
        """Return the status of a sync; once one failed no other succeeds."""
        self.sync_lost = self.sync_lost or "flush" in self.medium.broken
        return IOERR if self.sync_lost else OK

    def send(
        self,
        kind: int,
        sector: int,
        payload: bytes,
        expected: Expected,
        cut: list[int],
        *,
        wait: bool = True,
    ) -> None:
        """Send a request, its parts cut into segments at will; served at once, or later."""
        readable = segments(struct.pack("<IIQ", kind, 0, sector) + payload, cut)
        writable = [len(part) for part in segments(bytes(expected.room + 1), cut)]
        try:
            token = self.bench.drivers[0].add(readable, writable)
        except QueueFull:
            self.serve()
            token = self.bench.drivers[0].add(readable, writable)
        self.expected[token] = expected
        if wait:
            self.serve()

    @invariant()
    def nothing_outside_memory(self) -> None:
        """See that the device did not break."""
        assert not hasattr(self, "bench") or self.bench.device.activation is not None


def segments(data: bytes, cut: list[int]) -> list[bytes]:
    """Cut ``data`` at the places given."""
    places = sorted({0, len(data), *(place for place in cut if place < len(data))})
    return [data[start:end] for start, end in pairwise(places)]


TestBlock = BlockMachine.TestCase
TestBlock.settings = machine_settings(120, 50)
