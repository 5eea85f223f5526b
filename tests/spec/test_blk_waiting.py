"""The block device over a disk that takes long, or for ever: nobody waits for it but its request.

Each test has a disk that stands still in some calls until it is let go, and does then what it was
asked: a call that is waited for under the device's lock makes the test fail past a deadline.
"""

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.spec.blk import (
    CONFIG_WCE,
    FLUSH,
    IOERR,
    MQ,
    OK,
    POISON,
    T_DISCARD,
    T_FLUSH,
    T_IN,
    T_OUT,
    T_WRITE_ZEROES,
    header,
    pattern,
    ranges,
)
from tests.spec.devices import EVERY_RING
from tests.spec.rig import RING_SHARE_BYTES, Form, Rig
from tests.spec.threads import PATIENCE_SECONDS, wait_until
from virtio.block import Block, BlockBackend
from virtio.block import device as block_device
from virtio.errors import HostError
from virtio.testing import Bench, Segment, Used, flat_memory

RING_RESET = 1 << 40
SECTORS = 1 << 15
REQUESTS = {
    "read": ((header(T_IN, 1),), (512, 1)),
    "write": ((header(T_OUT, 1), b"w" * 512), (1,)),
    "flush": ((header(T_FLUSH),), (1,)),
    "discard": ((header(T_DISCARD), ranges((0, 8, 0))), (1,)),
    "zero": ((header(T_WRITE_ZEROES), ranges((0, 8, 0))), (1,)),
}
every_call = pytest.mark.parametrize("call", REQUESTS)


class SlowDisk(BlockBackend):
    """A disk whose calls named in ``stuck`` stand still until :meth:`let_go`.

    ``calls`` has those that have come back, ``entered`` how many were made. What is in ``cached``
    is read without waiting.
    """

    name = "slow disk"
    read_only = False
    can_unmap = True

    def __init__(self, *stuck: str, cached: range = range(0), sectors: int = 64) -> None:
        self.size_bytes = sectors * 512
        self.data = bytearray(pattern(0, sectors))
        self.stuck = set(stuck)
        self.cached = cached
        self.entered: list[str] = []
        self.calls: list[str] = []
        self.faults: dict[str, Exception] = {}
        self._gate = threading.Event()

    def let_go(self) -> None:
        """Let all calls go on."""
        self._gate.set()

    def _make(self, name: str, detail: str = "") -> None:
        self.entered.append(name)
        if name in self.stuck:
            assert self._gate.wait(PATIENCE_SECONDS), "nobody let it go"
        if name in self.faults:
            raise self.faults[name]
        self.calls.append(name + detail)

    def readv(self, views: Sequence[memoryview], offset: int) -> None:
        self._make("read", f" {offset // 512}")
        self._fill(views, offset)

    def _fill(self, views: Sequence[memoryview], offset: int) -> None:
        for view in views:
            view[:] = self.data[offset : offset + len(view)]
            offset += len(view)

    def try_readv(self, views: Sequence[memoryview], offset: int) -> bool:
        cached = offset // 512 in self.cached
        if cached:
            self._fill(views, offset)
        return cached

    def writev(self, views: Sequence[memoryview], offset: int) -> None:
        self._make("write", f" {offset // 512}")
        for view in views:
            self.data[offset : offset + len(view)] = view
            offset += len(view)

    def flush(self) -> None:
        self._make("flush")

    def discard(self, offset: int, length: int) -> None:
        self._make("discard", f" {offset // 512}")
        self.data[offset : offset + length] = bytes(length)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        self._make("zero", f" {offset // 512}")
        self.data[offset : offset + length] = bytes(length)


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    """Make live disks; at the end of the test all calls are let go."""
    made: list[tuple[Rig, SlowDisk]] = []

    def make(disk: SlowDisk, form: Form, features: int | None = None, size: int = 256) -> Rig:
        memory = flat_memory((0, 32 << 20))
        rig = Rig(Block(disk, ring_features=EVERY_RING, queues=2), memory)
        offered = rig.driver.offered_features() & ((1 << 24) - 1)
        rig.start((offered if features is None else features) | RING_RESET, form, size)
        made.append((rig, disk))
        return rig

    yield make
    for rig, disk in made:
        disk.let_go()
        rig.close()


