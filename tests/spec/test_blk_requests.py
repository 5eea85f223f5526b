"""The block device: requests, well-formed and not, and what becomes of their bytes."""

from itertools import pairwise

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
    T_GET_ID,
    T_IN,
    T_OUT,
    T_SECURE_ERASE,
    T_WRITE_ZEROES,
    UNSUPP,
    Answer,
    BlockRig,
    header,
    pattern,
    patterned,
    ranges,
    read_only,
)
from tests.spec.rig import Form
from tests.spec.watching import at_every_line
from virtio.testing import PackedDriver, QueueDriver, Segment, SplitDriver, flat_memory

UNKNOWN_TYPES = (2, 3, 5, 6, 7, 9, 12, 17, 19, 21, 23, 25, *range(27, 32))
HIGH_BITS = (1 << 31, 1 << 31 | 1, 0x100, 0x1_0000, 0xFFFF_FFFF)
ZONED_TYPES = (15, 16, 18, 20, 22, 24, 26)
FAR_SECTORS = (64, 65, 1 << 31, 1 << 32, 1 << 55, 1 << 63, (1 << 64) - 1)
PATHS = {
    "read": (header(T_IN, 1), 512, OK),
    "write": (header(T_OUT, 1) + b"w" * 512, 0, OK),
    "flush": (header(T_FLUSH), 0, OK),
    "identity": (header(T_GET_ID), 20, OK),
    "discard": (header(T_DISCARD) + ranges((0, 8, 0)), 0, OK),
    "zeroes": (header(T_WRITE_ZEROES) + ranges((0, 8, 0)), 0, OK),
    "nothing": (header(T_IN), 0, OK),
    "unknown": (header(99), 512, UNSUPP),
    "far": (header(T_IN, 64), 512, IOERR),
    "uneven": (header(T_IN), 511, IOERR),
    "headless": (b"short", 512, IOERR),
    "bad ranges": (header(T_DISCARD) + b"x", 0, IOERR),
}


def returned(ring: QueueDriver) -> bool:
    """Whether the first chain has been returned, as the driver sees it."""
    if isinstance(ring, SplitDriver):
        return ring.used_idx == 1
    assert isinstance(ring, PackedDriver)
    return ring.flags(0) & 0x8080 == 0x8080


@pytest.mark.spec("BLK-03")
def test_a_read_may_be_cut_at_every_byte(form: Form) -> None:
    request = header(T_IN, 5)
    with BlockRig(form=form, size=8) as rig:
        answers = {
            rig.ask_in_pieces([request[: cut % 17], request[cut % 17 :]], [cut, 1025 - cut])
            for cut in range(1, 1025)
        }

    assert answers == {Answer(OK, 1025, pattern(5, 2))}


@pytest.mark.spec("BLK-03")
def test_a_write_may_be_cut_at_every_byte(form: Form) -> None:
    with BlockRig(form=form, size=8) as rig:
        whole = header(T_OUT, 7) + pattern(40, 1)
        answers = set()
        for cut in range(1, len(whole)):
            rig.disk.disk.writev([memoryview(bytes(512))], 7 * 512)
            answers.add(
                (rig.ask_in_pieces([whole[:cut], whole[cut:]], [1]), rig.disk.content(7, 1))
            )

    assert answers == {(Answer(OK, 1, b""), pattern(40, 1))}


@pytest.mark.spec("BLK-03")
def test_a_request_may_come_in_single_bytes(form: Form) -> None:
    with BlockRig(form=form) as rig:
        answer = rig.ask_in_pieces([bytes([byte]) for byte in header(T_GET_ID)], [1] * 21)

    assert answer == Answer(OK, 21, bytes(20))


@pytest.mark.spec("BLK-03")
def test_a_range_may_straddle_descriptors_at_every_byte(form: Form) -> None:
    whole = header(T_DISCARD) + ranges((8, 16, 0), (32, 8, 0))
    with BlockRig(form=form, size=8) as rig:
        answers = {rig.ask_in_pieces([whole[:cut], whole[cut:]], [1]) for cut in range(1, 48)}

        assert answers == {Answer(OK, 1, b"")}
        assert set(rig.disk.trace) == {"discard 8+16", "discard 32+8"}


@pytest.mark.spec("BLK-04")
@pytest.mark.parametrize("length", [0, 1, 15])
def test_a_short_header_fails_without_any_access(form: Form, length: int) -> None:
    with BlockRig(form=form) as rig:
        answer = rig.ask_in_pieces([bytes(length)], [512, 1])

        assert answer == Answer(IOERR, 0, b"\xa5" * 512)
        assert (rig.disk.trace, rig.driver.status) == ([], 0x0F)


