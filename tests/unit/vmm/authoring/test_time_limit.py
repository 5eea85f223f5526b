"""Code that makes no end is waited for no longer than its time."""

import threading

import pytest

from vmm.authoring.time_limit import within

DEADLINE = 60.0


def test_what_is_returned_or_raised_in_time_comes_back() -> None:
    def fail() -> int:
        raise KeyboardInterrupt

    assert within(DEADLINE, lambda: 7) == 7
    with pytest.raises(KeyboardInterrupt):
        within(DEADLINE, fail)


def test_a_loop_is_ended_when_its_time_is_over() -> None:
    ended = threading.Event()

    def loop() -> None:
        try:
            while True:
                pass
        finally:
            ended.set()

    with pytest.raises(TimeoutError):
        within(0.01, loop)
    assert ended.wait(DEADLINE)


def test_a_wait_is_left_to_itself() -> None:
    go_on = threading.Event()
    with pytest.raises(TimeoutError):
        within(0.01, go_on.wait)
    go_on.set()
