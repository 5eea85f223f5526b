"""Calls code of an author's own that may make no end: a loop, or a wait for something."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from vmm.host.threads import end_thread, start_thread

_Result = TypeVar("_Result")


def within(seconds: float, call: Callable[[], _Result]) -> _Result:
    """Return what ``call``, made on a thread of its own, returns, or raise what it raises.

    Raises :class:`TimeoutError` when that takes longer, and leaves the thread to itself: a loop of
    Python's is ended, what waits inside of a call of the host's stays until it comes back.
    """
    returned: list[_Result] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            returned.append(call())
        except BaseException as error:
            raised.append(error)

    # A daemon: it must not keep the process from ending.
    thread = threading.Thread(target=run, name="author", daemon=True)
    start_thread(thread)
    try:
        thread.join(seconds)
    finally:
        late = thread.is_alive()
        if late:
            end_thread(thread)
    if late:
        raise TimeoutError
    if raised:
        raise raised[0]
    return returned[0]
