"""The hardware host's machine: QEMU emulates the processor, SVM and nested paging included.

The console is the first serial line, on QEMU's standard output. kvm-intel cannot be had this way:
QEMU does not emulate VMX.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.hosts.kernel import HostKernel
from vmm.image.build_command import ENDS_WITH_US
from vmm.image.debian import ensure
from vmm.image.progress import Progress

PROGRAM: Final = "qemu-system-x86_64"
# A tick that QEMU repeats by itself. By one-shot timers two guests were seen to spin for ever; with
# a repeated tick they were not. QEMU 7.2 perhaps loses an interrupt that another of its threads
# raises as it enters or leaves a guest: helper_vmrun() and do_vmexit() change `interrupt_request`
# without the lock.
# A busy processor does not always repeat the timer as soon as the kernel's check of it wants.
_CMDLINE: Final = (
    "console=ttyS0 mitigations=off quiet nokaslr panic=-1 nohz=off highres=off no_timer_check"
)
# What this model has and TCG lacks would be a warning each. XSAVE is off as QEMU keeps XSETBV from
# KVM, which then tells guests a wrong size: a WARNING of each guest's kernel.
_CPU: Final = (
    "EPYC-v1,+svm,+npt,-rdseed,-sha-ni,-fxsr-opt,-misalignsse,-3dnowprefetch,-osvw,-topoext"
    ",-nrip-save,-xsavec,-xsave"
)
_PIECE_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class HardwareHost:
    """The parts of the machine: kernel, initramfs, disks, and how large it is."""

    kernel: HostKernel
    initramfs: Path
    system: Path
    errand: Path
    cpus: int = 2
    memory_mib: int = 3072

    def command(self) -> list[str]:
        """Return the command line of QEMU."""
        return [
            *(PROGRAM, "-accel", "tcg,thread=multi", "-M", "q35", "-cpu", _CPU),
            *("-smp", str(self.cpus), "-m", str(self.memory_mib)),
            *("-display", "none", "-nodefaults", "-serial", "stdio", "-no-reboot"),
            *("-kernel", str(self.kernel.vmlinuz), "-initrd", str(self.initramfs)),
            *("-append", _CMDLINE),
            *_disk("system", self.system, "snapshot=on"),
            *_disk("errand", self.errand, "cache=unsafe"),
        ]

    def run(self, seconds: float, show: Callable[[bytes], object]) -> bool:
        """Run the machine to its end, and ``show`` its console; False when time ends it."""
        command = [*ENDS_WITH_US, *self.command()]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as machine:
            assert machine.stdout is not None
            try:
                return _followed(machine.stdout.fileno(), time.monotonic() + seconds, show)
            finally:
                machine.kill()


def ensure_qemu(progress: Progress) -> None:
    """Install QEMU when we are root and it is missing; raises ``ConfigurationError`` otherwise."""
    ensure({PROGRAM: "qemu-system-x86"}, "the hardware host", progress)


def _disk(name: str, image: Path, option: str) -> tuple[str, ...]:
    # A comma in a file's name is doubled: qemu(1) "-drive".
    file = str(image).replace(",", ",,")
    drive = f"if=none,id={name},file={file},format=raw,{option}"
    return "-drive", drive, "-device", f"virtio-blk-pci,drive={name}"


def _followed(console: int, end: float, show: Callable[[bytes], object]) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(console, selectors.EVENT_READ)
        while (left := end - time.monotonic()) > 0:
            if selector.select(left):
                piece = os.read(console, _PIECE_BYTES)
                if not piece:
                    return True
                show(piece)
    return False
