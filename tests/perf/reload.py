"""Measures how long a saved device takes to answer in its guest: ``python -m tests.perf.reload``.

A Linux guest has an entropy device from a file. The file is saved with another answer, again and
again, and a program that waits in the guest reads /dev/hwrng when the device was reloaded. The time
is from before the file is written to when that answer has come back to the host.
"""

from __future__ import annotations

import argparse
import queue
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final, cast

from vmm.agent import Process
from vmm.authoring.device_file import loaded_device
from vmm.authoring.file_watch import FileWatch
from vmm.authoring.reloading import Reloader
from vmm.config import MachineConfig, Transport
from vmm.machine import Machine

ROUNDS: Final = 10
BOOT_SECONDS: Final = 300.0
DEADLINE_SECONDS: Final = 60.0
PROMISED_SECONDS: Final = 1.0

SOURCE: Final = """
from virtio import Device, queue

class Dice(Device):
    device_id = 4

    @queue(size=64)
    def requestq(self, chain):
        return chain.write(b"LETTER" * chain.writable_length)
"""
READS_WHEN_ASKED: Final = "while read go; do read -n 64 letters < /dev/hwrng; echo $letters; done"
"""As much as Linux reads ahead (rng_buffer_size()), so that it keeps nothing of an old answer."""


class Measurement:
    """A guest whose device follows ``file``."""

    def __init__(self, machine: Machine, file: Path) -> None:
        self._file = file
        self._said: queue.Queue[str] = queue.Queue()
        self._reloader = Reloader(machine, self._said.put)
        self._machine = machine

    @contextmanager
    def reader(self) -> Iterator[Process]:
        """Boot, watch the file, and give the program that reads in the guest."""
        self._machine.boot()
        self._machine.agent.wait_ready(BOOT_SECONDS)
        watch = FileWatch(self._reloader.files, self._reloader.reload)
        watch.start()
        try:
            with self._machine.agent.start(["sh", "-c", READS_WHEN_ASKED], stdin=True) as reader:
                yield reader
        finally:
            watch.close()

    def seconds(self, reader: Process, letter: str) -> tuple[float, float]:
        """Return how long a saved letter took to be there, and until the guest had read it."""
        begin = time.monotonic()
        self._file.write_text(SOURCE.replace("LETTER", letter))
        line = self._said.get(timeout=DEADLINE_SECONDS)
        there = time.monotonic()
        reader.write(b"go\n")
        output = next(iter(reader))
        end = time.monotonic()
        if not output.data.endswith(f"{letter}\n".encode()):
            raise SystemExit(f"the guest read {output.data!r} after: {line}")
        return there - begin, end - begin


def measure(transport: Transport, rounds: int) -> list[tuple[float, float]]:
    """Return the times of so many rounds, after one that is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "dice.py")
        file.write_text(SOURCE.replace("LETTER", "a"))
        config = MachineConfig(
            agent="init", rng=False, transport=transport, devices=(loaded_device(f"{file}:Dice"),)
        )
        with Machine(config) as machine:
            measurement = Measurement(machine, file)
            with measurement.reader() as reader:
                letters = (chr(ord("a") + number % 26) for number in range(1, rounds + 2))
                return [measurement.seconds(reader, letter) for letter in letters][1:]


def main() -> int:
    """Measure on both transports, print a line for each, and return whether the promise is kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.perf.reload", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N")
    parser.add_argument("--transport", choices=("mmio", "pci"), action="append")
    options = parser.parse_args()
    kept = True
    print("from saving a device's file to its answer in the guest's /dev/hwrng, in milliseconds")
    print("transport   probed anew   answered: median   worst")
    for name in options.transport or ("mmio", "pci"):
        times = measure(cast("Transport", name), options.rounds)
        there, answered = (sorted(1000 * one[part] for one in times) for part in (0, 1))
        print(f"{name:9} {median(there):13.0f} {median(answered):18.0f} {answered[-1]:7.0f}")
        kept &= median(answered) <= 1000 * PROMISED_SECONDS
    print(f"at most {PROMISED_SECONDS:g} s: {'kept' if kept else 'broken'}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
