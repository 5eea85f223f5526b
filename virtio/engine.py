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
from virtio.virtqueue.fence import check_machine

Engine = Literal["native", "rings", "python"]
ENGINES: Final[tuple[Engine, ...]] = get_args(Engine)
VARIABLE: Final = "PYVMM_ENGINE"

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


def native() -> ModuleType | None:
    """Return :mod:`virtio.native.ring` where it serves the rings."""
    return _module() if current() != "python" else None


def data_paths() -> ModuleType | None:
    """Return :mod:`virtio.native.data_path` where it serves requests of devices, too."""
    if current() != "native" or _module() is None:
        return None
    from virtio.native import data_path

    return data_path


def random_bytes() -> Callable[[int], bytes]:
    """Return a source of random bytes: the kernel's generator, for one thread at a time."""
    if native() is None:
        return os.urandom
    from virtio.native.data_path import RandomBytes

    return RandomBytes()


@cache
def _module() -> ModuleType | None:
    try:
        from virtio.native import ring as native
    except ImportError:
        return None
    return native
