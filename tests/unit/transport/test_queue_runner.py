"""Serving one queue: when the device is called, what is counted, and what a description does."""

import os
import threading
from collections.abc import Iterator

import pytest

from transport.queue_runner import QueueRunner
from virtio.device.lifecycle import VirtioDevice
from virtio.testing import SplitDriver, flat_memory
from virtio.virtqueue.queue import Queue
from virtio.virtqueue.state import QueueLayout


class Scripted(VirtioDevice):
    """Answers each call for a queue with the next of ``answers``; an exception is raised."""

    device_id = 42
    device_features = 1 << 32
    queue_max_sizes = (8, 8, 8, 8)

    def __init__(self, *answers: bool | Exception) -> None:
        super().__init__()
        self.answers = list(answers)
        self.calls: list[int] = []

    def handle_queue(self, index: int) -> bool:
        self.calls.append(index)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Setting:
    """The runner of queue 3 of a device, with a live queue unless told otherwise."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.device = Scripted(*answers)
        self.work = threading.Lock()
        self.failures: list[Exception] = []
        self.runner = QueueRunner(3, self.device, self.work, self.failures.append)
        self.memory = flat_memory()
        self.ring = SplitDriver(self.memory, 8)
        self.queue = Queue(self.memory, QueueLayout(*self.ring.layout), 1 << 32, index=3)
        self.runner.queue = self.queue
        self.runner.live = True


@pytest.fixture
def made() -> Iterator[list[Setting]]:
    settings: list[Setting] = []
    yield settings
    for one in settings:
        one.runner.close()


def set_up(made: list[Setting], *answers: bool | Exception) -> Setting:
    made.append(Setting(*answers))
    return made[-1]


def test_device_is_called_for_the_queue_and_the_kicks_are_counted(made: list[Setting]) -> None:
    setting = set_up(made, False)
    os.eventfd_write(setting.runner.notify_fd, 5)

    assert [setting.runner.serve(), setting.runner.serve()] == [True, False]
    assert (setting.device.calls, setting.runner.kicks) == ([3], 5)


def test_queue_with_more_to_do_notifies_itself_and_counts_no_kick(made: list[Setting]) -> None:
    setting = set_up(made, True, True, False)
    setting.runner.notify()

    assert [setting.runner.serve() for _ in range(4)] == [True, True, True, False]
    assert (setting.device.calls, setting.runner.kicks) == ([3, 3, 3], 1)


@pytest.mark.parametrize("missing", ["live", "queue"])
def test_notification_of_a_queue_that_is_not_live_is_dropped(
    made: list[Setting], missing: str
) -> None:
    setting = set_up(made)
    os.eventfd_write(setting.runner.notify_fd, 1)
    setattr(setting.runner, missing, None)

    assert setting.runner.serve() is True
    assert setting.runner.notify() is False
    setting.runner.serve_again()
    assert setting.runner.serve() is False
    assert setting.device.calls == []


def test_failure_of_the_device_is_handed_on_with_the_work_lock_held(made: list[Setting]) -> None:
    error = ArithmeticError("broken")
    setting = set_up(made, error)
    locked = []
    setting.runner._on_failure = lambda _: locked.append(setting.work.locked())
    setting.runner.notify()

    assert setting.runner.serve() is True
    assert (locked, setting.work.locked()) == ([True], False)


def test_closed_runner_finds_no_notification() -> None:
    setting = Setting()
    setting.runner.notify()

    setting.runner.close()

    assert setting.runner.serve() is False
    assert setting.work.locked() is False


def test_stopped_queue_is_cut_off_and_its_positions_are_still_told(made: list[Setting]) -> None:
    setting = set_up(made)
    setting.queue.interrupt = lambda: None
    setting.ring.add([b"abc"], [4])
    [chain] = setting.queue.pop_many(8)
    chain.complete(4)

    setting.runner.stop()

    assert [setting.runner.queue, setting.queue.interrupt] == [None, None]
    assert setting.runner.describe() == "stopped at next available 1, next used 1, 0 outstanding"
    assert setting.runner.traffic == (1, 3, 4)


def test_description_counts_the_chains_of_a_batch_and_leaves_the_batch_whole(
    made: list[Setting],
) -> None:
    setting = set_up(made)
    for _ in range(3):
        setting.ring.add(writable=[4])
    batch = setting.queue.pop_batch(2)

    told = setting.runner.describe()
    untouched = setting.runner.is_untouched

    assert told == "next available 2, next used 0, 2 outstanding, more available"
    assert untouched is False
    # The batch can still go back as a whole, which it could not once its chains were made.
    assert batch.out


@pytest.mark.parametrize(("buffers", "untouched"), [(0, True), (1, False)])
def test_queue_is_untouched_until_there_is_a_buffer(
    made: list[Setting], buffers: int, untouched: bool
) -> None:
    setting = set_up(made)
    for _ in range(buffers):
        setting.ring.add(writable=[4])

    assert setting.runner.is_untouched is untouched
