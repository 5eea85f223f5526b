"""Which engine serves the rings: C where it was built and is wanted, else Python alone.

``python`` is the readable reference, ``native`` hands it the ordinary work ready done. The choice
holds for queues that are made after it, in the whole process; at first it is what the environment
variable ``PYVMM_ENGINE`` says, and without that the fast one, if there is one.
"""

import os
from functools import cache
from types import ModuleType
from typing import Final, Literal, get_args

from virtio.errors import ConfigurationError

Engine = Literal["native", "python"]
ENGINES: Final[tuple[Engine, ...]] = get_args(Engine)
VARIABLE: Final = "PYVMM_ENGINE"

_chosen: Engine | None = None


def use(engine: str) -> None:
    """Choose the engine of queues made from now on.

    Raises :class:`ConfigurationError` for another name, and for ``native`` where it was not built.
    """
    global _chosen
    if engine not in ENGINES:
        raise ConfigurationError(f"engine {engine!r}: {' and '.join(ENGINES)} are allowed")
    if engine == "native" and _module() is None:
        raise ConfigurationError(
            "engine native: it was not built; install the package where there is a C compiler"
        )
    _chosen = "native" if engine == "native" else "python"


def current() -> Engine:
    """Return the engine in use, choosing it if nobody did."""
    if _chosen is None:
        use(os.environ.get(VARIABLE) or ("native" if _module() is not None else "python"))
    return _chosen or "python"


def native() -> ModuleType | None:
    """Return :mod:`virtio.native` where it is in use."""
    return _module() if current() == "native" else None


@cache
def _module() -> ModuleType | None:
    try:
        from virtio import native
    except ImportError:
        return None
    return native
