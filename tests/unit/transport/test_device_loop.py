"""The event loop that a device is given: under the work lock, and gone when it is closed."""

import os
import threading
from collections.abc import Iterator

import pytest

from transport.device_loop import DeviceLoop
from virtio.errors import HostError
from virtio.testing import ManualLoop


class Setting:
    """A device's loop over a manual one, and an eventfd that is readable and writable."""

    def __init__(self) -> None:
        self.work = threading.Lock()
        self.machine = ManualLoop()
        self.calls: list[str] = []
        self.failures: list[Exception] = []
        self.loop = DeviceLoop(self.machine, self.work, self.failures.append)
        self.fd = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def call(self) -> None:
        self.calls.append("locked" if self.work.locked() else "not locked")


@pytest.fixture
def setting() -> Iterator[Setting]:
    made = Setting()
    yield made
    os.close(made.fd)


def test_reader_is_called_with_the_work_lock_held(setting: Setting) -> None:
    setting.loop.add_reader(setting.fd, setting.call)

    setting.machine.run_once()

    assert setting.calls == ["locked"]


def test_writer_is_called_with_the_work_lock_held(setting: Setting) -> None:
    setting.loop.add_writer(setting.fd, setting.call)

    setting.machine.run_once()

    assert setting.calls == ["locked"]


def test_soon_call_is_made_with_the_work_lock_held(setting: Setting) -> None:
    setting.loop.call_soon_threadsafe(setting.call)

    setting.machine.run_once()

    assert setting.calls == ["locked"]


def test_timer_is_called_once_with_the_work_lock_held(setting: Setting) -> None:
    setting.loop.call_later(5, setting.call)

    setting.machine.advance(4)
    too_early = list(setting.calls)
    setting.machine.advance(1)
    setting.machine.advance(100)

    assert too_early == []
    assert setting.calls == ["locked"]


def test_failure_of_a_callback_is_handed_on_and_the_lock_released(setting: Setting) -> None:
    setting.loop.call_soon_threadsafe(lambda: 1 // 0)

    setting.machine.run_once()

    assert [type(error) for error in setting.failures] == [ZeroDivisionError]
    assert setting.work.locked() is False


def test_descriptor_that_cannot_be_watched_is_not_remembered(setting: Setting) -> None:
    def refuse(fd: int, callback: object) -> None:
        raise HostError("epoll_ctl", 1, "cannot watch it")

    setting.machine.add_reader = refuse  # type: ignore[method-assign]
    setting.machine.add_writer = refuse  # type: ignore[method-assign]

    with pytest.raises(HostError):
        setting.loop.add_reader(setting.fd, setting.call)
    with pytest.raises(HostError):
        setting.loop.add_writer(setting.fd, setting.call)
    setting.machine.readers[setting.fd] = setting.machine.writers[setting.fd] = setting.call
    setting.loop.close()

    assert list(setting.machine.readers) == list(setting.machine.writers) == [setting.fd]


def test_removed_watchers_are_not_called(setting: Setting) -> None:
    setting.loop.add_reader(setting.fd, setting.call)
    setting.loop.add_writer(setting.fd, setting.call)

    setting.loop.remove_reader(setting.fd)
    setting.loop.remove_writer(setting.fd)
    setting.machine.run_once()

    assert setting.calls == []


def test_watcher_of_someone_else_cannot_be_removed(setting: Setting) -> None:
    setting.machine.add_reader(setting.fd, setting.call)
    setting.machine.add_writer(setting.fd, setting.call)

    setting.loop.remove_reader(setting.fd)
    setting.loop.remove_writer(setting.fd)
    setting.loop.close()

    assert list(setting.machine.readers) == list(setting.machine.writers) == [setting.fd]


def test_cancelled_timer_is_not_called(setting: Setting) -> None:
    setting.loop.call_later(5, setting.call).cancel()

    setting.machine.advance(5)

    assert setting.calls == []


def test_timer_may_be_cancelled_after_its_call(setting: Setting) -> None:
    timer = setting.loop.call_later(5, setting.call)
    setting.machine.advance(5)

    timer.cancel()

    assert setting.calls == ["locked"]


def test_timer_cancelled_while_its_call_waits_for_the_lock_is_not_called(setting: Setting) -> None:
    timer = setting.loop.call_later(5, setting.call)
    [on_its_way] = setting.machine.timers

    timer.cancel()
    on_its_way.callback()

    assert setting.calls == []


@pytest.mark.spec("COM-22")
def test_close_forgets_watchers_and_timers(setting: Setting) -> None:
    setting.loop.add_reader(setting.fd, setting.call)
    setting.loop.add_writer(setting.fd, setting.call)
    setting.loop.call_later(5, setting.call)

    [timer] = setting.machine.timers

    setting.loop.close()

    assert setting.machine.readers == setting.machine.writers == {}
    assert timer.cancelled is True


@pytest.mark.spec("COM-22")
def test_call_on_its_way_when_the_loop_closes_is_dropped(setting: Setting) -> None:
    setting.loop.call_soon_threadsafe(setting.call)

    setting.loop.close()
    setting.machine.run_once()

    assert setting.calls == []


@pytest.mark.spec("COM-22")
def test_closed_loop_takes_nothing_more(setting: Setting) -> None:
    setting.loop.close()

    setting.loop.add_reader(setting.fd, setting.call)
    setting.loop.add_writer(setting.fd, setting.call)
    setting.loop.call_soon_threadsafe(setting.call)
    setting.loop.call_later(5, setting.call).cancel()
    setting.machine.run_once()
    setting.machine.advance(5)

    assert setting.calls == []
    assert setting.machine.readers == setting.machine.writers == {}


def test_paused_loop_puts_calls_off_and_makes_them_afterwards(setting: Setting) -> None:
    setting.loop.call_soon_threadsafe(setting.call)
    setting.loop.call_later(1, setting.call)

    setting.loop.pause(paused=True)
    setting.machine.advance(2)
    meanwhile = list(setting.calls)
    setting.loop.pause(paused=False)
    setting.machine.advance()

    assert meanwhile == []
    assert setting.calls == ["locked", "locked"]


def test_paused_loop_does_not_watch_descriptors(setting: Setting) -> None:
    setting.loop.add_reader(setting.fd, setting.call)

    setting.loop.pause(paused=True)
    setting.loop.add_writer(setting.fd, setting.call)
    watched = [*setting.machine.readers, *setting.machine.writers]
    setting.loop.pause(paused=False)
    setting.machine.run_once()

    assert watched == []
    assert setting.calls == ["locked", "locked"]


def test_what_a_closed_loop_put_off_is_forgotten(setting: Setting) -> None:
    setting.loop.call_soon_threadsafe(setting.call)
    setting.loop.pause(paused=True)
    setting.machine.advance()

    setting.loop.close()
    setting.loop.pause(paused=False)
    setting.machine.advance()

    assert setting.calls == []
