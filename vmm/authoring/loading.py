"""Loads the class of a device from a Python file, each time from what the file holds then.

The module gets a name of its own, so that none that is called like the file is in its way. What it
imports from its own folder is found behind everything that is installed, so that a ``queue.py`` or
``vmm.py`` beside it takes no name from us, and is loaded anew with it.
"""

from __future__ import annotations

import importlib
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Final

from virtio.device.lifecycle import VirtioDevice
from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple

MODULE_PREFIX: Final = "device_file_"
MAX_SOURCE_BYTES: Final = 16 << 20
_OURS: Final = ("virtio", "transport", "vmm")

_beside: dict[str, set[str]] = {}
"""The modules that device files imported from their own folder, by that folder."""


class LoadedClass(NamedTuple):
    """The class of a device, and the files from which it was made."""

    device: type[VirtioDevice]
    files: tuple[Path, ...]


def load_class(path: Path, name: str) -> LoadedClass:
    """Return the class ``name`` of the file at ``path``, which is executed for it.

    Raises :class:`ConfigurationError`, in one line with the place in the file, when there is no
    such file, it is no Python, it raises, or the class is not there or no device. All modules are
    then as they were before.
    """
    code = _compiled(path)
    folder = str(path.resolve().parent)
    module = ModuleType(f"{MODULE_PREFIX}{path.stem}_{name}")
    module.__file__ = str(path)
    with _modules_of(folder, module.__name__) as beside, _no_bytecode():
        sys.modules[module.__name__] = module  # which dataclasses and pickle look up
        try:
            exec(code, vars(module))
        except (Exception, SystemExit) as error:
            raise ConfigurationError(describe(error, path)) from error
        found = _device_class(module, path, name)
    return LoadedClass(found, (path, *(Path(folder, f"{one}.py") for one in sorted(beside))))


def describe(error: BaseException, path: Path) -> str:
    """Return in one line where in the file, or else beside it, an error is from, and what it is.

    >>> describe(ValueError("six at most"), Path("dice.py"))
    'dice.py: ValueError: six at most'
    """
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError) and error.lineno:
        message = f"{type(error).__name__}: {error.msg}"
        return f"{error.filename or path}:{error.lineno}: {message}"
    place = _place(error.__traceback__, path)
    return f"{place or path}: {what}"


def _place(traceback: TracebackType | None, path: Path) -> str:
    """Return the innermost place in the file that a traceback tells of."""
    place = ""
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(path):
            place = f"{path}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place


def _compiled(path: Path) -> CodeType:
    try:
        return compile(_source(path), str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise ConfigurationError(describe(error, path)) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConfigurationError(f"{path}: is no Python: {error or type(error).__name__}") from None


def _source(path: Path) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ConfigurationError(f"{path}: is no file of Python's")
            if found.st_size > MAX_SOURCE_BYTES:
                raise ConfigurationError(f"{path}: is no Python: larger than {MAX_SOURCE_BYTES}")
            return file.read(MAX_SOURCE_BYTES)
    except IsADirectoryError:
        raise ConfigurationError(f"{path}: is a directory, must be a Python file") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # a zero byte in the name
        raise ConfigurationError(f"{str(path)!r}: {error}") from None


def _device_class(module: ModuleType, path: Path, name: str) -> type[VirtioDevice]:
    found = vars(module).get(name)
    if found is None:
        raise ConfigurationError(f"{path}: has no class {name}; its devices are: {_names(module)}")
    if not isinstance(found, type) or not issubclass(found, VirtioDevice):
        raise ConfigurationError(
            f"{path}: {name} is no subclass of virtio.Device; its devices are: {_names(module)}"
        )
    number = getattr(found, "device_id", None)
    if not isinstance(number, int) or number < 1:
        raise ConfigurationError(
            f"{path}: {name} says no device_id, which is what drivers look for (VIRTIO 1.4"
            ' "Device Types")'
        )
    return found


def _names(module: ModuleType) -> str:
    """Return the names of the devices that are made in the module itself."""
    own = [
        name
        for name, one in vars(module).items()
        if isinstance(one, type) and issubclass(one, VirtioDevice)
        if one.__module__ == module.__name__
    ]
    return ", ".join(own) or "none"


@contextmanager
def _modules_of(folder: str, own: str) -> Iterator[set[str]]:
    """Import modules of a folder, and the one called ``own``, anew inside the block.

    Gives the names of those of the folder when it ends. After an error those from before are back;
    what else was imported stays, as others may have it by then.
    """
    if folder not in sys.path:
        sys.path.append(folder)
    earlier = _beside.get(folder, set())
    taken = {name: sys.modules.pop(name) for name in (*earlier, own) if name in sys.modules}
    others = set(sys.modules)
    importlib.invalidate_caches()
    names: set[str] = set()
    try:
        yield names
    except BaseException:
        for name in _new_beside(folder, others) | {own}:
            sys.modules.pop(name, None)
        sys.modules.update(taken)
        raise
    names |= _new_beside(folder, others)
    _beside[folder] = earlier | names


def _new_beside(folder: str, others: set[str]) -> set[str]:
    return {name for name in {*sys.modules} - others if _is_beside(name, folder)}


def _is_beside(name: str, folder: str) -> bool:
    file = getattr(sys.modules.get(name), "__file__", None)
    is_ours = name.partition(".")[0] in _OURS or name.startswith(MODULE_PREFIX)
    return isinstance(file, str) and os.path.dirname(file) == folder and not is_ours


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Have imports write no bytecode: Python takes an old one for a file saved twice a second."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
