"""What a machine with a debugger asks of KVM beside what every running machine does."""

from typing import Final

from vmm.kvm.ioctl import Request
from vmm.x86.debug.guest_debug import KVM_SET_GUEST_DEBUG
from vmm.x86.kvm.registers import KVM_SET_XSAVE

DEBUGGER_REQUESTS: Final[dict[Request, str]] = {
    KVM_SET_GUEST_DEBUG: "breakpoints and steps",
    KVM_SET_XSAVE: "a debugger sets a vector register",
}
