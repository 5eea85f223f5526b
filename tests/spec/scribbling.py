"""A process that rewrites guest memory without a pause, while the device reads it."""

import ctypes
import struct
import subprocess
import sys
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from tests.spec.races import SharedMemory

Scribble = tuple[int, str, list[int]]
"""An address, the width of a store there as in :mod:`struct`, and the values to store in turn."""


class Scribbler:
    """A process that stores values to shared memory, at random and without a pause, until the end
    of the ``with`` block."""

    def __init__(self, memory: SharedMemory, scribbles: list[Scribble]) -> None:
        texts = [f"{at}:{kind}:{','.join(map(str, values))}" for at, kind, values in scribbles]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.spec.scribbling", str(memory.fd), *texts],
            pass_fds=[memory.fd],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()


def main(fd: str, *texts: str) -> None:
    """Be that process."""
    memory, random, stores = SharedMemory(int(fd)), Random(1), []
    for text in texts:
        address, kind, values = text.split(":")
        width = struct.calcsize(kind)
        field = memory.view(int(address), width).cast("H" if kind == "H" else "Q")
        stores += [(field, int(value)) for value in values.split(",")]
    order = random.choices(stores, k=10_007)
    print("ready", flush=True)
    while True:
        for field, value in order:
            field[0] = value


def address_of(view: memoryview) -> int:
    """Return where in this process a writable view begins."""
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


if __name__ == "__main__":
    main(*sys.argv[1:])