@pytest.mark.spec("BLK-04")
@pytest.mark.parametrize("kind", [T_OUT, T_FLUSH, T_DISCARD, 99])
def test_a_request_without_room_for_a_status_returns_without_any_access(
    form: Form, kind: int
) -> None:
    with BlockRig(form=form) as rig:
        used = rig.request(0, ((header(kind), bytes(512)), ()))

        assert (used.length, rig.disk.trace, rig.driver.status) == (0, [], 0x0F)


@pytest.mark.spec("BLK-05")
def test_the_status_may_share_a_descriptor_with_the_data(form: Form) -> None:
    with BlockRig(form=form) as rig:
        assert rig.ask_in_pieces([header(T_IN, 1)], [513]) == Answer(OK, 513, pattern(1, 1))


@pytest.mark.spec("BLK-05")
def test_readable_bytes_beside_the_header_of_a_read_are_ignored(form: Form) -> None:
    with BlockRig(form=form) as rig:
        answer = rig.ask_in_pieces([header(T_IN, 1), b"surplus"], [512, 1])

        assert (answer, rig.disk.content()) == (Answer(OK, 513, pattern(1, 1)), pattern(0, 64))


@pytest.mark.spec("BLK-05")
def test_writable_bytes_beside_the_status_of_a_write_are_ignored(form: Form) -> None:
    with BlockRig(form=form) as rig:
        answer = rig.ask_in_pieces([header(T_OUT, 1), pattern(9, 1)], [100, 1])

        assert (answer.status, answer.data) == (OK, b"\xa5" * 100)
        assert rig.disk.content(0, 3) == pattern(0, 1) + pattern(9, 1) + pattern(2, 1)


@pytest.mark.spec("BLK-06")
@pytest.mark.parametrize("path", PATHS)
def test_the_status_is_one_byte_written_before_the_request_is_returned(
    form: Form, path: str
) -> None:
    readable, room, status = PATHS[path]
    with BlockRig(form=form, size=8) as rig:
        area = rig.place(bytes([POISON] * 8))
        segments = [Segment(rig.place(readable), len(readable), False)]
        segments += [Segment(rig.place(bytes(room)), room, True), Segment(area + 3, 1, True)]
        rig.ring.add_segments(segments)
        rig.driver.notify(0)
        seen = set()

        at_every_line(
            lambda: seen.add((returned(rig.ring), rig.ring.read_bytes(area, 8))), rig.serve
        )

        blank, written = bytes([POISON] * 8), bytes([POISON] * 3 + [status] + [POISON] * 4)
        assert seen == {(False, blank), (False, written), (True, written)}


@pytest.mark.spec("BLK-06")
def test_a_failing_disk_is_told_in_the_status_alone(form: Form) -> None:
    with BlockRig(form=form, features=0) as rig:
        rig.disk.failures = {"read": 5, "write": 5, "flush": 5}

        answers = [
            rig.ask(T_IN, 0, room=512),
            rig.ask(T_OUT, 0, b"w" * 512),
            rig.ask(T_FLUSH),
        ]

        assert answers == [
            Answer(IOERR, 0, b"\xa5" * 512),
            Answer(IOERR, 1, b""),
            Answer(IOERR, 1, b""),
        ]


@pytest.mark.spec("BLK-07")
@pytest.mark.parametrize("length", [1, 511, 513, 1023])
def test_data_that_is_not_whole_sectors_fails_without_any_access(form: Form, length: int) -> None:
    with BlockRig(form=form) as rig:
        answers = [rig.ask(T_IN, 0, room=length), rig.ask(T_OUT, 0, b"w" * length)]

        assert answers == [Answer(IOERR, 0, b"\xa5" * length), Answer(IOERR, 1, b"")]
        assert rig.disk.trace == []


@pytest.mark.spec("BLK-07")
@pytest.mark.parametrize("kind", [T_IN, T_OUT])
def test_no_data_succeeds_without_any_access(form: Form, kind: int) -> None:
    with BlockRig(form=form) as rig:
        assert (rig.ask(kind, 1), rig.disk.trace) == (Answer(OK, 1, b""), [])


@pytest.mark.spec("BLK-08")
def test_the_last_sector_can_be_read_and_written(form: Form) -> None:
    with BlockRig(form=form) as rig:
        answers = [rig.ask(T_OUT, 63, pattern(7, 1)), rig.ask(T_IN, 63, room=512)]

    assert answers == [Answer(OK, 1, b""), Answer(OK, 513, pattern(7, 1))]


