"""The host: whether it is an x86-64 machine, and what its KVM runs guest kernels on."""

import os
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError, Error
from vmm.kvm.system import Kvm

REQUIRED_CAPABILITIES: Final = {
    "KVM_CAP_IRQCHIP": 0,
    "KVM_CAP_SET_TSS_ADDR": 4,
    "KVM_CAP_EXT_CPUID": 7,
    "KVM_CAP_MP_STATE": 14,
    "KVM_CAP_PIT2": 33,
    "KVM_CAP_VCPU_EVENTS": 41,
}
KVM_CAP_TSC_DEADLINE_TIMER: Final = 72

_SOFTWARE_KVM_MODULE = Path("/sys/module/kvm_pvm")


def check_host() -> None:
    """Raise :class:`ConfigurationError` on a machine that is no x86-64."""
    machine = os.uname().machine
    if machine != "x86_64":
        raise ConfigurationError(f"this host is {machine}; pyvmm runs guests on x86-64 only so far")


def open_kvm() -> Kvm:
    """Open ``/dev/kvm``, checked for everything that a PC needs of it.

    Raises :class:`ConfigurationError` on another machine than x86-64, and
    :class:`vmm.kvm.system.KvmUnavailable` with the reason and the remedy.
    """
    check_host()
    return Kvm(REQUIRED_CAPABILITIES, "kvm_intel or kvm_amd")


def kvm_fault() -> str | None:
    """Return why this host runs no guest, and what helps; None where it does."""
    try:
        with open_kvm() as kvm:
            kvm.create_vm().close()
    except Error as error:
        return str(error)
    return None


def is_emulated_host() -> bool:
    """Whether KVM here works without hardware virtualization: guest kernels are emulated."""
    return _SOFTWARE_KVM_MODULE.exists()


def host_kind() -> str:
    """Return in words how this host runs guest kernels."""
    if is_emulated_host():
        return "KVM without hardware virtualization (guest kernel code is emulated)"
    return "KVM with hardware virtualization"
