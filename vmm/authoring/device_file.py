"""A device of the user's own: a class in a Python file, as the command line names it."""

from __future__ import annotations

import ast
import copy
from pathlib import Path
from typing import Any, Final, cast

from virtio.device.lifecycle import VirtioDevice
from virtio.errors import ConfigurationError, Error
from vmm.authoring.loading import LoadedClass, describe, load_class
from vmm.config import DeviceConfig
from vmm.slots import Transport

_FORM: Final = "must be FILE.py:CLASS, and perhaps ,NAME=VALUE for arguments"


class DeviceFile:
    """Makes devices of a class in a file: the one that was loaded last.

    ``arguments`` are given to the class by name.
    """

    def __init__(self, path: Path, name: str, arguments: dict[str, Any] | None = None) -> None:
        self.path = path
        self.name = name
        self.arguments = arguments or {}
        self.loaded: LoadedClass | None = None

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"

    def load(self) -> LoadedClass:
        """Load the class as the file has it now, as :func:`load_class`, and keep it."""
        self.loaded = load_class(self.path, self.name)
        return self.loaded

    def __call__(self) -> VirtioDevice:
        """Make a device; as :meth:`make`, of what was loaded last, or else now."""
        return self.make(self.loaded or self.load())

    def make(self, loaded: LoadedClass) -> VirtioDevice:
        """Make a device of a class; raises :class:`ConfigurationError` when its author's code does.

        The arguments are copied, so that the next device gets them as they were given.
        """
        try:
            return loaded.device(**copy.deepcopy(self.arguments))
        except Error:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigurationError(f"{describe(error, self.path)} (by {self.name}())") from error


def loaded_device(text: str) -> DeviceConfig:
    """As :func:`parse_device`; the class is loaded, which is a look at all that may be wrong."""
    config = parse_device(text)
    if isinstance(config.make, DeviceFile):
        config.make.load()
    return config


def parse_device(text: str) -> DeviceConfig:
    """Read ``FILE.py:CLASS`` and what may follow: ``transport=mmio|pci``, arguments by name.

    A value is a number or another literal of Python's, or else the text that it is. A comma in a
    name or a value is doubled. Raises :class:`ConfigurationError`.

    >>> found = parse_device("dice.py:Dice,sides=6,colour=red,transport=pci")
    >>> found.make.path.name, found.make.name, found.make.arguments, found.transport
    ('dice.py', 'Dice', {'sides': 6, 'colour': 'red'}, 'pci')
    """
    first, *rest = (one.replace("\0", ",") for one in text.replace(",,", "\0").split(","))
    path, _, name = first.rpartition(":")
    if not path or not name.isidentifier():
        raise ConfigurationError(f"--device {text!r}: {_FORM}")
    arguments: dict[str, Any] = {}
    for one in rest:
        key, equals, value = one.partition("=")
        if not equals or not key.isidentifier() or key in arguments:
            raise ConfigurationError(f"--device {text!r}: {one!r}: must be NAME=VALUE, each once")
        arguments[key] = value if key == "transport" else _literal(value)
    transport = arguments.pop("transport", None)
    return DeviceConfig(
        DeviceFile(Path(path), name, arguments), cast("Transport | None", transport)
    )


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return text
