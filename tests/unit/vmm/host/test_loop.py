"""The event loop, mostly on the test's own thread: callbacks stop it, so nothing waits for time."""

import os
import socket
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from virtio.errors import HostError, InternalError
from vmm.host.loop import EventLoop

DEADLINE_SECONDS = 20


def run_on_thread(loop: EventLoop) -> threading.Thread:
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    return thread


def note_and_stop(loop: EventLoop, notes: list[str], note: str) -> None:
    notes.append(note)
    loop.stop()


def test_reader_is_called_when_there_is_something_to_read(
    loop: EventLoop, pipe: tuple[int, int]
) -> None:
    notes: list[str] = []
    loop.add_reader(pipe[0], partial(note_and_stop, loop, notes, "readable"))
    os.write(pipe[1], b"x")

    loop.run()

    assert notes == ["readable"]


def test_reader_is_called_again_as_long_as_data_is_left(
    loop: EventLoop, pipe: tuple[int, int]
) -> None:
    read = bytearray()
    actions = iter([lambda: None, lambda: None, loop.stop])

    def read_one() -> None:
        read.extend(os.read(pipe[0], 1))
        next(actions)()

    loop.add_reader(pipe[0], read_one)
    os.write(pipe[1], b"abcd")

    loop.run()

    assert bytes(read) == b"abc"


def test_reader_is_called_at_hang_up(loop: EventLoop) -> None:
    notes: list[str] = []
    ours, theirs = socket.socketpair()
    with ours:
        loop.add_reader(ours.fileno(), partial(note_and_stop, loop, notes, "hung up"))
        theirs.close()

        loop.run()

    assert notes == ["hung up"]


def test_writer_is_called_when_there_is_room(loop: EventLoop, pipe: tuple[int, int]) -> None:
    notes: list[str] = []
    loop.add_writer(pipe[1], partial(note_and_stop, loop, notes, "writable"))

    loop.run()

    assert notes == ["writable"]


def test_writer_is_called_when_the_reading_end_is_gone(loop: EventLoop) -> None:
    notes: list[str] = []
    reading, writing = os.pipe()
    os.close(reading)
    loop.add_writer(writing, partial(note_and_stop, loop, notes, "broken"))

    loop.run()
    os.close(writing)

    assert notes == ["broken"]


def test_one_descriptor_may_have_a_reader_and_a_writer(loop: EventLoop) -> None:
    notes: list[str] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        loop.add_reader(ours.fileno(), partial(notes.append, "readable"))
        loop.add_writer(ours.fileno(), partial(note_and_stop, loop, notes, "writable"))

        loop.run()

    assert notes == ["readable", "writable"]


def test_reader_that_removes_the_writer_keeps_it_from_being_called(loop: EventLoop) -> None:
    notes: list[str] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")

        def take_writer_away() -> None:
            loop.remove_writer(ours.fileno())
            note_and_stop(loop, notes, "reader")

        loop.add_reader(ours.fileno(), take_writer_away)
        loop.add_writer(ours.fileno(), partial(notes.append, "writer"))

        loop.run()

    assert notes == ["reader"]


def test_removing_the_reader_leaves_the_writer(loop: EventLoop) -> None:
    notes: list[str] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        loop.add_reader(ours.fileno(), partial(notes.append, "readable"))
        loop.add_writer(ours.fileno(), partial(note_and_stop, loop, notes, "writable"))

        loop.remove_reader(ours.fileno())
        loop.run()

    assert notes == ["writable"]


def test_adding_a_reader_again_replaces_the_first(loop: EventLoop, pipe: tuple[int, int]) -> None:
    notes: list[str] = []
    loop.add_reader(pipe[0], partial(note_and_stop, loop, notes, "first"))
    loop.add_reader(pipe[0], partial(note_and_stop, loop, notes, "second"))
    os.write(pipe[1], b"x")

    loop.run()

    assert notes == ["second"]


def test_removing_what_is_not_watched_or_already_closed_is_harmless(loop: EventLoop) -> None:
    reading, writing = os.pipe()
    loop.add_reader(reading, lambda: None)
    os.close(reading)
    os.close(writing)

    loop.remove_reader(reading)
    loop.remove_reader(reading)
    loop.remove_writer(writing)


