"""Which engine serves the rings: C where it was built and is wanted, else Python alone.

``python`` is the readable reference. ``rings`` has native code take chains and give back batches,
for handlers in Python; ``native`` has it serve the ordinary requests of disk and entropy device as
well. The choice holds for queues that are made after it, in the whole process; at first it is what
the environment variable ``PYVMM_ENGINE`` says, and without that the fast one, if there is one.
"""

import os
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Final, Literal, get_args

from virtio.errors import ConfigurationError

Engine = Literal["native", "rings", "python"]
ENGINES: Final[tuple[Engine, ...]] = get_args(Engine)
VARIABLE: Final = "PYVMM_ENGINE"

IDLE, LEFT, TELL, MORE, WRONG = range(5)
"""Why native code stopped serving a queue: there is nothing to do; the next chain is not ordinary,
and is left to Python; the driver has to be told of what is done; others shall have a turn; or what
it was asked for is not possible."""

_chosen: Engine | None = None


def use(engine: str) -> None:
    """Choose the engine of queues made from now on.

    Raises :class:`ConfigurationError` for another name, and for ``native`` and ``rings`` where the
    C part was not built, or cannot be.
    """
    global _chosen
    if engine not in ENGINES:
        raise ConfigurationError(f"engine {engine!r}: {', '.join(ENGINES)} are allowed")
    if engine != "python" and _module() is None:
        check_machine()
        raise ConfigurationError(
            f"engine {engine}: it was not built; install the package where there is a C compiler"
        )
    _chosen = engine


def current() -> Engine:
    """Return the engine in use, choosing it if nobody did."""
    if _chosen is None:
        use(os.environ.get(VARIABLE) or ("native" if _module() is not None else "python"))
    return _chosen or "python"


def check_environment() -> None:
    """Raise :class:`ConfigurationError` now, and not at the first queue, for a bad wish."""
    if os.environ.get(VARIABLE):
        current()


def check_machine() -> None:
    """Raise :class:`ConfigurationError` on a machine that may reorder what x86-64 does not.

    ``virtio/native/notify.c`` and :mod:`virtio.virtqueue.fence` say which orders they rely on.
    """
    machine = os.uname().machine
    if machine != "x86_64":
        raise ConfigurationError(
            f"this host is {machine}; virtqueues are for x86-64 only so far, because the memory "
            "orderings that they need are not proven elsewhere"
        )


def native() -> ModuleType | None:
    """Return :mod:`virtio.native.ring` where it serves the rings."""
    return _module() if current() != "python" else None


def data_paths() -> ModuleType | None:
    """Return :mod:`virtio.native.ring` where it serves requests of devices, too."""
    return _module() if current() == "native" else None


def random_bytes() -> Callable[[int], bytes]:
    """Return a source of random bytes: the kernel's generator, for one thread at a time."""
    module = native()
    source: Callable[[int], bytes] = os.urandom if module is None else module.RandomBytes()
    return source


@cache
def _module() -> ModuleType | None:
    try:
        from virtio.native import ring as native
    except ImportError:
        return None
    return native
