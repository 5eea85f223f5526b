"""The memory balloon. VIRTIO 1.4 "Traditional Memory Balloon Device"."""

from collections.abc import Callable, Iterator

import pytest

from tests.spec.bal import (
    ACTUAL,
    DEFLATE,
    DONE,
    EVERYTHING,
    F_FREE_PAGE_HINT,
    F_PAGE_POISON,
    F_REPORTING,
    F_STATS_VQ,
    HINT,
    HINT_ID,
    INFLATE,
    NUM_PAGES,
    PAGE,
    POISON,
    RAM_BYTES,
    REPORT,
    STATS,
    STOP,
    BalloonRig,
    entries,
    numbers_of,
)
from tests.spec.rig import Form
from virtio.balloon import Balloon, BalloonStatistics
from virtio.device.lifecycle import Activation
from virtio.errors import ConfigurationError
from virtio.testing import flat_memory
from virtio.virtqueue.queue import Queue

BalloonMaker = Callable[..., BalloonRig]
LAST_PAGE = RAM_BYTES // PAGE - 1
HIGH = 3 << 20


@pytest.fixture
def make_balloon(form: Form) -> Iterator[BalloonMaker]:
    """A function that makes a live balloon, which is closed after the test."""
    rigs: list[BalloonRig] = []

    def make(*features: int, **options: object) -> BalloonRig:
        rigs.append(BalloonRig(form, *features, **options))  # type: ignore[arg-type]
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make_balloon: BalloonMaker) -> BalloonRig:
    """A live balloon, with all that it can do."""
    return make_balloon()


# Pages in the balloon


@pytest.mark.spec("BAL-01")
def test_pages_are_given_back_as_few_ranges(rig: BalloonRig) -> None:
    assert rig.inflate(900, 902, 901, 800) == [
        (800 * PAGE, PAGE, False),
        (900 * PAGE, 3 * PAGE, False),
    ]


@pytest.mark.spec("BAL-01")
@pytest.mark.parametrize(
    "number", [LAST_PAGE + 1, 0x8000_0000, 0xFFFF_FFFF], ids=["next", "far", "last"]
)
def test_pages_outside_of_ram_are_skipped(number: int, rig: BalloonRig) -> None:
    assert rig.inflate(number, LAST_PAGE, number) == [(LAST_PAGE * PAGE, PAGE, False)]
    assert rig.driver.status == 0x0F


@pytest.mark.spec("BAL-01")
def test_hole_between_two_parts_of_ram_is_left_alone(make_balloon: BalloonMaker) -> None:
    memory = flat_memory((0, RAM_BYTES), (RAM_BYTES + 2 * PAGE, 4 * PAGE))
    rig = make_balloon(memory=memory)

    given = rig.inflate(*range(LAST_PAGE, LAST_PAGE + 9))

    assert given == [
        (LAST_PAGE * PAGE, PAGE, False),
        (RAM_BYTES + 2 * PAGE, 4 * PAGE, False),
    ]


@pytest.mark.spec("BAL-01")
@pytest.mark.parametrize("extra", [1, 2, 3])
def test_part_of_a_number_is_skipped(extra: int, rig: BalloonRig) -> None:
    rig.send(INFLATE, numbers_of([900]) + bytes([1, 3, 0])[:extra])

    assert rig.given == [(900 * PAGE, PAGE, False)]


@pytest.mark.spec("BAL-01")
@pytest.mark.parametrize("cuts", [(1, 2, 1), (3, 4, 1), (4, 4), (8,)])
def test_numbers_are_read_across_segments(cuts: tuple[int, ...], rig: BalloonRig) -> None:
    data = numbers_of([900, 0x0000_0302])
    parts = []
    for length in (*cuts, len(data) - sum(cuts)):
        parts.append(data[:length])
        data = data[length:]
    rig.add(INFLATE, ([part for part in parts if part], ()))
    rig.settle()

    assert rig.given == [(0x302 * PAGE, PAGE, False), (900 * PAGE, PAGE, False)]


@pytest.mark.spec("BAL-01")
def test_buffer_without_numbers_comes_back(rig: BalloonRig) -> None:
    rig.send(INFLATE, b"", 4096)
    rig.send(INFLATE, b"abc")

    assert rig.given == []


@pytest.mark.spec("BAL-02")
def test_page_that_comes_twice_is_harmless(rig: BalloonRig) -> None:
    assert rig.inflate(900, 900) == [(900 * PAGE, PAGE, False)]
    assert rig.inflate(900) == [(900 * PAGE, PAGE, False)]


