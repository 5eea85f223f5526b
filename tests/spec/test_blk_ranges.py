"""The block device: DISCARD and WRITE_ZEROES over real storage."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.spec.blk import (
    IOERR,
    OK,
    T_DISCARD,
    T_IN,
    T_SECURE_ERASE,
    T_WRITE_ZEROES,
    UNSUPP,
    BlockRig,
    Watched,
    pattern,
    patterned,
    ranges,
)
from tests.spec.rig import Form
from vmm.disk import raw as host_disk
from vmm.disk.raw import RawDisk

KINDS = pytest.mark.parametrize("kind", [T_DISCARD, T_WRITE_ZEROES], ids=["discard", "zeroes"])
MAX_SEGMENTS_AT = {T_DISCARD: 0x28, T_WRITE_ZEROES: 0x34}
MAX_SECTORS_AT = {T_DISCARD: 0x24, T_WRITE_ZEROES: 0x30}
FIRST_RANGE = ranges((0, 8, 0))

DiskMaker = Callable[[int], Watched]


def refuse(*_: object) -> bool:
    """Stand in for a file system that can neither punch holes nor zero ranges."""
    return False


@pytest.fixture(params=["memory", "file", "plain"])
def make_disk(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> DiskMaker:
    """Return a maker of patterned disks: in memory, in a file, in one that can only be written."""

    def in_a_file(sectors: int) -> Watched:
        path = tmp_path / "image"
        path.write_bytes(pattern(0, sectors))
        return Watched(RawDisk.open(str(path)))

    def in_a_plain_file(sectors: int) -> Watched:
        monkeypatch.setattr(host_disk, "punch_hole", refuse)
        monkeypatch.setattr(host_disk, "zero_range", refuse)
        return in_a_file(sectors)

    makers = {"memory": patterned, "file": in_a_file, "plain": in_a_plain_file}
    maker: DiskMaker = makers[request.param]
    return maker


@pytest.mark.spec("BLK-26")
@KINDS
@pytest.mark.parametrize("length", [0, 1, 15, 17, 31])
def test_a_length_that_is_not_whole_ranges_fails(form: Form, kind: int, length: int) -> None:
    with BlockRig(form=form) as rig:
        answer = rig.ask(kind, 0, bytes(length))

        assert (answer.status, rig.disk.trace) == (IOERR, [])


@pytest.mark.spec("BLK-26")
@KINDS
def test_as_many_ranges_as_offered_succeed_and_one_more_fails(form: Form, kind: int) -> None:
    with BlockRig(form=form) as rig:
        most = rig.field(MAX_SEGMENTS_AT[kind], 4)
        full = rig.ask(kind, 0, FIRST_RANGE * most).status
        done = len(rig.disk.trace)
        excess = rig.ask(kind, 0, FIRST_RANGE * (most + 1)).status

        assert (full, excess, len(rig.disk.trace)) == (OK, IOERR, done)


@pytest.mark.spec("BLK-27")
@KINDS
@pytest.mark.parametrize("flags", [2, 3, 0x8000_0000, 0xFFFF_FFFF])
def test_reserved_flags_are_unsupported(form: Form, kind: int, flags: int) -> None:
    with BlockRig(form=form) as rig:
        answer = rig.ask(kind, 0, ranges((0, 8, flags)))

        assert (answer.status, rig.disk.trace) == (UNSUPP, [])


@pytest.mark.spec("BLK-27")
def test_a_reserved_flag_in_secure_erase_is_unsupported(form: Form) -> None:
    with BlockRig(form=form) as rig:
        assert rig.ask(T_SECURE_ERASE, 0, ranges((0, 8, 2))).status == UNSUPP


@pytest.mark.spec("BLK-27")
def test_a_reserved_flag_in_a_later_range_keeps_the_first_from_being_applied(form: Form) -> None:
    with BlockRig(form=form) as rig:
        answer = rig.ask(T_DISCARD, 0, FIRST_RANGE + ranges((8, 8, 2)))

        assert (answer.status, rig.disk.content()) == (UNSUPP, pattern(0, 64))


@pytest.mark.spec("BLK-28")
def test_discard_with_unmap_is_unsupported(form: Form) -> None:
    with BlockRig(form=form) as rig:
        answer = rig.ask(T_DISCARD, 0, ranges((0, 8, 1)))

        assert (answer.status, rig.disk.content()) == (UNSUPP, pattern(0, 64))


@pytest.mark.spec("BLK-29")
@pytest.mark.parametrize(
    "bad",
    [(64, 1), (60, 8), (0, 65), (1 << 55, 1), ((1 << 64) - 1, 2), (0, 0xFFFF_FFFF)],
    ids=lambda bad: f"{bad[0]:#x}+{bad[1]}",
)
def test_a_range_beyond_the_capacity_keeps_the_ones_before_from_being_applied(
    form: Form, bad: tuple[int, int]
) -> None:
    with BlockRig(form=form) as rig:
        answer = rig.ask(T_DISCARD, 0, FIRST_RANGE + ranges((*bad, 0)))

        assert (answer.status, rig.disk.trace) == (IOERR, [])
        assert rig.disk.content() == pattern(0, 64)


@pytest.mark.spec("BLK-29")
@pytest.mark.parametrize("bad", [(64, 1), (60, 8), ((1 << 64) - 1, 2)])
def test_zeroes_beyond_the_capacity_are_not_written(form: Form, bad: tuple[int, int]) -> None:
    with BlockRig(form=form) as rig:
        answer = rig.ask(T_WRITE_ZEROES, 0, ranges((*bad, 0)))

        assert (answer.status, rig.disk.content()) == (IOERR, pattern(0, 64))


@pytest.mark.spec("BLK-29")
@KINDS
def test_a_range_as_long_as_offered_succeeds_and_a_longer_one_fails(form: Form, kind: int) -> None:
    with BlockRig(Watched(RawDisk.scratch(4 << 30)), form) as rig:
        most = rig.field(MAX_SECTORS_AT[kind], 4)

        longest = rig.ask(kind, 0, ranges((0, most, 0))).status
        longer = rig.ask(kind, 0, ranges((0, most + 1, 0))).status

        assert (longest, longer, len(rig.disk.trace)) == (OK, IOERR, 1)


@pytest.mark.spec("BLK-30")
@pytest.mark.parametrize(("first", "sectors"), [(8, 16), (3, 5), (0, 64), (63, 1)])
def test_what_was_discarded_reads_as_before_or_as_zeros_and_the_rest_as_before(
    form: Form, make_disk: DiskMaker, first: int, sectors: int
) -> None:
    with BlockRig(make_disk(64), form) as rig:
        status = rig.ask(T_DISCARD, 0, ranges((first, sectors, 0))).status

        read = [rig.ask(T_IN, n, room=512).data for n in range(first, first + sectors)]
        allowed = [{bytes(512), pattern(n, 1)} for n in range(first, first + sectors)]
        rest = rig.disk.content(0, first), rig.disk.content(first + sectors, 64 - first - sectors)
        assert status == OK
        assert all(data in choices for data, choices in zip(read, allowed, strict=True))
        assert rest == (pattern(0, first), pattern(first + sectors, 64 - first - sectors))


@pytest.mark.spec("BLK-31")
@pytest.mark.parametrize("unmap", [0, 1])
@pytest.mark.parametrize(("first", "sectors"), [(8, 16), (3, 5), (7, 2), (0, 200), (199, 1)])
def test_a_range_of_zeroes_reads_as_zeros_and_the_rest_as_before(
    form: Form, make_disk: DiskMaker, first: int, sectors: int, unmap: int
) -> None:
    with BlockRig(make_disk(200), form) as rig:
        status = rig.ask(T_WRITE_ZEROES, 0, ranges((first, sectors, unmap))).status
        read = rig.ask(T_IN, first, room=512 * sectors)

        after = first + sectors
        assert (status, read.status, read.data) == (OK, OK, bytes(512 * sectors))
        assert rig.disk.content(0, first) == pattern(0, first)
        assert rig.disk.content(after, 200 - after) == pattern(after, 200 - after)


@pytest.mark.spec("BLK-32")
def test_zeroes_without_unmap_keep_the_storage(form: Form, make_disk: DiskMaker) -> None:
    with BlockRig(make_disk(2048), form) as rig:
        before = rig.disk.allocated_blocks()

        status = rig.ask(T_WRITE_ZEROES, 0, ranges((0, 2048, 0))).status

        assert (status, rig.disk.allocated_blocks()) == (OK, before)


@pytest.mark.spec("BLK-32")
def test_zeroes_with_unmap_give_storage_back_where_the_host_can(form: Form) -> None:
    with BlockRig(patterned(2048), form) as rig:
        before = rig.disk.allocated_blocks()

        status = rig.ask(T_WRITE_ZEROES, 0, ranges((0, 2048, 1))).status

        assert (status, before, rig.disk.allocated_blocks()) == (OK, 2048, 0)
