"""The ``monitor`` commands of a debugger: what the monitor knows and the guest's symbols do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from virtio.errors import ConfigurationError

if TYPE_CHECKING:
    from vmm.gdb.target import MachineTarget

_MOST_BYTES: Final = 1024
_LINE: Final = 16
_HELP: Final = """\
devices            each virtio device, its driver's state and features
queues [DEVICE]    each queue: its rings, indices and what is outstanding
vcpus              where each processor is
events             the last steps in the life of the devices
stats              exits, interrupts and requests so far
memory             guest RAM, by physical address
xp ADDRESS [BYTES] physical memory
dump FILE          memory and processors as a core file, where the sandbox lets files be opened
translate ADDRESS  the physical address of a virtual one, by the page tables of vCPU 0
"""


class MonitorCommands:
    """Runs a command on the machine of ``target``, which stands still; :meth:`run` gives text."""

    def __init__(self, target: MachineTarget) -> None:
        self._target = target
        self._commands: dict[str, Callable[[list[str]], str]] = {
            "help": lambda _: _HELP,
            "devices": self._devices,
            "queues": self._queues,
            "vcpus": lambda _: _lines(map(target.describe, range(target.vcpus))),
            "events": lambda _: _lines(target.machine.events()) or "none\n",
            "stats": lambda _: _lines(target.machine.statistics.lines()),
            "memory": self._memory,
            "xp": self._physical,
            "translate": self._translate,
            "dump": self._dump,
        }

    def run(self, text: str) -> str:
        """Return what the command ``text`` tells; raises ``ConfigurationError`` for bad words."""
        words = text.split()
        command = self._commands.get(words[0]) if words else self._commands["help"]
        if command is None:
            raise ConfigurationError(
                f"no command {words[0]!r}: there are {', '.join(self._commands)}"
            )
        return command(words[1:])

    def _devices(self, _: list[str]) -> str:
        transports = self._target.machine.hardware.transports
        return _lines(line for one in transports for line in one.describe()[:1]) or "none\n"

    def _queues(self, words: list[str]) -> str:
        transports = self._target.machine.hardware.transports
        chosen = [one for one in transports if not words or one.name in words]
        if words and not chosen:
            there = ", ".join(one.name for one in transports) or "none"
            raise ConfigurationError(f"no device {words[0]!r}: there are {there}")
        return _lines(line for one in chosen for line in one.describe()) or "none\n"

    def _memory(self, _: list[str]) -> str:
        regions = self._target.machine.hardware.ram.regions
        return _lines(f"{start:#018x} to {start + size - 1:#018x}" for start, size in regions)

    def _physical(self, words: list[str]) -> str:
        if not 1 <= len(words) <= 2:
            raise ConfigurationError("xp needs ADDRESS, and may have a number of BYTES")
        address, length = _number(words[0]), _number(words[1]) if len(words) > 1 else 64
        if not 0 < length <= _MOST_BYTES:
            raise ConfigurationError(f"{length} bytes: must be 1 to {_MOST_BYTES}")
        data = self._target.read_physical(address, length)
        if data is None:
            raise ConfigurationError(f"address {address:#x}: not all of it is RAM")
        parts = [(at, data[at : at + _LINE]) for at in range(0, length, _LINE)]
        return _lines(f"{address + at:016x}  {part.hex(' ')}" for at, part in parts)

    def _translate(self, words: list[str]) -> str:
        if len(words) != 1:
            raise ConfigurationError("translate needs ADDRESS")
        address = _number(words[0])
        physical = self._target.translate(0, address)
        if physical is None:
            raise ConfigurationError(f"address {address:#x}: nothing is mapped there")
        return f"{physical:#x}\n"

    def _dump(self, words: list[str]) -> str:
        if len(words) != 1:
            raise ConfigurationError("dump needs FILE")
        self._target.machine.dump(words[0])
        return f"{words[0]} is written\n"


def _number(text: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 64:
        raise ConfigurationError(f"{text!r}: must be a number such as 4096 or 0x1000")
    return number


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
