"""``python -m tests.perf.hops [--calls]``: the way of one 4 KiB read through our Python code.

A driver sends one read of 4 KiB to a disk, and the event loop's callback serves it, by each engine
in turn. Printed are the calls of functions of ``virtio/``, ``transport/`` and ``vmm/`` from that
callback on, in how many files they are, and how often a call is in another file than the one
before. ``--calls`` prints the calls themselves, indented by depth. ``tests/unit/test_hops.py``
holds the counts.
"""

import os
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple
from unittest.mock import Mock

from transport.mmio.registers import VirtioMmio
from transport.testing import MmioDriver
from virtio import Block, engine
from virtio.testing import ManualLoop, SplitDriver, flat_memory
from vmm.disk.disk import DiskConfig
from vmm.kvm.irqfd import IrqfdLine

ROOT = Path(__file__).parents[2]
OURS = tuple(f"{ROOT / package}{os.sep}" for package in ("virtio", "transport", "vmm"))
VERSION_1, FLUSH = 1 << 32, 1 << 9
READ = struct.pack("<IIQ", 0, 0, 0)


class Call(NamedTuple):
    """A function of ours that was called: its file, its name, and how deep below the first."""

    file: str
    name: str
    depth: int


class Hops(NamedTuple):
    """How far a request travels."""

    calls: int
    files: int
    moves: int

    @classmethod
    def of(cls, calls: list[Call]) -> "Hops":
        """Count the calls, their files, and the moves from file to file."""
        moves = sum(one.file != other.file for one, other in pairwise(calls))
        return cls(len(calls), len({one.file for one in calls}), moves)


def read_4k(name: str) -> list[Call]:
    """Return the calls that serve one read of 4 KiB by the engine ``name``."""
    usual = engine.current()
    engine.use(name)
    try:
        with tempfile.NamedTemporaryFile() as image, disk(image.name) as (transport, driver):
            for _ in range(3):  # what is made at first use is made by then
                serve(transport, driver)
            return serve(transport, driver)
    finally:
        engine.use(usual)


@contextmanager
def disk(path: str) -> Iterator[tuple[VirtioMmio, SplitDriver]]:
    """Give a disk of 1 MiB on its transport, and a driver that set it up."""
    os.truncate(path, 1 << 20)
    memory = flat_memory((0, 1 << 20))
    line = IrqfdLine(Mock(), 5)  # a real one but for KVM at the other end
    backend = DiskConfig(path).open()
    with backend, VirtioMmio(Block(backend), memory, line, ManualLoop()) as transport:
        driver = SplitDriver(memory, 64)
        MmioDriver(transport).start(driver, features=VERSION_1 | FLUSH)
        yield transport, driver
    line.close()


def serve(transport: VirtioMmio, driver: SplitDriver) -> list[Call]:
    """Send one read, and return the calls that serve it; the driver must get all of it back."""
    driver.add([READ], [4096, 1])
    transport.notify(0)
    callback = transport.queues[0].serve
    calls = traced(callback)
    [used] = driver.collect()
    assert (used.length, used.data[-1]) == (4097, 0)
    return calls


def traced(callback: Any) -> list[Call]:
    """Return the calls of functions of ours that a callback makes."""
    calls: list[Call] = []
    depth = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal depth
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(OURS):
            return
        if event == "call":
            file = os.path.relpath(code.co_filename, ROOT)
            calls.append(Call(file, code.co_qualname, depth))
        depth += 1 if event == "call" else -1

    sys.setprofile(profile)
    try:
        callback()
    finally:
        sys.setprofile(None)
    return calls


def main(*, show_calls: bool) -> None:
    """Print the table."""
    print(f"{'engine':8}{'calls':>7}{'files':>7}{'moves':>7}")
    for name in engine.ENGINES if engine.native() is not None else ("python",):
        calls = read_4k(name)
        hops = Hops.of(calls)
        print(f"{name:8}{hops.calls:7}{hops.files:7}{hops.moves:7}")
        for call in calls if show_calls else ():
            print(f"    {'  ' * call.depth}{call.name}  {call.file}")


if __name__ == "__main__":
    main(show_calls="--calls" in sys.argv[1:])
