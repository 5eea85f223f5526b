"""A deadline of a block: it passes, or the block is done before."""

import threading

from vmm.ending.deadline import deadline

FOREVER_SECONDS = 1000
PATIENCE_SECONDS = 20


def test_call_is_made_while_the_block_still_waits() -> None:
    passed = threading.Event()

    with deadline(0.001, passed.set):
        assert passed.wait(PATIENCE_SECONDS)


def test_block_that_is_done_in_time_leaves_no_thread() -> None:
    before = threading.active_count()
    calls: list[None] = []

    with deadline(FOREVER_SECONDS, lambda: calls.append(None)):
        pass

    assert (threading.active_count(), calls) == (before, [])
