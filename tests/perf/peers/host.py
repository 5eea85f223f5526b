"""The host of a comparison: what its figures depend on, and the rate of its cycle counter."""

from __future__ import annotations

import fcntl
import os
import platform as machine
import re
import subprocess
from datetime import date
from typing import Any, Final

from tests.perf.peers.contender import Contender
from vmm.x86 import Vcpu, host_kind, is_emulated_host, open_kvm

KVM_GET_TSC_KHZ: Final = 0xAEA3  # Linux include/uapi/linux/kvm.h: _IO(0xAE, 0xa3)


def tsc_khz() -> int:
    """Return how many thousand cycles a guest's time stamp counter makes in a second."""
    with open_kvm() as kvm, kvm.create_vm() as vm, vm.create_vcpu(0, Vcpu) as vcpu:
        return fcntl.ioctl(vcpu.fd, KVM_GET_TSC_KHZ, 0)


def describe(contenders: list[Contender], rounds: int) -> dict[str, Any]:
    """Return what is told of a comparison beside its figures."""
    return {
        "date": date.today().isoformat(),
        "kind": host_kind(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "kernel": machine.release(),
        "python": machine.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "rounds": rounds,
        "versions": {contender.name: _version(contender) for contender in contenders},
    }


def short_kind() -> str:
    """Return the kind of host in one word, for file names."""
    return "emulated" if is_emulated_host() else "hardware"


def _processor() -> str:
    with open("/proc/cpuinfo") as lines:
        found = re.search(r"^model name\s*: (.*)$", lines.read(), re.MULTILINE)
    return found[1] if found else "unknown"


def _version(contender: Contender) -> str:
    if not contender.needs:
        return "this one"
    program = next(iter(contender.needs))
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60)
    return done.stdout.partition("\n")[0]
