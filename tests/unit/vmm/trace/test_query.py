"""Questions that a test asks a trace."""

import pytest

from tests.unit.vmm.trace.example import STORY, WHERE, taken
from vmm.trace.events import Completed, Interrupt, Kick, Reset
from vmm.trace.query import Trace


def writes_and_a_flush() -> Trace:
    events = [Kick(0, *WHERE)]
    for number in range(3):
        at = 10 * number
        events += [taken(at + 1, number, "write"), Completed(at + 2, *WHERE, number, 1)]  # type: ignore[list-item]
    events += [Interrupt(40, *WHERE), taken(50, 7, "flush"), taken(60, 8, "write")]  # type: ignore[list-item]
    return Trace(events)


def test_between_has_the_first_and_not_the_last() -> None:
    trace = writes_and_a_flush()
    assert trace.between("write", "flush").count(kind="write") == 3
    assert trace.between("write", "flush").count("interrupt") == 1


def test_no_request_after_the_reset() -> None:
    trace = Trace([*STORY, Reset(50_000, "vcpu-0", "block0")])
    assert not trace.after("reset").select("taken")
    assert trace.before("block0 reset").count("taken") == 2


def test_at_most_one_interrupt_for_two_completions() -> None:
    trace = Trace(STORY)
    assert trace.count("interrupt") * 2 <= trace.count("completed")


def test_requests_have_their_times() -> None:
    first, second = Trace(STORY).requests
    assert (first.kick, first.taken.at, first.completed, first.interrupt) == (
        *(10_000, 11_000),
        *(16_000, 17_000),
    )
    assert (second.kick, second.begin, second.end) == (0, 11_100, 17_000)


def test_a_chain_that_was_not_given_back_is_unanswered() -> None:
    assert [one.id for one in writes_and_a_flush().unanswered] == [7, 8]


def test_what_is_not_there_is_told_with_the_story() -> None:
    with pytest.raises(LookupError, match=r"no event fits 'flush'(.|\n)*the guest runs"):
        Trace(STORY).first("flush")


def test_an_assertion_that_fails_shows_the_story() -> None:
    assert "QueueNotify = 0" in repr(Trace(STORY))
    assert "and 60 more" in repr(Trace(STORY * 8)[:100])
