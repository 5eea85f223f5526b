"""Shows a failure where the test made it, without the frames of this program.

Not so for a bug of ours, whose place is what is asked for.
"""

import sys
from collections.abc import Iterator
from itertools import zip_longest
from types import TracebackType
from typing import Any, Final

import pytest

from virtio.errors import Error, InternalError

_OURS: Final = {"virtio", "transport", "vmm"}


def hide_own_frames(info: pytest.ExceptionInfo[BaseException], config: pytest.Config) -> bool:
    """Take our frames out of the tracebacks of an error and of its causes.

    False when no frame of a test or of its fixtures would be left; then nothing is changed.
    """
    if config.getoption("fulltrace") or _is_a_bug(info.value):
        return True
    kept = _without_ours(info.tb)
    if all(_package(one) in _packages_of_plugins(config) for one in kept):
        return False
    for error in _chain(info.value):
        kept = _without_ours(error.__traceback__)
        for one, following in zip_longest(kept, kept[1:]):
            one.tb_next = following
        error.__traceback__ = kept[0] if kept else None
    return True


def message_alone(info: pytest.ExceptionInfo[BaseException]) -> Any:
    """Return what pytest shows of an error without any frame."""
    shown = info.getrepr(style="value", chain=False)
    lines = [f"E   {line}" for line in info.exconly().splitlines()]
    shown.reprtraceback.reprentries[0].lines = lines
    return shown


def _is_a_bug(error: BaseException) -> bool:
    told = not isinstance(error, Exception) or isinstance(error, Error)
    return not told or isinstance(error, InternalError)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _without_ours(traceback: TracebackType | None) -> list[TracebackType]:
    kept, in_ours = [], False
    while traceback is not None:
        package = _package(traceback)
        # What our frames call of the library is ours too; what they call back is not.
        in_ours = package in _OURS or (in_ours and package in sys.stdlib_module_names)
        if not in_ours:
            kept.append(traceback)
        traceback = traceback.tb_next
    return kept


def _package(traceback: TracebackType) -> str:
    return str(traceback.tb_frame.f_globals.get("__name__")).partition(".")[0]


def _packages_of_plugins(config: pytest.Config) -> set[str]:
    plugins = [plugin for plugin, _ in config.pluginmanager.list_plugin_distinfo()]
    names = {str(getattr(plugin, "__name__", "")).partition(".")[0] for plugin in plugins}
    return {"_pytest", "pluggy", *names}
