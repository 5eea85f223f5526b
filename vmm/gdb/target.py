"""The machine as a debugger sees it: vCPUs that stop and go together, registers and memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, Literal

from virtio.errors import ConfigurationError
from virtio.memory import MemoryAccessError
from vmm.ending.ending import End, Ending
from vmm.gdb.breakpoints import Breakpoints
from vmm.gdb.stop import SIGINT, Kind, Move, Stop
from vmm.gdb.vcpu_control import VcpuControl
from vmm.x86 import (
    DebugState,
    HardwareBreakpoint,
    Register,
    Vcpu,
    describe_position,
    is_emulated_host,
)

if TYPE_CHECKING:
    from vmm.machine import Machine
    from vmm.vcpu import VcpuThread

_KEPT: Final = (End.PANIC, End.TRIPLE_FAULT, End.VCPU_FAILED, End.HALTED)
_LOOK_SECONDS: Final = 0.25
_PAGE_BYTES: Final = 4096
_ADDRESSES: Final = 1 << 64


class MachineTarget:
    """Stops and moves ``machine`` for one debugger at a time.

    ``wake`` is a descriptor that is readable when :meth:`next_stop` may have something new.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.breakpoints = Breakpoints(machine.hardware.ram)
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._controls: list[VcpuControl] = []
        self._stops: SimpleQueue[Stop] = SimpleQueue()
        self._lock = threading.Lock()  # guards attached and _ended
        self.attached = False
        self._let_go = threading.Event()
        self._given_up = False
        self._emulated = is_emulated_host()  # a confined machine cannot look any more

    def close(self) -> None:
        """Give back the descriptor; nobody is attached."""
        os.close(self.wake)

    @property
    def threads(self) -> list[VcpuThread]:
        """The vCPUs."""
        return self.machine.threads

    @property
    def vcpus(self) -> int:
        """How many there are."""
        return len(self.threads)

    @property
    def ending(self) -> Ending | None:
        """How the guest ended; None as long as it can go on."""
        return self.machine.ending

    def attach(self) -> Stop:
        """Stop the machine for a debugger, which has it until :meth:`detach`."""
        with self._lock:
            self.attached = True
            self._let_go.clear()
        self._hold_all()
        self._controls = [VcpuControl(one, self.breakpoints, self._stopped) for one in self.threads]
        return Stop(0)

    def detach(self) -> None:
        """Take the breakpoints out and let the machine go on; harmless when nobody is attached."""
        if not self.attached:
            return
        with self.machine.hardware.changing:
            self._hold_all()
            self.breakpoints.clear()
            for one in self._controls:
                one.release()
            self._controls = []
            with self._lock:
                self.attached = False
            self._drain()
            self._let_go.set()
            for thread in self.threads:
                thread.resume()

    def linger(self, ending: Ending) -> None:
        """Keep a machine that has ended until the debugger lets go, which hears of it."""
        with self._lock:
            if not self.attached:
                return
        while not self._let_go.wait(_LOOK_SECONDS) and not self._given_up:
            pass

    def give_up(self) -> None:
        """Have :meth:`linger` return; also from a signal handler, which may take no lock."""
        self._given_up = True

    @staticmethod
    def stays(ending: Ending) -> bool:
        """Whether a machine with this ending is kept for its debugger."""
        return ending.end in _KEPT

    def hold_crashed(self) -> None:
        """Begin to hold all vCPUs, as the guest has ended; from any thread that takes locks."""
        if self.attached:
            for thread in self.threads:
                thread.begin_pause()

    def tell_end(self) -> None:
        """Wake who serves the debugger, as the guest has ended; also from a signal handler."""
        os.eventfd_write(self.wake, 1)

    def interrupt(self) -> Stop:
        """Stop the machine because the debugger wants it."""
        self._hold_all()
        return Stop(0, SIGINT)

    def next_stop(self) -> Stop | None:
        """Return why the machine stopped, with all vCPUs held, if it did.

        None also when the guest has ended: see :attr:`ending`.
        """
        try:
            os.eventfd_read(self.wake)
        except BlockingIOError:
            return None
        try:
            first = self._stops.get_nowait()
        except Empty:
            return None
        self._hold_all()
        self._drain()
        return first

    def move(self, moves: Mapping[int, Move]) -> None:
        """Let the vCPUs of these indices go; the others stay where they are."""
        # Who holds this keeps the machine still, to save it.
        with self.machine.hardware.changing:
            for index, move in moves.items():
                self._controls[index].arm(step=move == "step")
            for index in moves:
                self.threads[index].resume()

    def read_memory(self, vcpu: int, address: int, length: int) -> bytes:
        """Return memory by the page tables of a vCPU, up to the first byte that is not there."""
        found = bytearray()
        while length:
            start = (address + len(found)) % _ADDRESSES
            count = min(length, _PAGE_BYTES - start % _PAGE_BYTES)
            physical = self.translate(vcpu, start)
            if physical is None:
                break
            part = self.read_physical(physical, count)
            if part is None:
                break
            found += part
            length -= count
        return bytes(found)

    def read_physical(self, physical: int, length: int) -> bytes | None:
        """Return guest RAM without software breakpoints, None where there is none."""
        try:
            with self.machine.hardware.ram.view(physical, length) as view:
                data = bytearray(view)
        except MemoryAccessError:
            return None
        self.breakpoints.hide(physical, data)
        return bytes(data)

    def write_memory(self, vcpu: int, address: int, data: bytes) -> None:
        """Change memory, all of it; raises ``ConfigurationError`` where some is not mapped."""
        parts = []
        done = 0
        while done < len(data):
            start = (address + done) % _ADDRESSES
            count = min(len(data) - done, _PAGE_BYTES - start % _PAGE_BYTES)
            physical = self.translate(vcpu, start)
            if physical is None or self.read_physical(physical, count) is None:
                raise ConfigurationError(f"address {start:#x}: no memory is mapped there")
            parts.append((physical, bytearray(data[done : done + count])))
            done += count
        for physical, part in parts:
            self.breakpoints.keep(physical, part)
            with self.machine.hardware.ram.view(physical, len(part)) as view:
                view[:] = part

    def state(self, vcpu: int) -> DebugState:
        """Return the registers of a vCPU."""
        state: DebugState = self.threads[vcpu].call(DebugState)
        return state

    def write_registers(self, vcpu: int, values: Mapping[Register, bytes]) -> None:
        """Change registers of a vCPU, all or, with an error, none."""

        def change(at: Vcpu) -> None:
            state = DebugState(at)
            for register, data in values.items():
                state.write(register, data)
            state.store()

        self.threads[vcpu].call(change)

    def describe(self, vcpu: int) -> str:
        """Return where a vCPU is, in one line."""
        text: str = self.threads[vcpu].call(describe_position)
        return text

    def insert(self, kind: Kind, address: int, length: int, vcpu: int) -> bool:
        """Set a breakpoint; False for a kind that this host cannot have.

        Raises ``ConfigurationError`` for one that cannot be.
        """
        if kind == "swbreak":
            self.breakpoints.insert_software(address, lambda at: self._translate_code(vcpu, at))
        elif kind == "hwbreak":
            self.breakpoints.insert_hardware(HardwareBreakpoint("execute", address, 1))
        elif kind == "watch" and self._emulated:
            translate = lambda at: self.translate(vcpu, at)  # noqa: E731
            self.breakpoints.insert_watched(address, length, translate)
        elif kind == "watch":
            self.breakpoints.insert_hardware(HardwareBreakpoint("write", address, length))
        elif kind == "awatch" and not self._emulated:
            self.breakpoints.insert_hardware(HardwareBreakpoint("access", address, length))
        else:
            return False
        return True

    def remove(self, kind: Kind, address: int, length: int) -> None:
        """Take a breakpoint out."""
        if kind == "swbreak":
            self.breakpoints.remove_software(address)
        elif kind == "hwbreak":
            self.breakpoints.remove_hardware(HardwareBreakpoint("execute", address, 1))
        else:
            self.breakpoints.remove_watched(address, length)
            access: Literal["write", "access"] = "write" if kind == "watch" else "access"
            self.breakpoints.remove_hardware(HardwareBreakpoint(access, address, length))

    def lifted(self) -> AbstractContextManager[None]:
        """Have no breakpoint in guest memory inside the block, in which no vCPU runs."""
        return self.breakpoints.lifted() if self.attached else nullcontext()

    def end(self) -> None:
        """End the guest, as the debugger wants."""
        self.machine.end(End.STOPPED, "the debugger ended the guest")

    def translate(self, vcpu: int, address: int) -> int | None:
        """Return the physical address of a virtual one, None where nothing is mapped."""
        physical: int | None = self.threads[vcpu].call(lambda at: at.translate(address))
        return physical

    def _translate_code(self, vcpu: int, address: int) -> int | None:
        physical = self.translate(vcpu, address)
        return None if physical is None or self.read_physical(physical, 1) is None else physical

    def _hold_all(self) -> None:
        for thread in self.threads:
            thread.begin_pause()
        for thread in self.threads:
            thread.wait_paused()
        for one in self._controls:
            one.stay()

    def _stopped(self, stop: Stop) -> None:
        """Note that a vCPU is about to hold itself; on its own thread."""
        self._stops.put(stop)
        os.eventfd_write(self.wake, 1)

    def _drain(self) -> None:
        """Forget what else stopped at the same moment: it does so again, or was a step."""
        try:
            while True:
                self._stops.get_nowait()
        except Empty:
            return
