"""What several tests of the monitor use: a loop on the test's own thread, and a pipe."""

import os
from collections.abc import Iterator

import pytest

from vmm.host.loop import EventLoop

DEADLINE_SECONDS = 20


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    with EventLoop() as loop:
        # A test that goes wrong ends instead of hanging.
        loop.call_later(DEADLINE_SECONDS, loop.stop)
        yield loop


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)
