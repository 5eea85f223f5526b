"""Emulates the instructions that KVM's emulator gave up on, so that the guest can go on.

On hosts without hardware virtualization KVM emulates guest kernel code; where it meets an
instruction it has no code for, the vCPU stops (KVM api.rst "KVM_EXIT_INTERNAL_ERROR", suberror
KVM_INTERNAL_ERROR_EMULATION). With hardware virtualization none of this runs.

A boot has a few thousand CLAC and STAC for us, a few hundred SYSCALLs and little else, so those are
recognised by their bytes; the decoder is imported at the first instruction that needs it. Where C
could be compiled, hardly any of them come here: see ``run.c`` one folder up.

RF and TF are treated as by a processor: an instruction that completes clears RF, and with TF set
it ends in a single-step #DB. A fault sets RF in the flags it pushes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from virtio.memory import GuestMemory
from vmm.x86.emulation.cpu import CannotEmulate, Cpu, GuestFault
from vmm.x86.emulation.flags import AC, RF
from vmm.x86.emulation.state import LONGEST_INSTRUCTION_BYTES, State
from vmm.x86.emulation.syscall import finish_syscall

if TYPE_CHECKING:
    from vmm.x86.kvm.vcpu import Vcpu
    from vmm.x86.native_run import NativeRun

_BREAKPOINT: Final = 3
_INVALID_OPCODE: Final = 6
_DEVICE_NOT_AVAILABLE: Final = 7
_CR0_MP_AND_TS: Final = 1 << 1 | 1 << 3
_LONGEST_PATTERN_BYTES: Final = 3


class Emulator:
    """Emulates instructions; one for each vCPU thread.

    ``reason`` says why the last :meth:`emulate` returned False.
    """

    def __init__(self, memory: GuestMemory) -> None:
        self.reason = ""
        self._memory = memory
        self._counts: Counter[str] = Counter()
        self._native: NativeRun | None = None

    def use_native(self, vcpu: Vcpu) -> None:
        """Have C emulate the commonest instructions of ``vcpu``, where the C part was built."""
        try:
            from vmm.x86.native_run import NativeRun
        except ImportError:
            return
        self._native = NativeRun(vcpu, self._memory)

    @property
    def counts(self) -> Counter[str]:
        """How often each was emulated, by mnemonic; ``syscall`` and ``exception 6`` among them."""
        return self._counts + self._native_counts

    @property
    def writes(self) -> int:
        """How many instructions it executed that may have written to guest memory.

        What it knows by its bytes does not: the processor pushes what the guest's handlers find.
        """
        return sum(self._counts.values()) - sum(self._counts[name] for name in _NO_WRITES)

    @property
    def exits_served(self) -> int:
        """How many exits for it the run loop has not seen, as they needed no Python."""
        return self._native_counts.total()

    @property
    def _native_counts(self) -> Counter[str]:
        return Counter(self._native.counts if self._native is not None else {})

    def emulate(self, cpu: Cpu, instruction_bytes: bytes, /) -> bool:
        """Do the work of the instruction at RIP; return whether the vCPU can be entered again.

        ``instruction_bytes`` is what KVM handed over: up to 15 bytes, perhaps fewer than the
        instruction has, or none. After False the vCPU is as it was; entering it would fail again.
        """
        try:
            name = _emulate(State(cpu, self._memory), instruction_bytes)
        except GuestFault as fault:
            name = _deliver(cpu, fault)
        except CannotEmulate as obstacle:
            self.reason = str(obstacle)
            return False
        self._counts[name] += 1
        return True

    def describe_failure(self, cpu: Cpu, instruction_bytes: bytes, /) -> str:
        """Return the report, several lines, on an instruction that :meth:`emulate` refused."""
        from vmm.x86.emulation.failure import describe_failure

        state = State(cpu, self._memory)
        code = state.code(instruction_bytes, LONGEST_INSTRUCTION_BYTES)
        return describe_failure(state, code, self.reason)


def _emulate(state: State, given: bytes) -> str:
    code = state.code(given, _LONGEST_PATTERN_BYTES)
    for pattern, handler in _FIXED.items():
        if code.startswith(pattern):
            return handler(state)
    from vmm.x86.emulation.decoding import emulate_decoded

    return emulate_decoded(state, code)


def _deliver(cpu: Cpu, fault: GuestFault) -> str:
    regs = cpu.regs()
    regs.rflags |= RF
    cpu.set_regs(regs)
    cpu.inject_exception(fault.vector, fault.error_code)
    return f"exception {fault.vector}"


def _clac(state: State) -> str:
    _require_kernel(state)
    if finish_syscall(state):
        return "syscall"
    state.regs.rflags &= ~AC
    state.retire(3)
    return "clac"


def _stac(state: State) -> str:
    _require_kernel(state)
    state.regs.rflags |= AC
    state.retire(3)
    return "stac"


def _int3(state: State) -> str:
    """INT3: a #BP behind the instruction. Entering the handler clears TF, so there is no #DB."""
    state.regs.rip += 1
    state.regs.rflags &= ~RF
    state.cpu.set_regs(state.regs)
    state.cpu.inject_exception(_BREAKPOINT)
    return "int3"


def _fwait(state: State) -> str:
    """FWAIT: nothing. A pending x87 exception is dropped, which is why Linux executes it."""
    if state.sregs.cr0 & _CR0_MP_AND_TS == _CR0_MP_AND_TS:
        raise GuestFault(_DEVICE_NOT_AVAILABLE)
    state.retire(1)
    return "fwait"


_NO_WRITES: Final = ("clac", "stac", "syscall", "fwait", "int3")


def _require_kernel(state: State) -> None:
    if state.privilege_level != 0:
        raise GuestFault(_INVALID_OPCODE)


_FIXED: Final[dict[bytes, Callable[[State], str]]] = {
    b"\x0f\x01\xca": _clac,
    b"\x0f\x01\xcb": _stac,
    b"\x9b": _fwait,
    b"\xcc": _int3,
}
