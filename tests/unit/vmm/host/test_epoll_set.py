"""The epoll set: ghosts of duplicated descriptors leave it, whatever became of their number."""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from virtio.errors import HostError
from vmm.host.epoll_set import EpollSet

AT_ONCE = 0
MOST = 8
EPOLLIN = 1


def nothing() -> None:
    """Do nothing: the callback of a descriptor."""


def something_else() -> None:
    """Do nothing either."""


@pytest.fixture
def watched() -> Iterator[EpollSet]:
    with EpollSet() as watched:
        yield watched


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def readable_pipe(resources: ExitStack) -> int:
    """Return the reading end of a pipe with something in it, which the test closes."""
    reading, writing = os.pipe()
    resources.callback(os.close, writing)
    os.write(writing, b"x")
    return reading


def reused_for_a_readable_pipe(number: int, resources: ExitStack) -> None:
    """Make a closed ``number`` the reading end of another pipe with something in it."""
    reading = readable_pipe(resources)
    if reading != number:
        os.dup2(reading, number)
        os.close(reading)
    resources.callback(os.close, number)


def close_with_a_living_duplicate(number: int, resources: ExitStack) -> None:
    resources.callback(os.close, os.dup(number))
    os.close(number)


def events(watched: EpollSet) -> list[tuple[int, int]]:
    """Return what is ready, as a loop would see it in its next round."""
    if watched.stale:
        watched.renew()
    return watched.poll(AT_ONCE, MOST)


def test_descriptor_removed_in_time_leaves_no_suspicion(
    watched: EpollSet, resources: ExitStack
) -> None:
    reading = readable_pipe(resources)
    watched.add(watched.readers, reading, nothing)

    watched.remove(watched.readers, reading)
    close_with_a_living_duplicate(reading, resources)

    assert not watched.stale
    assert events(watched) == []


def test_descriptor_closed_before_it_is_removed_is_reported_no_more(
    watched: EpollSet, resources: ExitStack
) -> None:
    reading = readable_pipe(resources)
    watched.add(watched.readers, reading, nothing)
    close_with_a_living_duplicate(reading, resources)

    watched.remove(watched.readers, reading)

    assert events(watched) == []


def test_removal_of_a_closed_reader_takes_its_writer_along(
    watched: EpollSet, resources: ExitStack
) -> None:
    reading = readable_pipe(resources)
    watched.add(watched.readers, reading, nothing)
    watched.add(watched.writers, reading, nothing)
    close_with_a_living_duplicate(reading, resources)

    watched.remove(watched.readers, reading)

    assert events(watched) == []
    assert watched.writers == {}


def test_other_descriptors_are_watched_on_after_a_ghost(
    watched: EpollSet, resources: ExitStack
) -> None:
    ghost, other = readable_pipe(resources), readable_pipe(resources)
    resources.callback(os.close, other)
    watched.add(watched.readers, ghost, nothing)
    watched.add(watched.readers, other, nothing)
    close_with_a_living_duplicate(ghost, resources)

    watched.remove(watched.readers, ghost)

    assert events(watched) == [(other, EPOLLIN)]


def test_number_used_again_is_reported_for_its_new_file_only(
    watched: EpollSet, resources: ExitStack
) -> None:
    number = readable_pipe(resources)
    watched.add(watched.readers, number, nothing)
    watched.add(watched.writers, number, nothing)
    close_with_a_living_duplicate(number, resources)
    reused_for_a_readable_pipe(number, resources)

    watched.add(watched.readers, number, something_else)

    assert events(watched) == [(number, EPOLLIN)]
    assert (watched.readers, watched.writers) == ({number: something_else}, {})
    os.read(number, 1)
    assert events(watched) == []


def test_number_that_somebody_else_uses_by_now_is_not_taken_for_ours(
    watched: EpollSet, resources: ExitStack
) -> None:
    number = readable_pipe(resources)
    watched.add(watched.readers, number, nothing)
    os.close(number)
    reused_for_a_readable_pipe(number, resources)

    watched.renew()

    assert events(watched) == []
    assert watched.readers == {}


def test_late_removal_of_a_number_in_use_again_takes_the_ghost_out(
    watched: EpollSet, resources: ExitStack
) -> None:
    number = readable_pipe(resources)
    watched.add(watched.readers, number, nothing)
    close_with_a_living_duplicate(number, resources)
    reused_for_a_readable_pipe(number, resources)

    watched.remove(watched.readers, number)

    assert events(watched) == []


def test_file_that_gets_its_number_back_before_the_next_round_is_watched(
    watched: EpollSet, resources: ExitStack
) -> None:
    number = readable_pipe(resources)
    duplicate = os.dup(number)
    resources.callback(os.close, duplicate)
    watched.add(watched.readers, number, nothing)
    os.close(number)
    watched.remove(watched.readers, number)
    os.dup2(duplicate, number)
    resources.callback(os.close, number)

    watched.add(watched.readers, number, nothing)

    assert events(watched) == [(number, EPOLLIN)]


def test_renewal_says_what_was_closed_while_it_was_watched(
    watched: EpollSet, resources: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    number = readable_pipe(resources)
    watched.add(watched.readers, number, nothing)
    close_with_a_living_duplicate(number, resources)

    watched.renew()

    assert f"descriptor {number} was closed while it was watched" in caplog.text
    assert events(watched) == []


@pytest.mark.usefixtures("nothing_to_collect")
def test_renewal_gives_the_old_set_back(watched: EpollSet) -> None:
    before = len(os.listdir("/proc/self/fd"))

    watched.renew()

    assert len(os.listdir("/proc/self/fd")) == before


def test_renewal_without_a_descriptor_left_is_a_host_error_and_keeps_the_set(
    watched: EpollSet, resources: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(24, "Too many open files")

    reading = readable_pipe(resources)
    resources.callback(os.close, reading)
    watched.add(watched.readers, reading, nothing)
    with monkeypatch.context() as patch:
        patch.setattr("vmm.host.epoll_set.select.epoll", refuse)
        with pytest.raises(HostError, match="Too many open files"):
            watched.renew()

    assert events(watched) == [(reading, EPOLLIN)]


def test_changes_after_the_end_are_ignored(watched: EpollSet, resources: ExitStack) -> None:
    reading = readable_pipe(resources)
    resources.callback(os.close, reading)
    watched.add(watched.readers, reading, nothing)
    watched.close()

    watched.remove(watched.readers, reading)
    watched.add(watched.readers, reading, nothing)
    watched.renew()

    assert watched.readers == {}
