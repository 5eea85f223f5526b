"""The vCPU as an emulated instruction sees it, and the two ways in which emulation can fail.

Names and conventions are KVM's: KVM api.rst "KVM_GET_REGS", "KVM_GET_SREGS", "KVM_TRANSLATE".
"""

from typing import Protocol

from virtio.errors import Error
from vmm.x86.kvm.registers import Regs, Sregs


class Cpu(Protocol):
    """A vCPU that is out of the guest, stopped at the instruction to emulate.

    KVM may have queued a #UD together with the exit; KVM_SET_REGS drops it. So every emulation
    ends with :meth:`set_regs`, and an exception of ours is injected *after* that.
    """

    def regs(self) -> Regs:
        """Return the general registers, RIP at the instruction."""

    def set_regs(self, regs: Regs, /) -> None:
        """Replace the general registers, and forget any exception that KVM has queued."""

    def sregs(self) -> Sregs:
        """Return segment, table and control registers."""

    def msr(self, index: int, /) -> int:
        """Return one model-specific register."""

    def translate(self, virtual: int, /) -> int | None:
        """Return the guest-physical address of a guest-virtual one, None if it is not mapped."""

    def inject_exception(self, vector: int, error_code: int | None = None, /) -> None:
        """Deliver an exception at the next entry; vector 1 is a single-step trap (DR6.BS)."""


class CannotEmulate(Error):
    """The instruction cannot be emulated; the message says why, and nothing was changed."""


class GuestFault(Error):
    """The instruction raises an exception in the guest, as it would on a processor."""

    def __init__(self, vector: int, error_code: int | None = None) -> None:
        self.vector = vector
        self.error_code = error_code
        super().__init__(f"guest exception {vector}")
