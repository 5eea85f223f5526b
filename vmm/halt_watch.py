"""Notices a guest that has halted for ever.

A PC without ACPI powers off by halting with interrupts off, and with the interrupt chips in the
kernel KVM then keeps the vCPU and tells nobody. So this looks, a few times a second, whether every
vCPU's thread has used no processor time since the last look; only then, as it has to make them
leave the guest for it, at what they are doing.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from vmm.kvm.vcpu import KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, Vcpu
from vmm.vcpu import VcpuThread

INTERVAL_SECONDS: Final = 0.2
_RFLAGS_IF: Final = 1 << 9


class Loop(Protocol):
    """The part of an event loop that is needed here."""

    def call_later(self, seconds: float, callback: Callable[[], object], /) -> object: ...


class HaltWatch:
    """Calls ``on_halted`` once when no vCPU of ``threads`` can ever run again."""

    def __init__(
        self, loop: Loop, threads: Sequence[VcpuThread], on_halted: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._threads = threads
        self._on_halted = on_halted
        self._used: list[float] = []

    def start(self) -> None:
        """Look from now on."""
        self._loop.call_later(INTERVAL_SECONDS, self._look)

    def _look(self) -> None:
        used = [thread.cpu_seconds() for thread in self._threads]
        idle, self._used = used == self._used, used
        if idle and all(thread.call(is_halted_for_ever) for thread in self._threads):
            self._on_halted()
        else:
            self.start()


def is_halted_for_ever(vcpu: Vcpu) -> bool:
    """Whether only an NMI or a start-up IPI could make the vCPU run again."""
    state = vcpu.mp_state()
    if state == KVM_MP_STATE_RUNNABLE:
        return False
    return state != KVM_MP_STATE_HALTED or not vcpu.regs().rflags & _RFLAGS_IF
