"""The virtual machine monitors that are compared, and how each of them is started."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.perf.peers.workload import GuestFailed, Measurement, parse
from virtio.engine import ENGINES

MEMORY_MIB = 256
LAST_LINES = 15

_QEMU = "qemu-system-x86_64"
_MACHINE = (
    "microvm,x-option-roms=off,pit=off,pic=off,isa-serial=on,rtc=off,acpi=off,"
    "auto-kernel-cmdline=on"
)


@dataclass(frozen=True, slots=True)
class Job:
    """A kernel to boot, with a raw image as its disk and a command line."""

    kernel: Path
    image: Path
    command_line: str


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to run a job: ``command`` gives the program and its arguments.

    ``good_status`` is the exit status of the program when the guest wrote 0 to the debug-exit port,
    ``needs`` maps programs to the packages that bring them. Exactly those with ``ours`` are ours.
    """

    name: str
    command: Callable[[Job], list[str]]
    good_status: int
    ours: bool = False
    needs: Mapping[str, str] | None = None

    def run(self, job: Job, deadline_seconds: float) -> list[Measurement]:
        """Run the job and return what its guest measured.

        Raises :class:`GuestFailed`, with the last lines of the console, for any other outcome.
        """
        try:
            done = subprocess.run(
                self.command(job),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=deadline_seconds,
            )
        except subprocess.TimeoutExpired as error:
            message = f"no end within {deadline_seconds:g} s"
            raise self._failure(message, _text(error.stdout)) from None
        console = _text(done.stdout)
        try:
            measured = parse(console)
        except GuestFailed as error:
            raise self._failure(f"{error} (exit status {done.returncode})", console) from None
        if done.returncode != self.good_status:
            raise self._failure(f"exit status {done.returncode}", console)
        return measured

    def _failure(self, message: str, console: str) -> GuestFailed:
        lines = console.splitlines()[-LAST_LINES:] or ["(nothing)"]
        return GuestFailed("\n  ".join([f"{self.name}: {message}; last console lines:", *lines]))


def _text(output: bytes | None) -> str:
    return (output or b"").decode(errors="replace")


def ours(job: Job, engine: str) -> list[str]:
    """Return the command of ours for a job."""
    return [
        *(sys.executable, "-m", "vmm", "run", "--engine", engine),
        *("--kernel", str(job.kernel), "--memory", f"{MEMORY_MIB}M"),
        *("--disk", str(job.image).replace(",", ",,")),
        *("--no-default-cmdline", "--cmdline", job.command_line),
    ]


def _qemu(job: Job, aio: str) -> list[str]:
    image = str(job.image).replace(",", ",,")
    return [
        *(_QEMU, "-M", _MACHINE, "-global", "virtio-mmio.force-legacy=false"),
        *("-cpu", "host,-arch-capabilities", "-enable-kvm", "-m", str(MEMORY_MIB)),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"),
        *("-kernel", str(job.kernel), "-append", job.command_line),
        *("-object", "iothread,id=io"),
        *("-drive", f"if=none,id=disk,file={image},format=raw,aio={aio},cache=writeback"),
        *("-device", "virtio-blk-device,drive=disk,iothread=io"),
        *("-object", "rng-builtin,id=random", "-device", "virtio-rng-device,rng=random"),
    ]


def _qemu_with(aio: str) -> Contender:
    # isa-debug-exit makes the exit status 2n + 1 of the status n.
    needs = {_QEMU: "qemu-system-x86"}
    return Contender(f"qemu {aio}", partial(_qemu, aio=aio), good_status=1, needs=needs)


CONTENDERS = (
    *(
        Contender(f"pyvmm {engine}", partial(ours, engine=engine), good_status=0, ours=True)
        for engine in ENGINES
    ),
    _qemu_with("threads"),
    _qemu_with("io_uring"),
)