@pytest.mark.spec("BLK-08")
@pytest.mark.parametrize("sector", FAR_SECTORS)
def test_a_sector_beyond_the_capacity_fails_without_any_transfer(form: Form, sector: int) -> None:
    with BlockRig(form=form) as rig:
        answers = [rig.ask(T_IN, sector, room=512), rig.ask(T_OUT, sector, b"w" * 512)]

        assert answers == [Answer(IOERR, 0, b"\xa5" * 512), Answer(IOERR, 1, b"")]
        assert (rig.disk.trace, rig.disk.content()) == ([], pattern(0, 64))


@pytest.mark.spec("BLK-08")
def test_data_across_the_end_fails_without_any_transfer(form: Form) -> None:
    with BlockRig(form=form) as rig:
        answers = [rig.ask(T_IN, 63, room=1024), rig.ask(T_OUT, 63, b"w" * 1024)]

        assert answers == [Answer(IOERR, 0, b"\xa5" * 1024), Answer(IOERR, 1, b"")]
        assert rig.disk.content() == pattern(0, 64)


@pytest.mark.spec("BLK-09")
@pytest.mark.parametrize("kind", [*UNKNOWN_TYPES, *HIGH_BITS])
def test_an_unknown_type_is_unsupported(form: Form, kind: int) -> None:
    with BlockRig(form=form) as rig:
        answer = rig.ask(kind, 0, bytes(16), room=512)

        assert (answer, rig.disk.trace) == (Answer(UNSUPP, 0, b"\xa5" * 512), [])


@pytest.mark.spec("BLK-10")
@pytest.mark.parametrize("kind", [T_DISCARD, T_WRITE_ZEROES])
def test_a_type_whose_feature_was_declined_is_unsupported(form: Form, kind: int) -> None:
    with BlockRig(form=form, features=FLUSH | CONFIG_WCE) as rig:
        answer = rig.ask(kind, 0, ranges((0, 8, 0)))

        assert (answer, rig.disk.trace) == (Answer(UNSUPP, 1, b""), [])


@pytest.mark.spec("BLK-10")
def test_flush_is_honoured_although_its_feature_was_declined(form: Form) -> None:
    with BlockRig(form=form, features=0) as rig:
        assert (rig.ask(T_FLUSH).status, rig.disk.trace) == (OK, ["flush"])


@pytest.mark.spec("BLK-11")
@pytest.mark.parametrize("sectors", [1, 3, 64])
def test_a_full_read_counts_its_data_and_the_status(form: Form, sectors: int) -> None:
    with BlockRig(form=form) as rig:
        assert rig.ask(T_IN, 0, room=512 * sectors).length == 512 * sectors + 1


@pytest.mark.spec("BLK-11")
@pytest.mark.parametrize(
    ("kind", "data"),
    [(T_OUT, bytes(512)), (T_FLUSH, b""), (T_DISCARD, ranges((0, 8, 0))), (99, b"")],
)
def test_a_request_with_nothing_to_read_counts_the_status_alone(
    form: Form, kind: int, data: bytes
) -> None:
    with BlockRig(form=form) as rig:
        assert rig.ask(kind, 0, data).length == 1


@pytest.mark.spec("BLK-12")
def test_a_failed_read_counts_no_data(form: Form) -> None:
    with BlockRig(form=form) as rig:
        rig.disk.failures["read"] = 5

        assert rig.ask(T_IN, 0, room=1024) == Answer(IOERR, 0, b"\xa5" * 1024)


