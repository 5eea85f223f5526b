"""The memory fence that both notification schemes need, in plain Python.

A device that publishes a used buffer and then looks whether the driver wants to hear of it does a
store and then a load of another location. So does the driver, the other way round: it asks to be
told, and then looks whether something has arrived. Processors, x86-64 included, let such a load
overtake the store. Then each side misses what the other one wrote, and both sleep for ever: the
lost wake-up of ``SPL-41`` and ``SPL-44``.

CPython has no fence to call. Taking a lock, though, executes an atomic read-modify-write, which on
x86-64 is a full fence whatever the lock is for: no store before ``with fence: pass`` and no load
after it can cross. Each ring has a lock of its own, so nobody waits for it.

All other pairs that matter (data before index, index before data) are two stores or two loads,
which x86-64 keeps in order by itself. A host with weaker ordering needs more than this module, and
is refused. ``virtio/native/notify.c`` argues the same for C, at length.
"""

import os
from contextlib import AbstractContextManager
from threading import Lock

from virtio.errors import ConfigurationError


def make_fence() -> AbstractContextManager[bool]:
    """Return a fence: no store before ``with fence: pass`` and no load after it can cross.

    Raises :class:`ConfigurationError` on another machine than x86-64.
    """
    check_machine()
    return Lock()


def check_machine() -> None:
    """Raise :class:`ConfigurationError` on a machine that may reorder what x86-64 does not."""
    machine = os.uname().machine
    if machine != "x86_64":
        raise ConfigurationError(
            f"this host is {machine}; virtqueues are for x86-64 only so far, because the memory "
            "orderings that they need are not proven elsewhere"
        )
