"""Calls of a backend on threads, and syncs that are shared: what fails, and what waits."""

import threading

import pytest

from virtio.block.stability import Syncs
from virtio.device.calls import WaitingCalls
from virtio.testing import ManualLoop

PATIENCE_SECONDS = 60


def _no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_call_that_the_host_gives_no_thread_for_fails_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, loop = WaitingCalls(lambda: None), ManualLoop()
    calls.connect(loop)
    errors: list[Exception | None] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _no_thread)
        calls.make(lambda: lambda: None, errors.append, queue=0, changes=True)
        loop.run_once()
    assert [str(error) for error in errors] == ["[Errno 11] the host gives no thread for the call"]
    assert (calls.late, calls.settle(0)) == (False, True)

    made = threading.Event()
    calls.make(lambda: made.set, errors.append, queue=0)
    assert made.wait(PATIENCE_SECONDS)
    calls.connect(None)


class Losing:
    """A backend whose first sync loses something, and whose later ones know nothing of that."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.syncs = 0

    def flush(self) -> None:
        self.syncs += 1
        if self.syncs == 1:
            self.entered.set()
            assert self.go_on.wait(PATIENCE_SECONDS)
            raise OSError(5, "lost")


@pytest.mark.spec("BLK-25")
def test_a_sync_waits_for_a_forgotten_one_and_for_what_it_lost() -> None:
    backend = Losing()
    syncs = Syncs(backend, WaitingCalls(lambda: None), lambda group, error: None)  # type: ignore[arg-type]
    told: list[str] = []

    def sync() -> None:
        try:
            syncs._flush()
        except OSError as error:
            told.append(str(error))

    first, second = threading.Thread(target=sync), threading.Thread(target=sync)
    first.start()
    assert backend.entered.wait(PATIENCE_SECONDS)
    second.start()
    backend.go_on.set()
    first.join(PATIENCE_SECONDS)
    second.join(PATIENCE_SECONDS)

    assert (backend.syncs, len(told)) == (1, 2)