def come_back(rig: Rig, count: int, index: int = 0) -> list[Used]:
    """Let the loop run until so many requests are back; returns them."""
    found: list[Used] = []

    def all_are_there() -> bool:
        rig.loop.advance()
        found.extend(rig.rings[index].collect())
        return len(found) >= count

    wait_until(all_are_there)
    return found


def ends(rig: Rig, disk: SlowDisk) -> None:
    """Return when no call is under way any more, and all that they led to is done."""
    assert isinstance(rig.device, Block)
    calls = rig.device._calls
    wait_until(lambda: not calls._running)
    while rig.loop.advance():
        pass


def guest_memory(rig: Rig) -> bytes:
    return bytes(rig.memory.view(0, 4 * RING_SHARE_BYTES))


def poison(rig: Rig) -> bytes:
    """Overwrite rings and buffers as a driver that uses the memory for something else."""
    view = rig.memory.view(0, 4 * RING_SHARE_BYTES)
    view[:] = bytes([POISON]) * len(view)
    return bytes(view)


class TestRequests:
    def test_each_comes_back_right(self, form: Form, make_rig: Callable[..., Rig]) -> None:
        disk = SlowDisk()
        rig = make_rig(disk, form)
        tokens = {rig.add(0, request): name for name, request in REQUESTS.items()}
        rig.serve()

        used = come_back(rig, 5)

        assert {tokens[one.token]: one.data[-1] for one in used} == dict.fromkeys(REQUESTS, OK)
        [read] = [one for one in used if tokens[one.token] == "read"]
        assert read.length == 513

    @every_call
    def test_an_error_of_the_host_is_an_io_error(
        self, form: Form, call: str, make_rig: Callable[..., Rig]
    ) -> None:
        disk = SlowDisk()
        disk.faults[call] = OSError(5, "told to fail")
        rig = make_rig(disk, form)
        rig.add(0, REQUESTS[call])
        rig.serve()

        [used] = come_back(rig, 1)

        assert (used.data[-1], rig.driver.status) == (IOERR, 0x0F)
        assert used.length == (0 if call == "read" else 1)

    @every_call
    def test_a_bug_in_a_disk_is_the_device_s_failure(
        self, form: Form, call: str, make_rig: Callable[..., Rig]
    ) -> None:
        disk = SlowDisk()
        disk.faults[call] = RuntimeError("a bug")
        rig = make_rig(disk, form)
        rig.add(0, REQUESTS[call])
        rig.serve()

        [used] = come_back(rig, 1)

        assert (used.data[-1], rig.driver.status) == (IOERR, 0x4F)

    def test_more_requests_than_threads_all_come_back(
        self, form: Form, make_rig: Callable[..., Rig]
    ) -> None:
        disk = SlowDisk("read")
        rig = make_rig(disk, form)
        tokens = {rig.add(0, ((header(T_IN, n),), (512, 1))): n for n in range(40)}
        rig.serve()
        wait_until(lambda: len(disk.entered) == 8)

        disk.let_go()

        found = {tokens[one.token]: one.data for one in come_back(rig, 40)}
        assert found == {n: pattern(n, 1) + b"\0" for n in range(40)}

    @pytest.mark.spec("BLK-38")
    def test_what_waited_for_a_thread_meets_the_capacity_of_its_turn(
        self, form: Form, make_rig: Callable[..., Rig]
    ) -> None:
        disk = SlowDisk("read")
        rig = make_rig(disk, form)
        tokens = {rig.add(0, ((header(T_IN, n),), (512, 1))): n for n in (*range(8), 40, 8)}
        rig.serve()
        wait_until(lambda: len(disk.entered) == 8)
        assert isinstance(rig.device, Block)

        rig.device.resize(32)
        disk.let_go()

        statuses = {tokens[one.token]: one.data[-1] for one in come_back(rig, 10)}
        assert statuses == dict.fromkeys(range(9), OK) | {40: IOERR}
        assert "read 40" not in disk.calls

    @pytest.mark.parametrize("change", ["discard", "zero"])
    def test_nothing_is_written_in_place_while_the_disk_is_changed(
        self, form: Form, change: str, make_rig: Callable[..., Rig]
    ) -> None:
        disk = InPlace(change)
        rig = make_rig(disk, form)
        rig.add(0, REQUESTS[change])
        rig.serve()
        wait_until(lambda: disk.entered == [change])

        rig.add(0, REQUESTS["write"])
        rig.serve()

        wait_until(lambda: disk.entered == [change, "write"])  # by a thread
        disk.let_go()
        assert [one.data for one in come_back(rig, 2)] == [b"\0"] * 2
        rig.add(0, REQUESTS["write"])
        rig.serve()
        assert len(come_back(rig, 1)) == 1
        assert disk.entered == [change, "write"]  # in place again

    @pytest.mark.spec("BLK-15")
    @pytest.mark.parametrize("kind", [T_IN, T_OUT])
    def test_large_data_goes_in_steps(
        self, form: Form, kind: int, make_rig: Callable[..., Rig]
    ) -> None:
        disk = SlowDisk(sectors=SECTORS)
        rig = make_rig(disk, form)
        data = pattern(5, 9 << 11)
        place = rig.memory.view(8 << 20, len(data))
        place[:] = data if kind == T_OUT else bytes(len(data))
        ring = rig.rings[0]
        request = ring.arena.allocate(17)
        ring.write_bytes(request, header(kind, 5))
        ring.add_segments(
            [
                Segment(request, 16, False),
                Segment(8 << 20, len(data), kind == T_IN),
                Segment(request + 16, 1, True),
            ]
        )
        disk.data[:] = disk.data if kind == T_IN else bytes(len(disk.data))
        rig.driver.notify(0)
        rig.serve()

        [used] = come_back(rig, 1)

        assert used.data[-1] == OK
        assert bytes(place) == disk.data[5 * 512 : 5 * 512 + len(data)] == data
        assert len(disk.calls) == 5

    def test_what_is_cached_is_not_kept_waiting(
        self, form: Form, make_rig: Callable[..., Rig]
    ) -> None:
        disk = SlowDisk("read", cached=range(10, 20))
        rig = make_rig(disk, form)
        cold = rig.add(0, ((header(T_IN, 1),), (512, 1)))
        hot = {rig.add(0, ((header(T_IN, n),), (512, 1))): n for n in range(10, 20)}

        rig.serve()

        used = rig.rings[0].collect()
        assert {hot[one.token]: one.data for one in used} == {
            n: pattern(n, 1) + b"\0" for n in range(10, 20)
        }
        disk.let_go()
        [last] = come_back(rig, 1)
        assert (last.token, last.data) == (cold, pattern(1, 1) + b"\0")

    @pytest.mark.spec("MMIO-20")
    def test_a_notification_is_served_while_a_read_stands_still(
        self, form: Form, make_rig: Callable[..., Rig]
    ) -> None:
        disk = SlowDisk("read")
        rig = make_rig(disk, form)
        rig.add(0, REQUESTS["read"])
        rig.serve()

        rig.add(1, REQUESTS["write"])
        rig.serve()

        assert [one.data for one in come_back(rig, 1, 1)] == [b"\0"]


