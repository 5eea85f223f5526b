"""One vCPU in the hands of a debugger: it stops at breakpoints, and goes in single steps.

The vCPU's run loop knows nothing of it. While a debugger is there it replaces the handlers of the
exits that may be a stop, and on hosts that emulate the guest's kernel the entry in C, which would
execute instructions that a step must not skip.

What a step is. KVM stops behind one instruction with KVM_EXIT_DEBUG. It has three exceptions. An
instruction that KVM hands to us (an emulation failure) is done when our emulator has done it. An
access to a device is completed by KVM at the next entry, which would go on to another instruction:
``kvm_run.immediate_exit`` makes it return when the access is completed (KVM api.rst "The kvm_run
structure"). And a vCPU at a hardware breakpoint would stop there again before it has moved, so that
the first step leaves those out.

On hosts that emulate the guest's kernel INT3 arrives as an emulation failure, debug registers stop
at the execution of an address but not at accesses to memory, and so memory is watched by steps and
comparisons. Interrupts are let in then, as the guest would otherwise stand still.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from vmm.gdb.breakpoints import Breakpoints
from vmm.gdb.stop import Kind, Stop
from vmm.kvm import vcpu as kvm
from vmm.kvm.ioctl import KVM_RUN, try_ioctl
from vmm.vcpu import VcpuThread
from vmm.x86 import (
    BREAKPOINT,
    Vcpu,
    debug_exit,
    end_guest_debug,
    linear_position,
    set_guest_debug,
)

_IMMEDIATE_EXIT: Final = 1  # struct kvm_run: __u8 immediate_exit at offset 1
_DEBUG: Final = 1
_ACCESSES: Final = (kvm.KVM_EXIT_IO, kvm.KVM_EXIT_MMIO)
_KINDS: Final[dict[str, Kind]] = {"execute": "hwbreak", "write": "watch", "access": "awatch"}

Handler = Callable[[], bool]


class VcpuControl:
    """Controls the vCPU of ``thread``; ``on_stop`` is called on its thread when it stops itself.

    All methods are for a vCPU that is held, or has not started.
    """

    def __init__(
        self, thread: VcpuThread, breakpoints: Breakpoints, on_stop: Callable[[Stop], object]
    ) -> None:
        self.thread = thread
        self._vcpu = thread.vcpu
        self._breakpoints = breakpoints
        self._on_stop = on_stop
        self._stepping = False  # to the end of one instruction
        self._then_goes_on = False  # behind that
        self._watching = False
        self._completing = False
        self._enter = thread.vcpu.enter
        self._own = dict(thread.handlers)
        handlers = thread.handlers
        handlers[kvm.KVM_EXIT_DEBUG] = self._serve_debug
        handlers[kvm.KVM_EXIT_INTERNAL_ERROR] = self._serve_internal_error
        handlers[kvm.KVM_EXIT_INTR] = self._serve_interruption
        for reason in _ACCESSES:
            handlers[reason] = partial(self._serve_access, self._own[reason])

    def release(self) -> None:
        """Let the vCPU run as if there had been no debugger."""
        self._stepping = self._watching = False
        self._complete()
        self.thread.handlers.clear()
        self.thread.handlers.update(self._own)
        self._vcpu.enter = self._enter
        self.thread.call(end_guest_debug)

    def arm(self, *, step: bool) -> None:
        """Prepare the next entry: go on to a breakpoint, or step over one instruction."""
        position = self.thread.call(linear_position)
        at_breakpoint = any(
            (one.access, one.address) == ("execute", position) for one in self._breakpoints.hardware
        )
        self._watching = bool(self._breakpoints.watched) and not step
        self._stepping = step or at_breakpoint
        self._then_goes_on = self._stepping and not step
        self._prepare()

    def stay(self) -> None:
        """Forget a step that was not finished when the vCPU was held."""
        self._stepping = self._watching = False

    def _prepare(self, *, inject: bool = False) -> None:
        """Tell KVM of what :meth:`arm` decided."""
        step = self._stepping or self._watching
        self._vcpu.enter = partial(try_ioctl, self._vcpu.fd, KVM_RUN) if step else self._enter
        hardware = [] if self._stepping else self._breakpoints.hardware

        def tell(vcpu: Vcpu) -> None:
            set_guest_debug(vcpu, hardware, step=step, alone=self._stepping, inject=inject)

        if self.thread.is_current:
            tell(self._vcpu)
        else:
            self.thread.call(tell)

    def _serve_debug(self) -> bool:
        self._complete()
        found = debug_exit(self._vcpu)
        if found.kind == "software":
            if self._breakpoints.has_software(linear_position(self._vcpu)):
                return self._stop("swbreak", linear_position(self._vcpu))
            self._prepare(inject=True)
            return True
        if found.kind == "hardware" and found.number < len(self._breakpoints.hardware):
            one = self._breakpoints.hardware[found.number]
            return self._stop(_KINDS[one.access], one.address)
        if self._stepping or self._watching:
            return self._stepped()
        self._vcpu.inject_exception(_DEBUG)  # the guest debugs itself
        return True

    def _serve_internal_error(self) -> bool:
        position = linear_position(self._vcpu)
        if self._breakpoints.has_software(position) and self._is_at_breakpoint(position):
            return self._stop("swbreak", position)
        if not self._own[kvm.KVM_EXIT_INTERNAL_ERROR]():
            return False
        return self._stepped() if self._stepping or self._watching else True

    def _is_at_breakpoint(self, position: int) -> bool:
        suberror, data = self._vcpu.internal_error()
        code = data[1] >> 8 & 0xFF if len(data) > 1 and data[0] & 1 else BREAKPOINT
        return suberror == 1 and code == BREAKPOINT

    def _serve_access(self, own: Handler) -> bool:
        if not own():
            return False
        if self._stepping or self._watching:
            self._completing = True
            self._vcpu.run_area[_IMMEDIATE_EXIT] = 1
        return True

    def _serve_interruption(self) -> bool:
        if self._completing:
            self._complete()
            return self._stepped()
        return self._own[kvm.KVM_EXIT_INTR]()

    def _complete(self) -> None:
        if self._completing:
            self._completing = False
            self._vcpu.run_area[_IMMEDIATE_EXIT] = 0

    def _stepped(self) -> bool:
        for one in self._breakpoints.watched:
            if one.changed():
                return self._stop("watch", one.address)
        if self._stepping and self._then_goes_on:
            self._stepping = False
            self._prepare()
            return True
        return self._stop() if self._stepping else True

    def _stop(self, kind: Kind = "", address: int = 0) -> bool:
        self._stepping = self._watching = False
        self._on_stop(Stop(self._vcpu.index, kind=kind, address=address))
        return self.thread.hold()
