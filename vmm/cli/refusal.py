"""What ended a command before its guest could: one line for the person, and an exit status."""

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from virtio.errors import ConfigurationError, Error
from vmm.ending.ending import STATUS_CONFIGURATION, STATUS_HOST

# The host has too little of something, or is broken: no other option or file would help.
_HOST_ERRNOS: Final = frozenset(
    (
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EROFS,
    )
)
_ADVICE: Final = {
    errno.EMFILE: "; let the process have more (ulimit -n)",
    errno.EFBIG: "; let files, and guest RAM, which is one, be larger (ulimit -f)",
    errno.ENOMEM: "; give the guest less, or the process more (ulimit -v)",
}
_NO_MEMORY: Final = "the host gives this process no more memory (ulimit -v)"


def explain(error: Exception, complain: Callable[[str], None]) -> int:
    """Say in one line what an error means, and return the exit status for it.

    A bug of ours is shown with its traceback, which helps whoever mends it.
    """
    if isinstance(error, Error):
        complain(_with_advice(error))
        at_fault = isinstance(error, ConfigurationError) and not _is_the_hosts(error)
        return STATUS_CONFIGURATION if at_fault else STATUS_HOST
    line = _refusal(error)
    if line is None:
        # Not by the module "traceback": in a sandbox nothing can be imported any more.
        with suppress(OSError):
            sys.__excepthook__(type(error), error, error.__traceback__)
        line = f"a bug of this program ({type(error).__name__}): please report it with the above"
    complain(line)
    return STATUS_HOST


def _refusal(error: BaseException) -> str | None:
    """Return what the host refused, in words; None when that is not what happened."""
    if isinstance(error, OSError):
        what = error.strerror or str(error)  # tempfile puts more there than strerror(3)
        where = f"{error.filename!r}: " if error.filename is not None else ""
        return f"the host refused: {where}{what}{_ADVICE.get(error.errno or 0, '')}"
    if isinstance(error, MemoryError):
        return _NO_MEMORY
    if isinstance(error, ImportError):
        return f"this program cannot be loaded whole: {error}"
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return "the host refused a thread; let the process have more (ulimit -u, ulimit -v)"
    return None


def _with_advice(error: Error) -> str:
    numbers = [one for one in _errnos(error) if one in _ADVICE]
    return f"{error}{_ADVICE[numbers[0]] if numbers else ''}"


def _is_the_hosts(error: Error) -> bool:
    return any(one in _HOST_ERRNOS for one in _errnos(error))


def _errnos(error: BaseException) -> Iterator[int]:
    """Yield the errno of an error, and of those that it was made from."""
    seen: BaseException | None = error
    while seen is not None:
        number = getattr(seen, "errno", None)
        if isinstance(number, int):
            yield number
        if isinstance(seen, MemoryError):
            yield errno.ENOMEM
        seen = seen.__cause__ or seen.__context__
