"""Cassettes: what a device was asked and answered, as a golden file, and what is different later.

A cassette is text with a line for each step of the driver and for each request with its answer, in
the order in which the device took them. Times, threads, addresses and the ids of chains are not in
it, as no two runs have the same; nor are notifications and interrupts, whose number depends on how
fast both sides are.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self, get_args

from virtio.errors import ConfigurationError
from vmm.console.text import printable
from vmm.trace.events import (
    Breach,
    ConfigurationChange,
    Dropped,
    Event,
    Features,
    QueueEnabled,
    Reset,
    Status,
    Taken,
)
from vmm.trace.filter import Filter
from vmm.trace.query import Trace

if TYPE_CHECKING:
    from vmm.machine import Machine

Mode = Literal["once", "record", "compare"]

VARIABLE: Final = "PYVMM_CASSETTE"
_STEPS: Final = (Status, Features, Reset, QueueEnabled, ConfigurationChange, Dropped, Breach)


class CassetteError(AssertionError):
    """The device was asked, or answered, something else than the cassette has; with a diff."""


class Cassette:
    """Records a device of a machine to ``path`` in a ``with`` block, or compares it with that.

        with Cassette(Path("golden/mount.txt"), guest.machine, "block0"):
            guest.sh("mount /dev/vda /mnt")

    ``mode`` is ``once``: compare where there is a file, else make it; ``record``: make it anew; or
    ``compare``: fail without a file. By default it is what the environment variable
    ``PYVMM_CASSETTE`` says, and without that ``once``. ``where`` chooses among the events, as
    ``--filter`` does. Nothing is written or compared when the block raises.

    Raises :class:`CassetteError`, and :class:`ConfigurationError` for a file that cannot be read or
    written.
    """

    def __init__(
        self,
        path: Path,
        machine: Machine,
        device: str,
        *,
        mode: Mode | None = None,
        where: str = "",
    ) -> None:
        wanted = mode or os.environ.get(VARIABLE) or "once"
        if wanted not in get_args(Mode):
            raise ConfigurationError(
                f"cassette mode {wanted!r}: must be one of {', '.join(get_args(Mode))}"
            )
        self.path = path
        self._machine = machine
        self._device = device
        self._mode = wanted
        self._where = Filter(where)
        self._begin = 0

    def __enter__(self) -> Self:
        names = [one.name for one in self._machine.hardware.transports]
        if self._device not in names:
            raise ConfigurationError(
                f"cassette {self.path}: no device {self._device!r}; there are {', '.join(names)}"
            )
        self._traced = self._machine.traced()
        self._trace = self._traced.__enter__()
        self._begin = len(self._trace)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            lines = list(cassette_lines(self._trace[self._begin :], self._device, self._where))
        finally:
            self._traced.__exit__(kind, error, traceback)
        if kind is None:
            self._finish(lines)

    def _finish(self, lines: list[str]) -> None:
        before = None if self._mode == "record" else self._read()
        if before is None and self._mode == "compare":
            raise ConfigurationError(f"cassette {self.path}: there is none to compare with")
        if before is None:
            from vmm.host.new_file import replace_file

            replace_file(self.path, "".join(f"{line}\n" for line in lines).encode())
        elif before != lines:
            raise CassetteError(difference(before, lines, self.path))

    def _read(self) -> list[str] | None:
        with suppress(FileNotFoundError):
            try:
                if not stat.S_ISREG(self.path.stat().st_mode):
                    raise ConfigurationError(f"cassette {self.path}: no regular file")
                return self.path.read_text(encoding="utf-8").splitlines()
            except (OSError, ValueError) as error:
                if isinstance(error, FileNotFoundError):
                    raise
                raise ConfigurationError(f"cassette {self.path}: {error}") from None
        return None


def cassette_lines(trace: Trace, device: str, where: Filter) -> Iterator[str]:
    """Return the lines of a cassette."""
    answers = {id(one.taken): one.length for one in trace.requests}
    yield f"# {device}: steps of the driver; requests, and how many bytes answered them"
    for one in where.of(trace):
        if one.device != device:
            continue
        if isinstance(one, Taken):
            length = answers.get(id(one))
            answer = "no answer" if length is None else str(length)
            yield printable(f"{one.queue}: {_asked(one)} => {answer}")
        elif isinstance(one, _STEPS):
            yield printable(_step(one))


def _step(event: Event) -> str:
    place = f"{event.queue}: " if event.queue >= 0 else ""
    return f"{place}{event.kind} {event.details}".rstrip()


def _asked(taken: Taken) -> str:
    parts = [f"{'+' if writes else '-'}{length}" for _, length, writes in taken.descriptors]
    words = f"{taken.request} {taken.what}".strip() or taken.head.hex()
    return " ".join([*filter(None, [words]), f"[{' '.join(parts)}]"])


def difference(before: Sequence[str], after: Sequence[str], path: Path) -> str:
    """Return what is different, as a diff of events."""
    from difflib import unified_diff

    lines = unified_diff(before, after, str(path), "this time", lineterm="", n=2)
    return "\n".join(["the device was asked or answered something else:", *lines])
