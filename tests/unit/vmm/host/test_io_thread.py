"""A thread with an event loop: it serves between start and stop, and leaves nothing."""

import threading

import pytest

from vmm.host.io_thread import IoThread


def test_callbacks_run_on_the_thread_once_it_is_started() -> None:
    ran: list[str] = []
    done = threading.Event()
    with IoThread("disk", lambda error: None) as thread:
        thread.loop.call_soon_threadsafe(lambda: ran.append(threading.current_thread().name))
        thread.loop.call_soon_threadsafe(done.set)
        assert not thread.started
        assert ran == []
        thread.start()
        assert done.wait(10)
        assert ran == ["disk"]
    assert "disk" not in [one.name for one in threading.enumerate()]


def test_what_a_callback_raises_is_handed_over() -> None:
    errors: list[Exception] = []
    done = threading.Event()

    def fail() -> None:
        raise ValueError("bad")

    with IoThread("disk", errors.append) as thread:
        thread.start()
        thread.loop.call_soon_threadsafe(fail)
        thread.loop.call_soon_threadsafe(done.set)
        assert done.wait(10)
    assert [str(error) for error in errors] == ["bad"]


def test_a_thread_that_never_started_can_be_closed() -> None:
    thread = IoThread("disk", lambda error: None)
    thread.stop()
    thread.close()


def test_a_thread_that_was_stopped_first_serves_nothing() -> None:
    ran: list[int] = []
    with IoThread("disk", lambda error: None) as thread:
        thread.stop()
        thread.loop.call_soon_threadsafe(lambda: ran.append(1))
        thread.start()
        thread.stop()
    assert ran == []


def test_a_callback_that_makes_no_end_is_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vmm.host.io_thread.PATIENCE_SECONDS", 0.01)
    running = threading.Event()

    def loop() -> None:
        running.set()
        for is_last in (False, True):
            try:
                while True:
                    pass
            except SystemExit:
                if is_last:
                    raise

    with IoThread("dice0", lambda error: None) as thread:
        thread.start()
        thread.loop.call_soon_threadsafe(loop)
        assert running.wait(60)

    assert "dice0" not in [one.name for one in threading.enumerate()]
    assert caplog.messages == ["dice0: its code has not returned, and is ended"]
