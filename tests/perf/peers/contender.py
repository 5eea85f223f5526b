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
from vmm.config import Transport

MEMORY_MIB = 256
MAC = "02:00:00:00:00:01"
LAST_LINES = 15

_QEMU = "qemu-system-x86_64"
_MACHINE = "microvm,x-option-roms=off,pit=off,pic=off,isa-serial=on,rtc=off"
_BUSES: Mapping[Transport, str] = {
    "mmio": "acpi=off,auto-kernel-cmdline=on",
    "pci": "acpi=on,pcie=on",  # without ACPI there is no PCI either
}
_QEMU_ECAM = 0xE000_0000
"""PCIE_ECAM_BASE of QEMU's include/hw/i386/microvm.h; there are no configuration ports."""


@dataclass(frozen=True, slots=True)
class Job:
    """A kernel to boot, with a raw image as its disk, or a tap, and a command line."""

    kernel: Path
    image: Path
    command_line: str
    tap: str = ""


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to run a job: ``command`` gives the program and its arguments.

    ``good_status`` is the exit status of the program when the guest wrote 0 to the debug-exit port,
    ``needs`` maps programs to the packages that bring them. Exactly those with ``ours`` are ours.
    ``like`` names the one on virtio-mmio that is the same otherwise.
    """

    name: str
    command: Callable[[Job], list[str]]
    good_status: int
    ours: bool = False
    needs: Mapping[str, str] | None = None
    transport: Transport = "mmio"
    like: str = ""

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


def ours(job: Job, engine: str, transport: Transport = "mmio") -> list[str]:
    """Return the command of ours for a job."""
    words = job.command_line if transport == "mmio" else f"bus=pci {job.command_line}"
    return [
        *(sys.executable, "-m", "vmm", "run", "--engine", engine, "--transport", transport),
        *("--kernel", str(job.kernel), "--memory", f"{MEMORY_MIB}M"),
        *_our_device(job),
        *("--no-default-cmdline", "--cmdline", words),
    ]


def _our_device(job: Job) -> tuple[str, str]:
    if job.tap:
        return "--net", f"tap={job.tap},mac={MAC}"
    return "--disk", str(job.image).replace(",", ",,")


def _qemu_devices(job: Job, aio: str, kind: str, more: str) -> list[str]:
    if job.tap:
        tap = f"tap,id=net,ifname={job.tap},script=no,downscript=no,vhost=off"
        return ["-netdev", tap, "-device", f"virtio-net-{kind},netdev=net,mac={MAC}{more}"]
    image = str(job.image).replace(",", ",,")
    return [
        *("-object", "iothread,id=io"),
        *("-drive", f"if=none,id=disk,file={image},format=raw,aio={aio},cache=writeback"),
        *("-device", f"virtio-blk-{kind},drive=disk,iothread=io{more}"),
        *("-object", "rng-builtin,id=random", "-device", f"virtio-rng-{kind},rng=random{more}"),
    ]


def _qemu(job: Job, aio: str, transport: Transport = "mmio") -> list[str]:
    kind, words, more = "device", job.command_line, ""
    if transport == "pci":
        kind, words, more = "pci", f"bus=pci ecam={_QEMU_ECAM:#x} {words}", ",disable-legacy=on"
    return [
        *(_QEMU, "-M", f"{_MACHINE},{_BUSES[transport]}"),
        *("-global", "virtio-mmio.force-legacy=false"),
        *("-cpu", "host,-arch-capabilities", "-enable-kvm", "-m", str(MEMORY_MIB)),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"),
        *("-kernel", str(job.kernel), "-append", words),
        *_qemu_devices(job, aio, kind, more),
    ]


def _qemu_with(aio: str, transport: Transport = "mmio") -> Contender:
    # isa-debug-exit makes the exit status 2n + 1 of the status n.
    name = f"qemu {aio}"
    return Contender(
        name if transport == "mmio" else f"{name} pci",
        partial(_qemu, aio=aio, transport=transport),
        good_status=1,
        needs={_QEMU: "qemu-system-x86"},
        transport=transport,
        like=name if transport == "pci" else "",
    )


CONTENDERS = (
    *(
        Contender(f"pyvmm {engine}", partial(ours, engine=engine), good_status=0, ours=True)
        for engine in ENGINES
    ),
    Contender(
        "pyvmm native pci",
        partial(ours, engine="native", transport="pci"),
        good_status=0,
        ours=True,
        transport="pci",
        like="pyvmm native",
    ),
    _qemu_with("threads"),
    _qemu_with("io_uring"),
    _qemu_with("threads", "pci"),
    _qemu_with("io_uring", "pci"),
)
