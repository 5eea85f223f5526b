"""The block device and its host: errors, stability, large requests, and reset meanwhile."""

import errno
import fcntl
import os
import threading
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.spec.blk import (
    CONFIG_WCE,
    FLUSH,
    IOERR,
    LARGE,
    OK,
    POISON,
    RO,
    T_DISCARD,
    T_FLUSH,
    T_IN,
    T_OUT,
    T_WRITE_ZEROES,
    Answer,
    BlockRig,
    Watched,
    header,
    pattern,
    patterned,
    ranges,
)
from tests.spec.rig import Form
from virtio.block import Block
from virtio.errors import ConfigurationError
from virtio.testing import Segment, flat_memory
from vmm.disk.raw import RawDisk

DEADLINE_SECONDS = 10
STEP_LIMIT_BYTES = 16 << 20
REQUESTS = {
    T_IN: (b"", 512, "read"),
    T_OUT: (b"w" * 512, 0, "write"),
    T_FLUSH: (b"", 0, "flush"),
    T_DISCARD: (ranges((0, 8, 0)), 0, "discard"),
    T_WRITE_ZEROES: (ranges((0, 8, 0)), 0, "zero"),
}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file of 64 sectors."""
    path = tmp_path / "image"
    path.write_bytes(pattern(0, 64))
    return path


def open_disk(path: Path, *, read_only: bool = False) -> Watched:
    return Watched(RawDisk.open(str(path), read_only=read_only))


def descriptors_of(path: Path) -> list[int]:
    """Return the file descriptors of this process that refer to a file."""
    links = {int(fd): f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")}
    return [fd for fd, link in links.items() if os.path.realpath(link) == str(path)]


class TestErrors:
    @pytest.mark.spec("BLK-13")
    def test_short_transfers_of_the_host_are_finished(
        self, form: Form, image: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        preadv, pwritev = os.preadv, os.pwritev
        monkeypatch.setattr(os, "preadv", lambda fd, views, at: preadv(fd, [views[0][:100]], at))
        monkeypatch.setattr(os, "pwritev", lambda fd, views, at: pwritev(fd, [views[0][:7]], at))
        with BlockRig(open_disk(image), form) as rig:
            answers = [
                rig.ask_in_pieces([header(T_IN, 2)], [300, 724, 1]),
                rig.ask_in_pieces([header(T_OUT, 9), pattern(50, 1)[:9], pattern(50, 1)[9:]], [1]),
            ]

        assert answers == [Answer(OK, 1025, pattern(2, 2)), Answer(OK, 1, b"")]
        assert image.read_bytes() == pattern(0, 9) + pattern(50, 1) + pattern(10, 54)

    @pytest.mark.spec("BLK-13")
    def test_an_image_cut_off_under_the_disk_gives_no_stale_bytes(
        self, form: Form, image: Path
    ) -> None:
        with BlockRig(open_disk(image), form) as rig:
            os.truncate(image, 8 * 512)

            answers = [rig.ask(T_IN, sector, room=1024) for sector in (6, 7, 40)]

        assert answers[0] == Answer(OK, 1025, pattern(6, 2))
        assert [(one.status, one.length) for one in answers[1:]] == [(IOERR, 0), (IOERR, 0)]

    @pytest.mark.spec("BLK-14")
    @pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EFBIG, errno.EPERM])
    @pytest.mark.parametrize("kind", REQUESTS)
    def test_an_error_of_the_host_is_an_io_error_and_the_disk_goes_on(
        self, form: Form, kind: int, code: int
    ) -> None:
        data, room, operation = REQUESTS[kind]
        with BlockRig(form=form) as rig:
            rig.disk.failures[operation] = code
            failed = rig.ask(kind, 0, data, room=room)
            rig.disk.failures.clear()

            assert (failed.status, rig.driver.status) == (IOERR, 0x0F)
            assert rig.ask(T_IN, 20, room=512).data == pattern(20, 1)

    @pytest.mark.spec("BLK-14")
    @pytest.mark.parametrize("kind", [T_OUT, T_DISCARD, T_WRITE_ZEROES])
    def test_a_host_that_denies_every_change_is_an_io_error(self, form: Form, kind: int) -> None:
        fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
        os.write(fd, pattern(0, 64))
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        with BlockRig(Watched(RawDisk(fd, name="sealed")), form) as rig:
            answer = rig.ask(kind, 0, REQUESTS[kind][0])

            assert (answer.status, rig.disk.content()) == (IOERR, pattern(0, 64))

    @pytest.mark.spec("BLK-17")
    def test_a_read_only_image_is_opened_so_on_the_host_and_offers_ro(self, image: Path) -> None:
        with BlockRig(open_disk(image, read_only=True)) as rig:
            [fd] = descriptors_of(image)

            assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
            assert rig.driver.offered_features() & RO

    @pytest.mark.spec("BLK-17")
    def test_a_directory_is_no_disk(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="a regular file or a block device"):
            RawDisk.open(str(tmp_path), read_only=True)


class TestStability:
    @pytest.mark.spec("BLK-19")
    def test_flush_returns_after_all_that_was_written_on_any_queue_is_synced(
        self, form: Form
    ) -> None:
        with BlockRig(form=form, queues=3, size=8) as rig:
            writes = [rig.ask(T_OUT, n, b"w" * 512, queue=n).status for n in (0, 1)]
            early: list[int] = []
            rig.disk.before["flush"] = lambda: early.append(len(rig.rings[2].collect()))

            flushed = rig.ask(T_FLUSH, queue=2).status

            assert ([*writes, flushed], early) == ([OK, OK, OK], [0])
            assert rig.disk.trace == ["write 0", "write 1", "flush"]

    @pytest.mark.spec("BLK-19")
    def test_flush_syncs_the_image_itself(
        self, image: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[str] = []
        monkeypatch.setattr(
            os, "fdatasync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        )
        with BlockRig(open_disk(image)) as rig:
            status = rig.ask(T_FLUSH).status

        assert (status, synced) == (OK, [str(image)])

    @pytest.mark.spec("BLK-20")
    @pytest.mark.parametrize(
        ("kind", "data", "operation"),
        [
            (T_OUT, b"w" * 512, "write 0"),
            (T_WRITE_ZEROES, ranges((0, 8, 0)), "zero 0+8"),
            (T_DISCARD, ranges((0, 8, 0)), "discard 0+8"),
        ],
    )
    def test_without_a_driver_that_flushes_every_change_is_stable_before_it_returns(
        self, form: Form, kind: int, data: bytes, operation: str
    ) -> None:
        with BlockRig(form=form, features=1 << 13 | 1 << 14) as rig:
            early: list[int] = []
            rig.disk.before["flush"] = lambda: early.append(len(rig.ring.collect()))

            status = rig.ask(kind, 0, data).status

            assert (status, early, rig.disk.trace) == (OK, [0], [operation, "flush"])

    @pytest.mark.spec("BLK-20")
    def test_a_write_that_cannot_be_made_stable_fails(self, form: Form) -> None:
        with BlockRig(form=form, features=0) as rig:
            rig.disk.failures["flush"] = errno.EIO

            assert rig.ask(T_OUT, 0, b"w" * 512).status == IOERR

    @pytest.mark.spec("BLK-20")
    def test_a_large_write_is_made_stable_after_its_last_step(self, form: Form) -> None:
        memory = flat_memory((0, 16 << 20))
        with BlockRig(patterned(LARGE // 512), form, 0, size=8, memory=memory) as rig:
            rig.start_large(T_OUT)
            rig.finish()

            [used] = rig.ring.collect()
            assert (used.data[-1], rig.disk.trace.index("flush")) == (OK, len(rig.disk.trace) - 1)

    @pytest.mark.spec("BLK-21")
    def test_writeback_0_makes_each_write_stable_and_1_does_not(self, form: Form) -> None:
        with BlockRig(form=form, features=FLUSH | CONFIG_WCE) as rig:
            rig.ask(T_OUT, 0, b"w" * 512)
            rig.write_field(0x20, 0)
            rig.ask(T_OUT, 1, b"w" * 512)
            rig.write_field(0x20, 1)
            rig.ask(T_OUT, 2, b"w" * 512)

            assert rig.disk.trace == ["write 0", "write 1", "flush", "write 2"]

    @pytest.mark.spec("BLK-21")
    def test_config_wce_without_flush_starts_by_making_writes_stable(self, form: Form) -> None:
        with BlockRig(form=form, features=CONFIG_WCE) as rig:
            rig.ask(T_OUT, 0, b"w" * 512)

            assert rig.disk.trace == ["write 0", "flush"]

    @pytest.mark.spec("BLK-25")
    def test_after_a_failed_sync_no_later_flush_succeeds(self, form: Form) -> None:
        with BlockRig(form=form) as rig:
            rig.ask(T_OUT, 0, b"w" * 512)
            rig.disk.failures["flush"] = errno.EIO
            first = rig.ask(T_FLUSH).status
            rig.disk.failures.clear()

            assert [first, rig.ask(T_FLUSH).status, rig.ask(T_FLUSH).status] == [IOERR] * 3

    @pytest.mark.spec("BLK-25")
    def test_a_reset_does_not_make_lost_data_good(self, form: Form) -> None:
        with BlockRig(form=form) as rig:
            rig.disk.failures["flush"] = errno.EIO
            rig.ask(T_FLUSH)
            rig.disk.failures.clear()

            rig.start(FLUSH, form)

            assert rig.ask(T_FLUSH).status == IOERR


class Bottomless(Watched):
    """A disk of 1 GiB of which nothing is read; ``steps`` has the bytes of each demand."""

    def __init__(self) -> None:
        super().__init__(RawDisk.scratch(1 << 30))
        self.steps: list[int] = []

    def readv(self, views: Sequence[memoryview], offset: int) -> None:
        self.steps.append(sum(map(len, views)))


class TestLargeRequests:
    @pytest.mark.spec("BLK-15")
    def test_a_request_of_a_gibibyte_is_moved_in_steps_and_takes_no_memory(
        self, form: Form
    ) -> None:
        disk = Bottomless()
        with BlockRig(disk, form, memory=flat_memory((0, 16 << 20))) as rig:
            data = [Segment(8 << 20, 8 << 20, True)] * 128
            request = Segment(rig.place(header(T_IN)), 16, False)
            rig.ring.add_segments([request, *data, Segment(rig.place(b"\xa5"), 1, True)])
            rig.driver.notify(0)
            tracemalloc.start()

            rig.serve()
            at_once = sum(disk.steps)
            rig.finish()

            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert (sum(disk.steps), peak < 1 << 20) == (1 << 30, True)
            assert max(disk.steps) <= at_once <= STEP_LIMIT_BYTES

    @pytest.mark.spec("BLK-15")
    def test_a_large_request_moves_all_of_its_data(self, form: Form) -> None:
        memory = flat_memory((0, 16 << 20))
        with BlockRig(patterned(LARGE // 512), form, size=8, memory=memory) as rig:
            rig.start_large(T_IN)
            rig.finish()

            [used] = rig.ring.collect()
            assert (used.length, used.data[-1]) == (LARGE + 1, OK)
            assert used.data[:-1] == pattern(0, LARGE // 512)


class TestReset:
    @pytest.mark.spec("BLK-42")
    def test_a_reset_drops_a_read_that_is_under_way(self, form: Form) -> None:
        memory = flat_memory((0, 16 << 20))
        with BlockRig(patterned(LARGE // 512), form, size=8, memory=memory) as rig:
            rig.start_large(T_IN)
            before = len(rig.disk.trace)
            timers = list(rig.loop.timers)

            rig.driver.status = 0
            memory.view(0, 16 << 20)[:] = bytes([POISON]) * (16 << 20)
            rig.finish()
            called = [timer.callback() for timer in timers]

            assert (len(called), len(rig.disk.trace)) == (1, before)
            assert bytes(memory.view(0, 16 << 20)) == bytes([POISON]) * (16 << 20)

    @pytest.mark.spec("BLK-42")
    def test_a_reset_drops_a_write_that_is_under_way(self, form: Form) -> None:
        memory = flat_memory((0, 16 << 20))
        with BlockRig(patterned(LARGE // 512), form, size=8, memory=memory) as rig:
            rig.start_large(T_OUT)
            before = list(rig.disk.trace)

            rig.driver.status = 0
            rig.finish()

            assert (rig.disk.trace, rig.line.level) == (before, False)

    @pytest.mark.spec("BLK-42")
    def test_what_a_reset_dropped_is_not_taken_up_by_the_next_driver(self, form: Form) -> None:
        memory = flat_memory((0, 16 << 20))
        with BlockRig(patterned(LARGE // 512), form, size=8, memory=memory) as rig:
            rig.start_large(T_OUT)

            rig.start(FLUSH, form)
            rig.disk.trace.clear()
            rig.start_large(T_IN)
            rig.finish()

            assert [one for one in rig.disk.trace if one.startswith("write")] == []
            assert len(rig.ring.collect()) == 1

    @pytest.mark.spec("BLK-42")
    @pytest.mark.parametrize("offset", [0x70, 0x44, 0xC0], ids=["status", "ready", "reset"])
    def test_a_reset_returns_only_when_the_host_has_let_go_of_the_buffers(
        self, form: Form, offset: int
    ) -> None:
        entered, stopped = threading.Event(), threading.Event()
        busy: list[bool] = []
        finished: list[bool] = []

        def linger() -> None:
            """Be slow: until the reset is done, which must not be, or a while."""
            entered.set()
            finished.append(stopped.wait(0.2))

        def stop() -> None:
            rig.driver.write(offset, int(offset == 0xC0))
            busy.append(not finished)
            stopped.set()

        with BlockRig(form=form, features=FLUSH) as rig:
            rig.start(FLUSH | 1 << 40, form)
            rig.driver.write(0x30, 0)
            rig.disk.before["read"] = linger
            rig.add(0, ((header(T_IN, 1),), (512, 1)))
            server = threading.Thread(target=rig.serve)
            server.start()
            assert entered.wait(DEADLINE_SECONDS)
            stopper = threading.Thread(target=stop)
            stopper.start()
            stopper.join(DEADLINE_SECONDS)
            memory = bytes(rig.memory.view(0, 4 << 20))
            server.join(DEADLINE_SECONDS)

            assert (busy, finished) == ([False], [False])
            assert bytes(rig.memory.view(0, 4 << 20)) == memory

    @pytest.mark.spec("BLK-42")
    def test_the_disk_works_after_a_reset_in_the_middle(self, form: Form) -> None:
        memory = flat_memory((0, 16 << 20))
        with BlockRig(patterned(LARGE // 512), form, size=8, memory=memory) as rig:
            rig.start_large(T_IN)

            rig.start(FLUSH, form)

            assert rig.ask(T_IN, 5, room=512).data == pattern(5, 1)
            assert isinstance(rig.device, Block)