def test_number_of_a_closed_descriptor_can_be_watched_again(loop: EventLoop) -> None:
    notes: list[str] = []
    reading, writing = os.pipe()
    loop.add_reader(reading, partial(note_and_stop, loop, notes, "old"))
    other_reading, other_writing = os.pipe()
    os.dup2(other_reading, reading)
    loop.add_reader(reading, partial(note_and_stop, loop, notes, "new"))
    os.write(other_writing, b"x")

    loop.run()
    for fd in (reading, writing, other_reading, other_writing):
        os.close(fd)

    assert notes == ["new"]


def test_closed_descriptor_with_a_living_duplicate_does_not_keep_the_loop_awake(
    loop: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[None] = []
    run_once = loop._run_once

    def counted() -> None:
        rounds.append(None)
        run_once()

    monkeypatch.setattr(loop, "_run_once", counted)
    reading, writing = os.pipe()
    os.write(writing, b"x")
    loop.add_reader(reading, lambda: None)
    duplicate = os.dup(reading)
    os.close(reading)
    loop.remove_reader(reading)
    loop.call_later(0.05, loop.stop)

    loop.run()
    os.close(duplicate)
    os.close(writing)

    # One for the wake-up by the timer that was set, one for the timer.
    assert len(rounds) == 2


def test_callback_that_fails_over_a_closed_descriptor_is_not_called_again() -> None:
    errors: list[Exception] = []
    with EventLoop(errors.append) as loop:
        reading, writing = os.pipe()
        os.write(writing, b"x")
        loop.add_reader(reading, lambda: os.read(reading, 1))
        duplicate = os.dup(reading)
        os.close(reading)
        loop.call_later(0.05, loop.stop)

        loop.run()
        os.close(duplicate)
        os.close(writing)

    assert [type(error) for error in errors] == [OSError]


def test_file_that_epoll_refuses_is_a_host_error_with_eperm(loop: EventLoop) -> None:
    with open("/dev/null", "rb") as null, pytest.raises(HostError, match="epoll_ctl") as caught:
        loop.add_reader(null.fileno(), lambda: None)

    assert caught.value.errno == 1


def test_timers_fire_in_the_order_of_their_times(loop: EventLoop) -> None:
    notes: list[str] = []
    loop.call_later(0.03, partial(note_and_stop, loop, notes, "last"))
    loop.call_later(0.01, partial(notes.append, "first"))
    loop.call_later(0.02, partial(notes.append, "second"))

    loop.run()

    assert notes == ["first", "second", "last"]


def test_timers_due_at_the_same_time_fire_in_the_order_they_were_made(
    loop: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    now = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now)
        loop.call_later(0.001, partial(notes.append, "first"))
        loop.call_later(0.001, partial(notes.append, "second"))
        loop.call_later(0.001, partial(note_and_stop, loop, notes, "third"))

    loop.run()

    assert notes == ["first", "second", "third"]


def test_timer_does_not_fire_early(loop: EventLoop) -> None:
    start = time.monotonic()
    loop.call_later(0.02, loop.stop)

    loop.run()

    assert time.monotonic() - start >= 0.02


def test_cancelled_timer_does_not_fire(loop: EventLoop) -> None:
    notes: list[str] = []
    timer = loop.call_later(0, partial(notes.append, "cancelled"))
    loop.call_later(0.01, partial(note_and_stop, loop, notes, "kept"))

    timer.cancel()
    timer.cancel()
    loop.run()

    assert notes == ["kept"]


def test_timer_may_cancel_another_that_is_due_at_the_same_time(loop: EventLoop) -> None:
    notes: list[str] = []
    timers = [loop.call_later(0, lambda: timers[1].cancel())]
    timers.append(loop.call_later(0, partial(notes.append, "cancelled")))
    loop.call_later(0.01, partial(note_and_stop, loop, notes, "kept"))

    loop.run()

    assert notes == ["kept"]


def test_cancelled_timers_take_no_memory(loop: EventLoop) -> None:
    for _ in range(1000):
        loop.call_later(3600, lambda: None).cancel()

    assert len(loop._timers.waiting) == 1


def test_calls_from_another_thread_run_on_the_loops_thread_in_order(loop: EventLoop) -> None:
    seen: list[tuple[int, int]] = []
    thread = run_on_thread(loop)

    def note(number: int) -> None:
        seen.append((number, threading.get_ident()))

    for number in range(100):
        loop.call_soon_threadsafe(partial(note, number))
    loop.call_soon_threadsafe(loop.stop)
    thread.join(DEADLINE_SECONDS)

    assert seen == [(number, thread.ident) for number in range(100)]


def test_no_call_is_lost_when_many_threads_ask_at_once(loop: EventLoop) -> None:
    calls: list[None] = []
    done = threading.Event()
    actions: dict[int, Callable[[], None]] = {4 * 500: done.set}

    def count() -> None:
        calls.append(None)
        actions.get(len(calls), lambda: None)()

    def ask() -> None:
        for _ in range(500):
            loop.call_soon_threadsafe(count)

    run_on_thread(loop)
    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()

    assert done.wait(DEADLINE_SECONDS)
    for asker in askers:
        asker.join()


def test_call_that_asks_for_itself_does_not_starve_a_reader(
    loop: EventLoop, pipe: tuple[int, int]
) -> None:
    notes: list[str] = []

    def again() -> None:
        loop.call_soon_threadsafe(again)

    again()
    os.write(pipe[1], b"x")
    loop.add_reader(pipe[0], partial(note_and_stop, loop, notes, "read"))

    loop.run()

    assert notes == ["read"]


def test_reader_added_from_another_thread_wakes_a_loop_that_sleeps(
    loop: EventLoop, pipe: tuple[int, int]
) -> None:
    fired = threading.Event()
    started = threading.Event()
    loop.call_soon_threadsafe(started.set)
    run_on_thread(loop)
    started.wait(DEADLINE_SECONDS)

    def read() -> None:
        os.read(pipe[0], 1)
        fired.set()

    loop.add_reader(pipe[0], read)
    os.write(pipe[1], b"x")

    assert fired.wait(DEADLINE_SECONDS / 2)


def test_timer_made_on_another_thread_wakes_a_loop_that_sleeps(loop: EventLoop) -> None:
    fired = threading.Event()
    started = threading.Event()
    loop.call_soon_threadsafe(started.set)
    run_on_thread(loop)
    started.wait(DEADLINE_SECONDS)

    loop.call_later(0.05, fired.set)

    assert fired.wait(DEADLINE_SECONDS / 2)


def test_stop_before_run_makes_run_return_at_once(loop: EventLoop) -> None:
    loop.stop()

    loop.run()


def test_exception_in_a_callback_is_logged_and_handed_over_and_the_loop_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[Exception] = []
    with EventLoop(errors.append) as loop:
        loop.call_soon_threadsafe(lambda: 1 // 0)
        loop.call_soon_threadsafe(loop.stop)

        loop.run()

    assert [type(error) for error in errors] == [ZeroDivisionError]
    assert "ZeroDivisionError" in caplog.text


def test_exception_without_anybody_to_tell_leaves_run() -> None:
    with EventLoop() as loop:
        loop.call_soon_threadsafe(lambda: 1 // 0)

        with pytest.raises(ZeroDivisionError):
            loop.run()


def test_close_ends_a_loop_that_runs_on_another_thread() -> None:
    loop = EventLoop()
    thread = run_on_thread(loop)

    loop.close()
    thread.join(DEADLINE_SECONDS)

    assert not thread.is_alive()


def test_calls_after_close_touch_no_descriptor(pipe: tuple[int, int]) -> None:
    loop = EventLoop()
    loop.add_reader(pipe[0], lambda: None)
    loop.close()

    loop.call_soon_threadsafe(lambda: None)
    loop.call_later(0, lambda: None)
    loop.remove_reader(pipe[0])
    loop.stop()
    loop.close()


@pytest.mark.usefixtures("nothing_to_collect")
def test_close_gives_every_descriptor_back() -> None:
    before = os.listdir("/proc/self/fd")

    EventLoop().close()

    assert os.listdir("/proc/self/fd") == before


def test_close_from_a_callback_is_an_internal_error() -> None:
    with EventLoop() as loop:
        loop.call_soon_threadsafe(loop.close)

        with pytest.raises(InternalError, match="one of its own callbacks"):
            loop.run()


def test_close_says_that_a_callback_does_not_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmm.host.loop.CLOSE_TIMEOUT_SECONDS", 0.01)
    entered, leave = threading.Event(), threading.Event()
    with EventLoop() as loop:
        loop.call_soon_threadsafe(entered.set)
        loop.call_soon_threadsafe(partial(leave.wait, DEADLINE_SECONDS))
        thread = run_on_thread(loop)
        entered.wait(DEADLINE_SECONDS)

        with pytest.raises(InternalError, match="has not returned"):
            loop.close()

        leave.set()
        thread.join(DEADLINE_SECONDS)
