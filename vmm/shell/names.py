"""The names that stand for a machine's parts at the prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from virtio.errors import Error
from vmm.console.text import printable

if TYPE_CHECKING:
    from virtio.device.lifecycle import VirtioDevice
    from vmm.machine import Machine


class Devices:
    """The devices of a machine as they are now: ``devices.block0``, ``devices["block0"]``."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def __getitem__(self, name: str) -> VirtioDevice:
        for one in self._machine.hardware.transports:
            if one.name == name:
                return one.device
        raise KeyError(f"{name}: there are {', '.join(self)}")

    def __getattr__(self, name: str) -> VirtioDevice:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(error.args[0]) from None

    def __iter__(self) -> Iterator[str]:
        return iter([one.name for one in self._machine.hardware.transports])

    def __dir__(self) -> list[str]:
        return [*self]

    def __repr__(self) -> str:
        transports = self._machine.hardware.transports
        return "\n".join(line for one in transports for line in one.describe())


class Later:
    """Something that is made when it is first used, as it takes time or may not be there."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None

    def _there(self) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # lest who only looks at it has it made: IPython, copy, pickle
            raise AttributeError(name)
        return getattr(self._there(), name)

    def __getitem__(self, key: Any) -> Any:
        return self._there()[key]

    def __contains__(self, key: Any) -> bool:
        return key in self._there()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._there())

    def __len__(self) -> int:
        return len(self._there())

    def __dir__(self) -> list[str]:
        return dir(self._there())

    def __repr__(self) -> str:
        try:
            return repr(self._there())
        except Error as error:
            return f"<{error}>"


def console_text(machine: Machine, count: int) -> str:
    """Return the last lines of the guest's console, for a terminal that obeys none of them."""
    lines = machine.console.history().decode(errors="replace").splitlines()
    return "\n".join(printable(line.rstrip("\r")) for line in lines[-count:])
