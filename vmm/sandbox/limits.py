"""Limits on what a jailed machine uses of the host, and how they are written on a command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from virtio.dataclass import dataclass
from virtio.errors import ConfigurationError
from vmm.host.size import parse_size

if TYPE_CHECKING:
    from vmm.config import MachineConfig

_OWN_BYTES: Final = 128 << 20  # of the interpreter, the rings' buffers, tables of KVM
_OWN_THREADS: Final = 64
_IO_WEIGHT: Final = 50  # half of what others have who ask for nothing
_PERIOD_US: Final = 100_000

ALLOWED: Final = "memory=SIZE, pids=NUMBER, cpu=PROCESSORS, io=WEIGHT, each also NAME=max; or none"


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of a cgroup: the names that its file may have, and what is written there.

    Of one that was ``asked`` for nothing less is accepted.
    """

    files: tuple[str, ...]
    text: str
    asked: bool = False


Limits = dict[str, Limit]
"""Limits by the cgroup's controller for each. Linux cgroup-v2.rst."""


def parse_limits(words: Sequence[str], config: MachineConfig, overlays: int) -> Limits | None:
    """Return the limits for a machine, with those of ``NAME=VALUE`` words; None for ``none``.

    ``overlays`` is how many bytes its disks may take of memory. Raises
    :class:`ConfigurationError`.

    >>> from vmm.config import MachineConfig
    >>> limits = parse_limits(["cpu=0.5"], MachineConfig(), 0)
    >>> limits["cpu"].text, limits["memory"].text
    ('50000 100000', '268435456')
    """
    if "none" in words:
        if len(words) > 1:
            raise ConfigurationError("--jail-limit none: cannot be had together with others")
        return None
    devices = len(config.disks) + len(config.devices) + len(config.ports)
    limits = {
        "memory": _limit("memory", config.memory_bytes + overlays + _OWN_BYTES),
        "pids": _limit("pids", config.cpus + devices + _OWN_THREADS),
        "cpu": _limit("cpu", config.cpus + 1),
        "io": _limit("io", _IO_WEIGHT),
    }
    for word in words:
        name, _, value = word.partition("=")
        limits[name] = _asked(name, value)
    return limits


def overlay_bytes(sizes: Sequence[tuple[int, int | None]]) -> int:
    """Return how much memory overlays may take, of which ``(size, limit)`` in bytes are given."""
    return sum(size if limit is None else min(size, limit) for size, limit in sizes)


_FILES: Final = {
    "memory": ("memory.max",),
    "pids": ("pids.max",),
    "cpu": ("cpu.max",),
    "io": ("io.weight", "io.bfq.weight"),
}


def _limit(name: str, value: float, *, asked: bool = False) -> Limit:
    text = str(value)
    if name == "cpu":
        text = f"{max(1000, int(value * _PERIOD_US))} {_PERIOD_US}"
    elif name == "io":
        text = f"default {value}"
    return Limit(_FILES[name], text, asked)


def _asked(name: str, value: str) -> Limit:
    wrong = ConfigurationError(f"--jail-limit {name}={value}: must be {ALLOWED}")
    if name not in _FILES:
        raise wrong
    if value == "max":
        return Limit(_FILES[name], "default 100" if name == "io" else "max")
    if name == "memory":
        return _limit(name, parse_size(value), asked=True)
    try:
        number = float(value) if name == "cpu" else int(value)
    except ValueError:
        raise wrong from None
    low, high = {"pids": (1, 1 << 22), "cpu": (0.01, 4096), "io": (1, 10_000)}[name]
    if not low <= number <= high:
        raise ConfigurationError(f"--jail-limit {name}={value}: must be {low} to {high}")
    return _limit(name, number, asked=True)


def file_bytes(path: str) -> int:
    """Return the size of a file or a block device, 0 for one that is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0  # of which the machine will tell
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    except OSError:
        return 0
    finally:
        os.close(fd)
