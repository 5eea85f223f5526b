"""The commands of a long build: logged, in an environment of our own, and ended with us."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from virtio.errors import ConfigurationError

ENDS_WITH_US = ("setpriv", "--pdeathsig", "TERM")
"""Before a command, ends it when the thread that started it ends, killed or not.

A make that is told to end takes its compilers along, and what they have not finished.
"""
_KEPT_VARIABLES = ("HOME", "PATH", "TMPDIR")


def run(command: list[str], folder: Path, log: Path) -> None:
    """Run ``command`` in ``folder`` to its end; as :func:`started`."""
    with started(command, folder, log) as lines:
        for _ in lines:
            pass


@contextmanager
def started(command: list[str], folder: Path, log: Path) -> Iterator[Iterator[str]]:
    """Run ``command`` in ``folder``; gives its output line by line and appends it to ``log``.

    Leaving the block waits for its end, or kills it with all its children when the block raises.
    Raises ``ConfigurationError`` with the end of the log when the command fails.
    """
    import subprocess

    with (
        log.open("a", errors="replace") as out,
        subprocess.Popen(
            [*ENDS_WITH_US, *command],
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            yield _copied(process.stdout, out)
            status = process.wait()
        except BaseException:
            _kill_group(process.pid)
            raise
    if status:
        raise ConfigurationError(_failure(command[0], status, log))


def _copied(lines: Iterable[str], out: TextIO) -> Iterator[str]:
    for line in lines:
        out.write(line)
        yield line


def _environment() -> dict[str, str]:
    """Nothing of the caller's MAKEFLAGS, CC, KBUILD_* and the like may reach the build."""
    return {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ} | {
        "LC_ALL": "C"
    }


def _kill_group(group: int) -> None:
    import signal

    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _failure(program: str, status: int, log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    telling = [line for line in lines if "error:" in line or "No space left" in line]
    return f"{program} failed with status {status}: {' | '.join((telling or lines)[-3:])}"
