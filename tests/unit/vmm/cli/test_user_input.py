"""The descriptor of the user's input, with another standard input in place."""

import os
import pty
from collections.abc import Iterator

import pytest

from vmm.cli.user_input import user_input


@pytest.fixture
def standard_input() -> Iterator[None]:
    """Keep this process' own, and forget what was found out about another."""
    kept = os.dup(0)
    user_input.cache_clear()
    yield
    os.dup2(kept, 0)
    os.close(kept)
    user_input.cache_clear()


def test_terminal_is_read_without_waiting_and_the_shells_flags_stay(standard_input: None) -> None:
    user, terminal = pty.openpty()
    os.dup2(terminal, 0)

    fd = user_input()

    with pytest.raises(BlockingIOError):
        os.read(fd, 1)
    blocking = os.get_blocking(0)
    os.write(user, b"typed\n")
    assert (blocking, os.read(fd, 64)) == (True, b"typed\n")
    for one in (fd, user, terminal):
        os.close(one)


def test_pipe_is_read_as_it_is(standard_input: None) -> None:
    reading, writing = os.pipe()
    os.dup2(reading, 0)

    assert user_input() == 0
    os.close(reading)
    os.close(writing)


def test_terminal_that_may_not_be_opened_is_read_as_it_is(
    standard_input: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, terminal = pty.openpty()
    os.dup2(terminal, 0)

    def refuse(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert user_input() == 0
    os.close(user)
    os.close(terminal)
