"""Serves the exits of one vCPU: accesses to the buses, instructions to emulate, failures.

KVM api.rst "The kvm_run structure".
"""

import struct
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from vmm.ending.ending import End
from vmm.kvm import vcpu as kvm
from vmm.x86 import Vcpu

OnEnd = Callable[[End, str, list[str]], None]
"""Called with the kind of ending, a message and a report when a vCPU cannot go on."""

_IO = struct.Struct("<BBHIQ")  # at 0x20: direction, size, port, count, data_offset
_MMIO = struct.Struct("<Q8sIB")  # at 0x20: phys_addr, data, len, is_write
_MMIO_DATA: Final = 0x28
_PAYLOAD: Final = 0x20
_IO_OUT: Final = 1

_EMULATION_FAILURE: Final = 1  # KVM_INTERNAL_ERROR_EMULATION
_INSTRUCTION_BYTES_VALID: Final = 1


class Bus(Protocol):
    """An address space, of ports or of MMIO."""

    def read(self, address: int, length: int, /) -> bytes: ...

    def write(self, address: int, data: bytes, /) -> None: ...


class InstructionEmulator(Protocol):
    """Executes an instruction that KVM's emulator gave up on.

    ``counts`` counts them by mnemonic, ``exits_served`` those that needed no exit to Python.
    """

    @property
    def counts(self) -> Mapping[str, int]: ...

    @property
    def exits_served(self) -> int: ...

    def emulate(self, cpu: Vcpu, instruction: bytes, /) -> bool: ...

    def describe_failure(self, cpu: Vcpu, instruction: bytes, /) -> str: ...


class ExitHandlers:
    """The handlers of one vCPU's exits, by reason, in ``handlers``.

    Each serves the exit that ``vcpu.run_area`` describes and returns whether the vCPU can be
    entered again. If not, ``on_end`` was called before: for the guest's doing, KVM's, or a bug.
    """

    def __init__(
        self, vcpu: Vcpu, ports: Bus, mmio: Bus, emulator: InstructionEmulator, on_end: OnEnd
    ) -> None:
        self._vcpu = vcpu
        self._ports = ports
        self._mmio = mmio
        self._emulator = emulator
        self._on_end = on_end
        self.handlers: dict[int, Callable[[], bool]] = {
            kvm.KVM_EXIT_IO: self._serve_io,
            kvm.KVM_EXIT_MMIO: self._serve_mmio,
            kvm.KVM_EXIT_INTERNAL_ERROR: self._serve_internal_error,
            kvm.KVM_EXIT_SHUTDOWN: self._serve_shutdown,
            kvm.KVM_EXIT_FAIL_ENTRY: self._serve_fail_entry,
        }

    def fail(self, end: End, message: str, report: str = "") -> bool:
        """Report that the vCPU cannot go on; returns False."""
        self._on_end(end, f"vCPU {self._vcpu.index}: {message}", report.splitlines())
        return False

    def _serve_io(self) -> bool:
        area = self._vcpu.run_area
        direction, size, port, count, start = _IO.unpack_from(area, _PAYLOAD)
        for offset in range(start, start + size * count, size):
            if direction == _IO_OUT:
                self._ports.write(port, bytes(area[offset : offset + size]))
            else:
                area[offset : offset + size] = self._ports.read(port, size)
        return True

    def _serve_mmio(self) -> bool:
        area = self._vcpu.run_area
        address, data, length, is_write = _MMIO.unpack_from(area, _PAYLOAD)
        if is_write:
            self._mmio.write(address, data[:length])
        else:
            area[_MMIO_DATA : _MMIO_DATA + length] = self._mmio.read(address, length)
        return True

    def _serve_internal_error(self) -> bool:
        suberror, data = self._vcpu.internal_error()
        if suberror != _EMULATION_FAILURE:
            return self.fail(End.VCPU_FAILED, f"KVM internal error, suberror {suberror}")
        instruction = _instruction_bytes(data)
        if self._emulator.emulate(self._vcpu, instruction):
            return True
        report = self._emulator.describe_failure(self._vcpu, instruction)
        return self.fail(End.VCPU_FAILED, "KVM could not emulate an instruction", report)

    def _serve_shutdown(self) -> bool:
        return self.fail(End.TRIPLE_FAULT, "triple fault")

    def _serve_fail_entry(self) -> bool:
        reason = self._vcpu.fail_entry_reason()
        return self.fail(End.VCPU_FAILED, f"the processor refused entry, reason {reason:#x}")


def _instruction_bytes(data: tuple[int, ...]) -> bytes:
    """Return the bytes of the instruction that KVM reports with an emulation failure.

    ``struct { __u64 flags; __u8 insn_size; __u8 insn_bytes[15]; }`` when flag bit 0 is set.
    """
    if len(data) < 2 or not data[0] & _INSTRUCTION_BYTES_VALID:
        return b""
    packed = struct.pack(f"<{len(data) - 1}Q", *data[1:])
    return packed[1 : 1 + min(packed[0], 15)]
