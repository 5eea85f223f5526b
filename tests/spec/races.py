"""A device and its driver in two processes, on memory that both have: what they do to each other.

The driver is ``racer.c``, compiled when the host has a C compiler, or its twin at the end of this
file; both poll the ring, honour notification suppression and sleep on an eventfd. The device is the
real one on its transport, in the process of the test.
"""

import atexit
import functools
import os
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from tests.spec.devices import EVERY_RING, Gadget
from tests.spec.rig import PACKED, SPLIT, Form
from transport import VirtioMmio
from transport.testing import MmioDriver
from virtio.memory import FlatMemory
from virtio.testing import ManualLoop

RAM_BYTES = 1 << 20
RINGS_AT = 0x1000
DATA_AT = 0x40000
EVENT_IDX = 1 << 29
DRIVER_PATIENCE_MS = 5_000
DEVICE_PATIENCE_MS = 30_000


class SharedMemory(FlatMemory):
    """One MiB of guest memory at address 0 that another process can map, too."""

    def __init__(self, fd: int | None = None) -> None:
        self.fd = os.memfd_create("guest") if fd is None else fd
        os.ftruncate(self.fd, RAM_BYTES)
        self._mapping = mmap(self.fd, RAM_BYTES)
        super().__init__([(0, memoryview(self._mapping))])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self.fd)


class CallLine:
    """An interrupt line that is an eventfd, as the one to KVM is."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def raise_(self) -> None:
        os.eventfd_write(self.fd, 1)

    def lower(self) -> None:
        pass


@dataclass(frozen=True)
class Race:
    """What is run: ``count`` requests, up to ``window`` (at most half of ``size``) in flight.

    ``spins`` is how often the driver polls for an answer, at most, before it goes to sleep.
    """

    form: Form
    count: int
    size: int = 8
    window: int = 1
    features: int = 0
    spins: int = 50_000


@dataclass(frozen=True)
class Outcome:
    """What the driver saw.

    ``done`` requests came back, the others because of a lost wake-up did not; ``torn`` counts ring
    values that no device stores, ``wrong`` answers that were not there when the ring said so, or
    not right; ``kicks`` and ``sleeps`` tell how often each side was really woken.
    """

    done: int
    torn: int
    wrong: int
    kicks: int
    sleeps: int


@functools.cache
def compiled_racer() -> str:
    """Return the path of the compiled ``racer.c``; skips the test where there is no compiler."""
    # The driver's process needs none of pytest, and should start fast.
    import pytest

    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) for the racing driver")
    directory = tempfile.mkdtemp(prefix="racer-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    program = f"{directory}/racer"
    source = Path(__file__).with_name("racer.c")
    subprocess.run([compiler, "-O2", "-o", program, str(source)], check=True)
    return program


def race_c(race: Race) -> Outcome:
    """Run a race against the compiled driver."""
    return _run(race, [compiled_racer()])


def race_python(race: Race) -> Outcome:
    """Run a race against the driver in Python, in another process."""
    return _run(race, [sys.executable, "-m", "tests.spec.races"])


def _run(race: Race, command: list[str]) -> Outcome:
    call_fd = os.eventfd(0, os.EFD_NONBLOCK)
    device = Gadget(ring_features=EVERY_RING)
    with (
        SharedMemory() as memory,
        VirtioMmio(device, memory, CallLine(call_fd), ManualLoop()) as transport,
        os.fdopen(call_fd),
    ):
        ring = race.form.ring(memory, race.size, race.features, base=RINGS_AT)
        MmioDriver(transport).start(ring, features=race.form.features | race.features)
        transport.service()
        fds = (memory.fd, transport.notify_fds[0], call_fd)
        terms = (DATA_AT, race.features >> 29 & 1, race.window, race.spins, race.count)
        process = subprocess.Popen(
            [*command, race.form.name, *map(str, (*fds, *ring.layout, *terms))],
            pass_fds=fds,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        try:
            serve_while_alive(transport, process.pid)
        finally:
            process.kill()
            output, _ = process.communicate()
    return Outcome(*map(int, output.split()))


def serve_while_alive(transport: VirtioMmio, pid: int) -> None:
    """Serve the first queue whenever it is notified, and never otherwise, until a process ends."""
    poller = select.poll()
    end = os.pidfd_open(pid)
    poller.register(transport.notify_fds[0], select.POLLIN)
    poller.register(end, select.POLLIN)
    try:
        while ready := poller.poll(DEVICE_PATIENCE_MS):
            if any(fd == end for fd, _ in ready):
                return
            transport.handle_notify(0)
    finally:
        os.close(end)
    raise AssertionError("the driver neither notifies nor ends")


# The driver in Python


class PythonDriver:
    """The twin of ``racer.c``; torn values make its side of the queue fail an assertion."""

    def __init__(self, form: Form, settings: list[int]) -> None:
        fd, self.kick_fd, self.call_fd, size, _, _, _, _, event_idx, *rest = settings
        self.window, self.spins, self.count = rest
        self.memory = SharedMemory(fd)
        self.ring = form.ring(self.memory, size, EVENT_IDX * event_idx, base=RINGS_AT)
        self.random = Random(1)
        self.fence = threading.Lock()
        self.sent = self.done = self.wrong = self.kicks = self.sleeps = 0

    def run(self) -> None:
        """Send all requests and receive all answers, or stop when the device does not call."""
        self.ring.suppress_interrupts()
        while self.done < self.count:
            burst = self.random.randint(1, self.window) - self.ring.in_flight
            for _ in range(min(burst, self.count - self.sent)):
                self.send()
            if not self.receive():
                return

    def send(self) -> None:
        data = struct.pack("<Q", self.sent)[: 1 + self.sent % 7]
        self.ring.add([data], [16])
        self.sent += 1
        with self.fence:
            pass
        if self.ring.should_kick():
            self.kicks += 1
            os.eventfd_write(self.kick_fd, 1)

    def receive(self) -> bool:
        """Poll for a while, then sleep; returns False when a wake-up was lost."""
        for _ in range(self.random.randint(0, self.spins)):
            if self.collect():
                return True
        self.ring.want_interrupts()
        with self.fence:
            pass
        while not self.collect():
            self.sleeps += 1
            if not await_call(self.call_fd):
                return False
        self.ring.suppress_interrupts()
        return True

    def collect(self) -> bool:
        found = self.ring.collect()
        for token, length, data in found:
            answer = struct.pack("<Q", token)[: 1 + token % 7]
            self.wrong += (length, data) != (len(answer), answer.ljust(16, b"\xa5"))
        self.done += len(found)
        return bool(found)


def await_call(fd: int) -> bool:
    """Sleep until the device calls; returns False when it does not."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    called = bool(poller.poll(DRIVER_PATIENCE_MS))
    return called and os.eventfd_read(fd) > 0


def main(name: str, *settings: str) -> None:
    """Be the driver, and print what :class:`Outcome` tells of it."""
    form = {"split": SPLIT, "packed": PACKED}[name]
    driver = PythonDriver(form, [int(text) for text in settings])
    driver.run()
    print(driver.done, 0, driver.wrong, driver.kicks, driver.sleeps)


if __name__ == "__main__":
    main(*sys.argv[1:])