class TestStability:
    @pytest.mark.spec("BLK-20")
    def test_the_writes_of_a_burst_share_a_sync(
        self, form: Form, make_rig: Callable[..., Rig]
    ) -> None:
        disk = SlowDisk()
        rig = make_rig(disk, form, 0)
        for n in range(32):
            rig.add(0, ((header(T_OUT, n), b"w" * 512), (1,)))
        rig.serve()

        used = come_back(rig, 32)

        assert [one.data for one in used] == [b"\0"] * 32
        # A thread each: those that come back while a sync is under way wait for another one.
        assert 1 <= disk.calls.count("flush") < 16

    @pytest.mark.spec("BLK-20")
    def test_writes_in_place_share_one_sync(self, form: Form, make_rig: Callable[..., Rig]) -> None:
        disk = InPlace()
        rig = make_rig(disk, form, 0)
        for n in range(32):
            rig.add(0, ((header(T_OUT, n), b"w" * 512), (1,)))
        rig.serve()
        early = rig.rings[0].collect()

        used = come_back(rig, 32)

        assert (early, disk.calls[32:]) == ([], ["flush"])
        assert [one.data for one in used] == [b"\0"] * 32

    @pytest.mark.spec("BLK-19", "BLK-20")
    def test_what_is_written_during_a_sync_waits_for_the_next(
        self, form: Form, make_rig: Callable[..., Rig]
    ) -> None:
        disk = InPlace("flush")
        rig = make_rig(disk, form, FLUSH | MQ)
        rig.add(0, REQUESTS["flush"])
        rig.serve()
        rig.loop.advance()
        wait_until(lambda: disk.entered == ["flush"])
        rig.add(0, REQUESTS["write"])
        rig.add(1, REQUESTS["flush"])
        rig.serve()
        rig.loop.advance()

        disk.let_go()
        come_back(rig, 1, 1)

        assert disk.calls == ["write 1", "flush", "flush"]

    @pytest.mark.spec("BLK-25")
    def test_a_sync_that_fails_fails_all_that_shared_it_and_all_later_ones(
        self, form: Form, make_rig: Callable[..., Rig]
    ) -> None:
        disk = InPlace()
        disk.faults["flush"] = OSError(5, "told to fail")
        rig = make_rig(disk, form, 0)
        for n in range(4):
            rig.add(0, ((header(T_OUT, n), b"w" * 512), (1,)))
        rig.serve()
        first = [one.data for one in come_back(rig, 4)]
        disk.faults.clear()

        rig.add(0, REQUESTS["flush"])
        rig.serve()

        assert first == [b"\x01"] * 4
        assert [one.data for one in come_back(rig, 1)] == [b"\x01"]

    @pytest.mark.spec("BLK-25")
    def test_a_sync_that_fails_after_a_reset_counts(
        self, form: Form, make_rig: Callable[..., Rig]
    ) -> None:
        disk = InPlace("flush")
        disk.faults["flush"] = OSError(5, "told to fail")
        rig = make_rig(disk, form)
        rig.add(0, REQUESTS["flush"])
        rig.serve()
        rig.loop.advance()
        wait_until(lambda: disk.entered)

        rig.driver.status = 0
        disk.let_go()
        ends(rig, disk)
        disk.faults.clear()
        rig.start(FLUSH, form)
        rig.add(0, REQUESTS["flush"])
        rig.serve()

        assert [one.data for one in come_back(rig, 1)] == [b"\x01"]

    @pytest.mark.spec("BLK-21")
    def test_writeback_0_makes_writes_by_threads_stable(
        self, form: Form, make_rig: Callable[..., Rig]
    ) -> None:
        disk = SlowDisk()
        rig = make_rig(disk, form, FLUSH | CONFIG_WCE)
        rig.poke_config(0x20, b"\0")
        rig.add(0, REQUESTS["write"])
        rig.serve()

        come_back(rig, 1)

        assert disk.calls == ["write 1", "flush"]


