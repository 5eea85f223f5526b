"""Runs the checker of an exercise on a reader's file, in a process that may fail in any way."""

import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError, HostError
from vmm.course.chapters import Chapter

DEADLINE: Final = 60.0
"""Seconds that a file has; the checkers themselves take less than one."""

_LONGEST: Final = 1 << 20


def check(
    chapter: Chapter, file: Path, tell: Callable[[str], None], deadline: float = DEADLINE
) -> str | None:
    """Check a file and return what is missing, in one line, or None when nothing is.

    ``tell`` is called with each thing that is right. Raises :class:`HostError` where the host runs
    no guest, and :class:`ConfigurationError` for a file that cannot be read.
    """
    _check_readable(file)
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as pipe:
        try:
            command = [sys.executable, "-P", "-m", "vmm.course.child", str(chapter.number)]
            process = subprocess.Popen(
                [*command, str(file.absolute()), str(writing)],
                stdin=subprocess.DEVNULL,
                pass_fds=[writing],
                start_new_session=True,
            )
        finally:
            os.close(writing)
        try:
            return _outcome(pipe.fileno(), process, file, tell, deadline)
        finally:
            with suppress(ProcessLookupError):  # with whatever the file has started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _check_readable(file: Path) -> None:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise ConfigurationError(f"{file}: must be a file of Python")
        file.open("rb").close()
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}; name your file") from None


def _outcome(
    fd: int,
    process: "subprocess.Popen[bytes]",
    file: Path,
    tell: Callable[[str], None],
    deadline: float,
) -> str | None:
    after = "at its start"
    end = time.monotonic() + deadline
    try:
        for line in _lines(fd, end):
            kind, _, text = line.partition(" ")
            if kind == "step":
                tell(text)
                after = f"after: {text}"
            elif kind == "missing":
                return text
            elif kind == "host":
                number, _, what = text.partition(" ")
                raise HostError("the checker's guest", int(number), what)
            elif kind == "done":
                return None
        # It may have closed the pipe, and go on.
        status = process.wait(max(end - time.monotonic(), 0.1))
    except (TimeoutError, subprocess.TimeoutExpired):
        return f"{file.name} made no end within {deadline:g} s, {after}"
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    return f"{file.name} ended the checker {how}, {after}"


def _lines(fd: int, end: float) -> Iterator[str]:
    """Yield what comes line by line; raises :class:`TimeoutError` when the time is over."""
    rest = b""
    while True:
        left = end - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            raise TimeoutError
        data = os.read(fd, 65536)
        if not data or len(rest) > _LONGEST:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace")