@pytest.mark.spec("BLK-12")
def test_a_read_that_fails_half_way_counts_no_more_than_it_wrote(form: Form) -> None:
    memory = flat_memory((0, 16 << 20))
    with BlockRig(patterned(LARGE // 512), form, size=8, memory=memory) as rig:
        rig.start_large(T_IN)
        rig.disk.failures["read"] = 5

        rig.finish()

        [used] = rig.ring.collect()
        assert (used.length <= 8 << 20, used.data[-1]) == (True, IOERR)
        assert used.data[: used.length] == pattern(0, used.length // 512)


@pytest.mark.spec("BLK-16")
@pytest.mark.parametrize("features", [0, RO], ids=["declined", "accepted"])
@pytest.mark.parametrize("kind", [T_OUT, T_DISCARD, T_WRITE_ZEROES, T_SECURE_ERASE])
def test_a_read_only_disk_fails_every_change_and_keeps_its_content(
    form: Form, features: int, kind: int
) -> None:
    with BlockRig(read_only(), form, features) as rig:
        answers = [rig.ask(kind, 0, ranges((0, 8, 0))), rig.ask(kind, 0, b"w" * 512)]

        assert [one.status for one in answers] == [IOERR, IOERR]
        assert (rig.disk.trace, rig.disk.content()) == ([], pattern(0, 64))


@pytest.mark.spec("BLK-24")
@pytest.mark.parametrize("sector", [5, (1 << 64) - 1])
def test_sector_and_data_of_a_flush_are_ignored(form: Form, sector: int) -> None:
    with BlockRig(form=form) as rig:
        answer = rig.ask(T_FLUSH, sector, b"not used", room=7)

        assert (answer.status, answer.data, rig.disk.trace) == (OK, b"\xa5" * 7, ["flush"])


@pytest.mark.spec("BLK-34")
def test_secure_erase_is_unsupported(form: Form) -> None:
    with BlockRig(form=form) as rig:
        answer = rig.ask(T_SECURE_ERASE, 0, ranges((0, 8, 0)))

        assert (answer, rig.disk.trace) == (Answer(UNSUPP, 1, b""), [])


@pytest.mark.spec("BLK-35")
@pytest.mark.parametrize("serial", ["", "disk0", "exactly-20-character"])
def test_the_identity_has_20_bytes_padded_with_nul(form: Form, serial: str) -> None:
    with BlockRig(form=form, serial=serial) as rig:
        expected = (serial.encode() + bytes(20))[:20]

        assert rig.ask(T_GET_ID, room=20) == Answer(OK, 21, expected)


@pytest.mark.spec("BLK-35")
@pytest.mark.parametrize("room", [0, 1, 10, 19])
def test_a_short_room_gets_the_beginning_of_the_identity(form: Form, room: int) -> None:
    with BlockRig(form=form, serial="abcdefghijklmnopqrst") as rig:
        expected = b"abcdefghijklmnopqrst"[:room]

        assert rig.ask(T_GET_ID, room=room) == Answer(OK, room + 1, expected)


@pytest.mark.spec("BLK-35")
def test_no_more_than_20_bytes_are_written_to_a_long_room(form: Form) -> None:
    with BlockRig(form=form, serial="abc") as rig:
        answer = rig.ask(T_GET_ID, room=30)

    assert (answer.status, answer.length) == (OK, 20)
    assert answer.data == b"abc" + bytes(17) + b"\xa5" * 10


@pytest.mark.spec("BLK-39")
def test_requests_that_overtake_each_other_keep_their_own_data_and_status(form: Form) -> None:
    memory = flat_memory((0, 24 << 20))
    sectors = 2 * LARGE // 512
    with BlockRig(patterned(sectors), form, size=64, memory=memory) as rig:
        large = [
            rig.start_large(T_IN, 0, at=4 << 20),
            rig.start_large(T_IN, LARGE // 512, at=14 << 20),
        ]
        wanted = [17, 20000, sectors, 3, sectors + 1, 36863]
        small = {rig.add(0, ((header(T_IN, one),), (512, 1))): one for one in wanted}
        rig.serve()

        rig.finish()

        used = {one.token: one for one in rig.ring.collect()}
        assert set(used) == {*large, *small}
        assert {small[token]: used[token].data[-1] for token in small} == {
            17: OK,
            20000: OK,
            sectors: IOERR,
            3: OK,
            sectors + 1: IOERR,
            36863: OK,
        }
        read = {sector: used[token].data[:512] for token, sector in small.items()}
        assert [read[one] for one in (17, 20000, 3)] == [pattern(n, 1) for n in (17, 20000, 3)]
        assert [used[token].data[-1] for token in large] == [OK, OK]
        assert used[large[0]].data[:-1] == pattern(0, LARGE // 512)
        assert used[large[1]].data[:-1] == pattern(LARGE // 512, LARGE // 512)


@pytest.mark.spec("BLK-39")
def test_the_answers_of_a_long_run_of_requests_match_their_sectors(form: Form) -> None:
    with BlockRig(form=form, size=256, queues=2) as rig:
        sectors = [(7 * n) % 64 for n in range(80)]
        tokens = [
            rig.add(n % 2, ((header(T_IN, sector),), (512, 1))) for n, sector in enumerate(sectors)
        ]

        rig.serve()

        found = {(q, one.token): one.data for q in (0, 1) for one in rig.rings[q].collect()}
        answers = [found[n % 2, token] for n, token in enumerate(tokens)]
        assert answers == [pattern(sector, 1) + b"\0" for sector in sectors]


@pytest.mark.spec("BLK-43")
@pytest.mark.parametrize("kind", [10, *ZONED_TYPES])
def test_the_requests_of_lifetime_and_zoned_are_unsupported(form: Form, kind: int) -> None:
    with BlockRig(form=form) as rig:
        answer = rig.ask(kind, 0, bytes(16), room=64)

        assert (answer, rig.disk.trace) == (Answer(UNSUPP, 0, b"\xa5" * 64), [])


def test_the_pattern_tells_every_sector_from_the_next() -> None:
    assert all(one != other for one, other in pairwise(pattern(n, 1) for n in range(64)))