class InPlace(SlowDisk):
    """The same, whose writes need no waiting."""

    def try_writev(self, views: Sequence[memoryview], offset: int) -> bool:
        self.calls.append(f"write {offset // 512}")
        return True


STOPS = {"status": (0x70, 0), "ready": (0x44, 0), "reset": (0xC0, 1)}
every_stop = pytest.mark.parametrize("stop", STOPS)


class TestStops:
    @pytest.mark.spec("BLK-42", "COM-22", "MMIO-16", "MMIO-34", "MMIO-35")
    @every_stop
    @every_call
    def test_a_reset_returns_at_once_and_a_late_answer_changes_no_memory(
        self, form: Form, stop: str, call: str, make_rig: Callable[..., Rig]
    ) -> None:
        disk = SlowDisk(call)
        rig = make_rig(disk, form)
        rig.add(0, REQUESTS[call])
        rig.serve()
        rig.loop.advance()
        wait_until(lambda: disk.entered == [call])
        rig.driver.write(0x30, 0)

        rig.driver.write(*STOPS[stop])

        assert disk.calls == []  # it stands still to this moment
        assert (rig.driver.read(0x44), rig.driver.read(0xC0)) == (0, 0)
        poisoned, edges = poison(rig), rig.line.edges
        disk.let_go()
        ends(rig, disk)
        assert len(disk.calls) == 1
        assert (guest_memory(rig), rig.line.edges) == (poisoned, edges)

    @every_call
    def test_the_end_of_the_machine_waits_for_no_disk(
        self, form: Form, call: str, make_rig: Callable[..., Rig]
    ) -> None:
        disk = SlowDisk(call)
        rig = make_rig(disk, form)
        rig.add(0, REQUESTS[call])
        rig.serve()
        rig.loop.advance()
        wait_until(lambda: disk.entered == [call])

        rig.close()

        assert disk.calls == []
        before = guest_memory(rig)
        disk.let_go()
        ends(rig, disk)
        assert guest_memory(rig) == before

    @pytest.mark.spec("BLK-42")
    def test_the_disk_works_after_a_reset_while_a_read_stands_still(
        self, form: Form, make_rig: Callable[..., Rig]
    ) -> None:
        disk = SlowDisk("read", cached=range(5, 6))
        rig = make_rig(disk, form)
        rig.add(0, REQUESTS["read"])
        rig.serve()
        wait_until(lambda: disk.entered)

        rig.start(FLUSH, form)

        used = rig.request(0, ((header(T_IN, 5),), (512, 1)))
        assert used.data == pattern(5, 1) + b"\0"
        rig.add(0, REQUESTS["write"])
        rig.serve()
        assert [one.data for one in come_back(rig, 1)] == [b"\0"]

    def test_resets_in_a_row_take_no_more_threads_than_there_may_be(
        self, form: Form, make_rig: Callable[..., Rig]
    ) -> None:
        disk = SlowDisk("read")
        rig = make_rig(disk, form)
        for _ in range(12):
            rig.add(0, REQUESTS["read"])
            rig.serve()
            rig.start(FLUSH, form)
        wait_until(lambda: len(disk.entered) == 8)
        rig.add(0, REQUESTS["read"])
        rig.serve()

        disk.let_go()

        assert [one.data for one in come_back(rig, 1)] == [pattern(1, 1) + b"\0"]
        assert len(disk.entered) == 9

    @pytest.mark.spec("BLK-42")
    @pytest.mark.parametrize("stop", ["status", "ready"])
    def test_an_old_write_does_not_overwrite_a_new_one(
        self, form: Form, stop: str, make_rig: Callable[..., Rig]
    ) -> None:
        disk = SlowDisk("write")
        rig = make_rig(disk, form)
        rig.add(0, ((header(T_OUT, 3), b"o" * 512), (1,)))
        rig.serve()
        wait_until(lambda: disk.entered)
        rig.driver.write(0x30, 0)
        rig.driver.write(*STOPS[stop])
        rig.start(FLUSH, form)

        rig.add(0, ((header(T_OUT, 3), b"n" * 512), (1,)))
        rig.serve()
        disk.let_go()

        come_back(rig, 1)
        assert disk.data[1536:2048] == b"n" * 512
        assert disk.calls == ["write 3", "write 3"]

    @pytest.mark.spec("BLK-42")
    def test_an_old_discard_does_not_undo_a_new_write_in_place(
        self, form: Form, make_rig: Callable[..., Rig]
    ) -> None:
        disk = InPlace("discard")
        rig = make_rig(disk, form)
        rig.add(0, REQUESTS["discard"])
        rig.serve()
        wait_until(lambda: disk.entered)
        rig.start(FLUSH, form)

        rig.add(0, REQUESTS["write"])
        rig.serve()
        before = list(disk.calls)
        disk.let_go()

        come_back(rig, 1)
        assert (before, disk.calls) == ([], ["discard 0", "write 1"])