@pytest.mark.spec("BAL-02")
def test_pages_are_given_back_before_their_buffer(rig: BalloonRig) -> None:
    returned: list[int] = []
    take = rig.balloon._discard

    def watching(address: int, length: int, *, zeroed: bool) -> None:
        returned.append(len(rig.rings[INFLATE].collect()))
        take(address, length, zeroed=zeroed)

    rig.balloon._discard = watching
    rig.add(INFLATE, ((numbers_of([900, 902]),), ()))
    rig.settle()

    assert returned == [0, 0]
    assert len(rig.rings[INFLATE].collect()) == 1


@pytest.mark.spec("BAL-02")
def test_only_whole_pages_of_the_host_are_given_back(make_balloon: BalloonMaker) -> None:
    rig = make_balloon(host_page_bytes=4 * PAGE)

    assert rig.inflate(900, 901, 902) == []
    assert rig.inflate(*range(897, 906)) == [(900 * PAGE, 4 * PAGE, False)]


@pytest.mark.spec("BAL-02")
def test_pages_of_the_host_are_counted_from_the_start_of_a_region(
    make_balloon: BalloonMaker,
) -> None:
    start = RAM_BYTES + 2 * PAGE
    rig = make_balloon(memory=flat_memory((0, RAM_BYTES), (start, 8 * PAGE)), host_page_bytes=16384)

    assert rig.inflate(*range(start // PAGE, start // PAGE + 8)) == [(start, 8 * PAGE, False)]


@pytest.mark.spec("BAL-02")
def test_balloon_that_takes_everything_leaves_a_live_device(make_balloon: BalloonMaker) -> None:
    rig = make_balloon(memory=flat_memory((0, RAM_BYTES), (8 << 20, 16 << 20)))
    numbers = range((8 << 20) // PAGE, (24 << 20) // PAGE)
    rig.balloon.num_pages = 0xFFFF_FFFF

    given = rig.inflate(*numbers)

    assert sum(length for _, length, _ in given) == 16 << 20
    assert rig.driver.status == 0x0F
    rig.send(DEFLATE, numbers_of([*numbers]))


@pytest.mark.spec("BAL-02")
def test_large_request_is_done_in_turns(rig: BalloonRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("virtio.balloon.device.TURN_NS", -1)
    rig.add(INFLATE, ((numbers_of([800, 900]),), ()))

    for _ in range(9):
        assert rig.balloon.handle_queue(INFLATE), "a turn without time does nothing, and comes back"
    assert rig.given == []

    monkeypatch.undo()
    rig.settle()
    assert len(rig.given) == 2


@pytest.mark.spec("BAL-02")
def test_pages_that_leave_the_balloon_change_nothing(rig: BalloonRig) -> None:
    rig.inflate(900)
    rig.given.clear()

    rig.send(DEFLATE, numbers_of([900, 0xFFFF_FFFF]))

    assert rig.given == []


@pytest.mark.spec("BAL-02")
@pytest.mark.parametrize("queue", [INFLATE, REPORT])
def test_reset_stops_a_request_in_the_midst(
    queue: int, rig: BalloonRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = rig.balloon._discard

    def once(address: int, length: int, *, zeroed: bool) -> None:
        take(address, length, zeroed=zeroed)
        monkeypatch.setattr("virtio.balloon.device.time.monotonic_ns", lambda: 1 << 63)

    rig.balloon._discard = once
    monkeypatch.setattr("virtio.balloon.device.time.monotonic_ns", lambda: 0)
    if queue == INFLATE:
        rig.add(queue, ((numbers_of([*range(600, 900)]),), ()))
    else:
        rig.name(queue, (HIGH, 2 * PAGE), (HIGH + 4 * PAGE, 2 * PAGE), queued=True)
    rig.balloon.handle_queue(queue)
    before = list(rig.given)
    assert before

    rig.driver.status = 0
    monkeypatch.undo()
    rig.settle()

    assert rig.given == before
    assert not rig.balloon._work


# Configuration


@pytest.mark.spec("BAL-03")
def test_driver_hears_of_a_new_target(rig: BalloonRig) -> None:
    before = rig.line.edges
    rig.balloon.num_pages = 77

    assert rig.number(NUM_PAGES) == 77
    assert rig.line.edges > before


@pytest.mark.spec("BAL-03")
@pytest.mark.parametrize("claim", [1, 0xFFFF_FFFF])
def test_what_the_driver_says_of_its_size_is_told_and_not_believed(
    claim: int, rig: BalloonRig
) -> None:
    heard: list[int] = []
    rig.balloon.on_actual = heard.append
    rig.balloon.num_pages = 5

    rig.set_number(ACTUAL, claim)

    assert heard == [claim]
    assert (rig.number(NUM_PAGES), rig.number(ACTUAL)) == (5, claim)
    assert rig.given == []


@pytest.mark.spec("BAL-03")
def test_driver_does_not_change_the_target(rig: BalloonRig) -> None:
    rig.balloon.num_pages = 5

    rig.set_number(NUM_PAGES, 9)

    assert rig.number(NUM_PAGES) == 5


@pytest.mark.spec("BAL-03")
def test_target_outlives_a_reset_and_the_rest_does_not(rig: BalloonRig) -> None:
    rig.balloon.num_pages = 5
    rig.set_number(ACTUAL, 3)
    rig.set_number(POISON, 0xAAAA_AAAA)
    rig.ask()

    rig.driver.status = 0

    assert [rig.number(at) for at in (NUM_PAGES, ACTUAL, HINT_ID, POISON)] == [5, 0, STOP, 0]


@pytest.mark.spec("BAL-03")
def test_deflation_when_the_guest_lacks_memory_is_a_choice(form: Form) -> None:
    offered = Balloon(bool, deflates_on_oom=True).device_features  # type: ignore[arg-type]
    refused = Balloon(bool, deflates_on_oom=False).device_features  # type: ignore[arg-type]

    assert (offered & 63, refused & 63) == (63, 63 - 4)


# Statistics


@pytest.mark.spec("BAL-04")
def test_statistics_come_in_any_order(rig: BalloonRig) -> None:
    rig.add(STATS, ((entries((5, 1 << 40), (4, 77), (6, 5), (0, 9), (15, 3)),), ()))
    rig.settle()

    assert rig.told == [
        BalloonStatistics(
            swap_in_bytes=9,
            free_bytes=77,
            total_bytes=1 << 40,
            available_bytes=5,
            direct_reclaims=3,
        )
    ]


@pytest.mark.spec("BAL-04")
@pytest.mark.parametrize(
    "data",
    [
        entries((4, 1), (16, 2), (0xFFFF, 3), (4, 77)),
        entries((4, 77)) + entries((5, 1))[:9],
        entries((4, 77)) + b"\5",
    ],
    ids=["unknown", "short tail", "shorter tail"],
)
def test_what_is_no_known_entry_is_ignored(data: bytes, rig: BalloonRig) -> None:
    rig.add(STATS, ((data,), ()))
    rig.settle()

    assert rig.told == [BalloonStatistics(free_bytes=77)]


@pytest.mark.spec("BAL-04")
def test_buffer_is_held_until_the_host_polls(rig: BalloonRig) -> None:
    rig.add(STATS, ((entries((4, 1)),), ()))
    rig.settle()
    assert rig.rings[STATS].collect() == []

    rig.balloon.poll()
    rig.settle()
    assert [used.length for used in rig.rings[STATS].collect()] == [0]

    rig.balloon.poll()  # one that has been asked is asked once
    rig.settle()
    rig.add(STATS, ((entries((4, 2)),), ()))
    rig.settle()
    assert rig.rings[STATS].collect() == []
    assert [one.free_bytes for one in rig.told] == [1, 2]


@pytest.mark.spec("BAL-04")
def test_driver_with_two_buffers_gets_the_older_one_back(rig: BalloonRig) -> None:
    first = rig.add(STATS, ((entries((4, 1)),), ()))
    rig.add(STATS, ((entries((4, 2)),), ()))
    rig.settle()

    assert [used.token for used in rig.rings[STATS].collect()] == [first]


@pytest.mark.spec("BAL-04")
def test_held_buffer_goes_with_a_reset(rig: BalloonRig) -> None:
    rig.add(STATS, ((entries((4, 1)),), ()))
    rig.settle()

    rig.driver.status = 0
    rig.balloon.poll()
    rig.settle()

    assert rig.balloon._statistics_buffer is None
    assert rig.rings[STATS].collect() == []


# Hints


@pytest.mark.spec("BAL-05")
def test_hints_are_collected_and_change_nothing(rig: BalloonRig) -> None:
    command = rig.ask()
    assert command >= 2

    rig.say(command)
    rig.name(HINT, (HIGH, 2 * PAGE), (HIGH + 9 * PAGE, PAGE))
    assert (rig.hinted, rig.balloon.hints) == (0, None)
    rig.say(STOP)

    assert rig.hinted == 1
    assert rig.balloon.hints == [(HIGH, 2 * PAGE), (HIGH + 9 * PAGE, PAGE)]
    assert rig.given == []


@pytest.mark.spec("BAL-05")
@pytest.mark.parametrize("stale", ["other", "older", "none"])
def test_hints_for_another_command_are_ignored(stale: str, rig: BalloonRig) -> None:
    older = rig.ask()
    command = rig.ask()
    assert command != older
    if stale != "none":
        rig.say({"other": command + 7, "older": older}[stale])
    rig.send(HINT, b"", PAGE)
    rig.say(STOP)
    assert (rig.hinted, rig.balloon.hints) == (0, None)

    rig.say(command)
    rig.say(STOP)
    assert (rig.hinted, rig.balloon.hints) == (1, [])


@pytest.mark.spec("BAL-05")
def test_no_command_has_the_number_of_one_before(rig: BalloonRig) -> None:
    seen = []
    for _ in range(5):
        seen.append(rig.ask())
        rig.balloon.end_hints()
        rig.settle()

    assert len(set(seen)) == 5
    assert min(seen) >= 2


@pytest.mark.spec("BAL-05")
def test_numbers_of_commands_skip_those_with_a_meaning(rig: BalloonRig) -> None:
    rig.balloon._hints.last_id = 0xFFFF_FFFE

    assert [rig.ask(), rig.ask(), rig.ask()] == [0xFFFF_FFFF, 2, 3]


@pytest.mark.spec("BAL-05")
def test_hints_are_over_with_done(rig: BalloonRig) -> None:
    rig.say(rig.ask())
    rig.send(HINT, b"", PAGE)
    rig.balloon.end_hints()
    rig.settle()
    rig.send(HINT, b"", PAGE)
    rig.say(STOP)

    assert rig.number(HINT_ID) == DONE
    assert (rig.hinted, rig.balloon.hints) == (0, None)
    assert rig.given == []


@pytest.mark.spec("BAL-05")
def test_hints_behind_the_end_of_a_command_are_ignored(rig: BalloonRig) -> None:
    command = rig.ask()
    rig.say(command)
    rig.say(STOP)
    rig.say(command)
    rig.send(HINT, b"", PAGE)
    rig.say(STOP)

    assert (rig.hinted, rig.balloon.hints) == (1, [])


@pytest.mark.spec("BAL-05")
def test_hints_without_end_are_limited(rig: BalloonRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("virtio.balloon.hints.MAX_RANGES", 3)
    rig.say(rig.ask())
    for _ in range(5):
        rig.send(HINT, b"", PAGE, PAGE)
    rig.say(STOP)

    assert len(rig.balloon.hints or ()) == 3


@pytest.mark.spec("BAL-05")
@pytest.mark.parametrize("data", [b"\2", b"\2\0\0"])
def test_command_of_too_few_bytes_is_none(data: bytes, rig: BalloonRig) -> None:
    command = rig.ask()
    assert command == 2
    rig.send(HINT, data)
    rig.send(HINT, b"", PAGE)
    rig.say(STOP)

    assert rig.hinted == 0


@pytest.mark.spec("BAL-05")
def test_nobody_is_asked_who_does_not_hint(make_balloon: BalloonMaker) -> None:
    rig = make_balloon(EVERYTHING - F_FREE_PAGE_HINT)

    assert not rig.balloon.can_hint
    assert rig.ask() == STOP


# Reports


@pytest.mark.spec("BAL-06")
@pytest.mark.parametrize(
    ("features", "zeroed"), [(F_REPORTING | F_PAGE_POISON, True), (F_REPORTING, False)]
)
def test_whole_pages_that_are_reported_are_given_back(
    features: int, zeroed: bool, make_balloon: BalloonMaker
) -> None:
    rig = make_balloon(features)

    rig.name(2, (HIGH, 3 * PAGE), (HIGH + 9 * PAGE - 1, PAGE + 2), (HIGH + 20 * PAGE, PAGE - 1))

    assert rig.given == [(HIGH, 3 * PAGE, zeroed), (HIGH + 9 * PAGE, PAGE, zeroed)]


@pytest.mark.spec("BAL-06")
def test_reported_pages_are_given_back_before_their_buffer(rig: BalloonRig) -> None:
    returned: list[int] = []
    take = rig.balloon._discard

    def watching(address: int, length: int, *, zeroed: bool) -> None:
        returned.append(len(rig.rings[REPORT].collect()))
        take(address, length, zeroed=zeroed)

    rig.balloon._discard = watching
    rig.name(REPORT, (HIGH, PAGE), (HIGH + 2 * PAGE, PAGE))

    assert returned == [0, 0]


@pytest.mark.spec("BAL-06")
def test_pages_that_must_hold_a_poison_are_left_alone(rig: BalloonRig) -> None:
    rig.set_number(POISON, 0xAAAA_AAAA)
    rig.name(REPORT, (HIGH, 4 * PAGE))
    assert rig.given == []

    rig.set_number(POISON, 0)
    rig.name(REPORT, (HIGH, 4 * PAGE))
    assert rig.given == [(HIGH, 4 * PAGE, True)]


@pytest.mark.spec("BAL-06")
def test_large_report_is_given_back_in_pieces(make_balloon: BalloonMaker) -> None:
    rig = make_balloon(memory=flat_memory((0, RAM_BYTES), (8 << 20, 32 << 20)))

    rig.name(REPORT, (8 << 20, 32 << 20))

    assert len(rig.given) == 8
    assert sum(length for _, length, _ in rig.given) == 32 << 20


@pytest.mark.spec("BAL-06")
@pytest.mark.parametrize(
    ("features", "queues"),
    [
        (0, 2),
        (F_STATS_VQ, 3),
        (F_FREE_PAGE_HINT, 3),
        (F_REPORTING, 3),
        (F_STATS_VQ | F_REPORTING, 4),
        (EVERYTHING, 5),
    ],
)
def test_queues_are_those_of_accepted_features(
    features: int, queues: int, make_balloon: BalloonMaker
) -> None:
    assert make_balloon(features).present_queues() == list(range(queues))


# State


@pytest.mark.spec("BAL-05")
def test_restored_driver_is_told_that_hints_are_over(form: Form) -> None:
    rig = BalloonRig(form)
    command = rig.ask()
    rig.say(command)
    rig.send(HINT, b"", PAGE)
    rig.add(STATS, ((entries((4, 7)),), ()))
    rig.settle()
    rig.balloon.num_pages = 9

    copy = restored(rig)
    told: list[BalloonStatistics] = []
    copy.on_statistics = told.append
    rig.loop.advance()
    copy.handle_queue(STATS)

    assert (copy.num_pages, copy.free_page_hint_cmd_id) == (9, DONE)
    assert copy.hints is None
    assert told == [BalloonStatistics(free_bytes=7)]
    copy.ask_for_hints()
    rig.loop.advance()
    assert copy.free_page_hint_cmd_id == command + 1
    rig.close()


def restored(rig: BalloonRig) -> Balloon:
    """Return a balloon that goes on where a rig's is, on its memory."""
    state = rig.balloon.state()
    rings = [queue.state() for queue in rig.balloon.queues if queue is not None]
    copy = Balloon(rig._take, ring_features=rig.balloon.ring_features)
    copy.negotiated(rig.balloon.driver_features)
    copy.restore(state)
    queues = [Queue.from_state(rig.memory, one) for one in rings]
    features = rig.balloon.driver_features
    copy.activate(Activation(rig.memory, features, [*queues], lambda: None, rig.loop))
    return copy


@pytest.mark.spec("BAL-05")
@pytest.mark.parametrize("value", [0, -1, 1 << 32, True, "2", None])
def test_saved_state_that_cannot_be_is_refused(value: object, rig: BalloonRig) -> None:
    with pytest.raises(ConfigurationError, match="last_hint_id"):
        rig.balloon.restore(rig.balloon.state() | {"last_hint_id": value})


@pytest.mark.spec("BAL-01")
@pytest.mark.parametrize("queue", [INFLATE, HINT, REPORT])
@pytest.mark.parametrize("part", [(RAM_BYTES, PAGE), (RAM_BYTES - PAGE, 2 * PAGE), (1 << 40, 4)])
def test_buffer_outside_of_ram_breaks_the_device(
    part: tuple[int, int], queue: int, rig: BalloonRig
) -> None:
    rig.name(queue, part, queued=True)
    rig.settle()

    assert rig.given == []
    assert rig.driver.status & 0x40
