"""Deadlines on the monotonic clock."""

import math
import threading
import time

import pytest

from vmm.host.clock import deadline_in


@pytest.mark.parametrize("seconds", [math.inf, 1e300, 60.0])
def test_a_lock_can_be_waited_for_until_any_deadline(seconds: float) -> None:
    left = deadline_in(seconds) - time.monotonic()

    assert threading.Lock().acquire(timeout=left)


def test_a_deadline_is_so_many_seconds_from_now() -> None:
    before = time.monotonic()

    assert before + 5 <= deadline_in(5) <= time.monotonic() + 5