class TestSnapshots:
    @pytest.mark.parametrize("call", ["read", "flush"])
    def test_a_snapshot_waits_for_no_answer_and_the_request_is_served_anew(self, call: str) -> None:
        disk = SlowDisk(call)
        bench = Bench(Block(disk))
        bench.drivers[0].add(*REQUESTS[call])
        bench.serve()
        bench.loop.advance()
        wait_until(lambda: disk.entered)
        after = SlowDisk()

        bench.restore_into(Block(after))
        before = bytes(bench.memory.view(0, 1 << 20))
        disk.let_go()
        wait_until(lambda: disk.calls)

        assert bytes(bench.memory.view(0, 1 << 20)) == before
        bench.serve()
        used: list[Used] = []

        def is_back() -> bool:
            bench.loop.advance()
            used.extend(bench.drivers[0].collect())
            return bool(used)

        wait_until(is_back)
        assert [one.data[-1] for one in used] == [OK]
        assert len(after.calls) == 1

    @pytest.mark.parametrize("call", ["write", "discard", "zero"])
    def test_a_disk_that_is_being_changed_is_not_saved(
        self, call: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(block_device, "SETTLE_SECONDS", 0.01)
        disk = SlowDisk(call)
        bench = Bench(Block(disk))
        bench.drivers[0].add(*REQUESTS[call])
        bench.serve()
        wait_until(lambda: disk.entered)

        with pytest.raises(HostError, match="slow disk does not end a change"):
            bench.device.state()

        disk.let_go()
        monkeypatch.undo()
        assert bench.device.state()["sync_failed"] is False
        assert disk.calls

    def test_no_change_begins_while_the_device_is_saved(self) -> None:
        disk = SlowDisk("write")
        bench = Bench(Block(disk))
        for n in range(10):
            bench.drivers[0].add([header(T_OUT, n), b"w" * 512], [1])
        bench.serve()
        disk.let_go()

        bench.device.state()

        assert len(disk.entered) == 8


@pytest.mark.spec("SPL-23")
def test_a_burst_moves_so_many_bytes_and_goes_on_a_turn_later(form: Form) -> None:
    disk = SlowDisk(cached=range(SECTORS), sectors=SECTORS)
    rig = Rig(Block(disk, ring_features=EVERY_RING), flat_memory((0, 32 << 20)))
    rig.start(FLUSH, form, 256)
    ring = rig.rings[0]
    for n in range(20):
        request = ring.arena.allocate(17)
        ring.write_bytes(request, header(T_IN, n))
        ring.add_segments(
            [
                Segment(request, 16, False),
                Segment(8 << 20, 1 << 20, True),
                Segment(request + 16, 1, True),
            ]
        )
    rig.driver.notify(0)
    steps = []

    for _ in range(3):
        rig.serve()
        steps.append(len(ring.collect()))
        rig.loop.advance()
    steps.append(len(ring.collect()))

    assert steps == [8, 8, 4, 0]
    rig.close()
