"""What a core file has of x86-64: the processors' notes, and where Linux maps physical memory.

``struct elf_prstatus`` of Linux include/linux/elfcore.h; Linux arch/x86/x86_64/mm.rst.
"""

import os
import struct
from typing import Final

from vmm.dump.vmcoreinfo import number, symbol
from vmm.x86.kvm.registers import Regs, Sregs
from vmm.x86.kvm.vcpu import Vcpu
from vmm.x86.vcpu_state import VcpuState

# si_signo, si_code, si_errno, cursig, sigpend, sighold, pid, ppid, pgrp, sid, four times; the
# registers of user_regs_struct; fpvalid.
_PRSTATUS = struct.Struct("<iiihxxQQiiii64x27Qi4x")
_KERNEL_MAP: Final = 0xFFFF_FFFF_8000_0000
_KERNEL_BYTES: Final = 512 << 20
_DIRECT_MAP: Final = 0xFFFF_8880_0000_0000
_DIRECT_MAP_5: Final = 0xFF11_0000_0000_0000
_CANONICAL: Final = 0xFF00_0000_0000_0000


def core_status(vcpu: Vcpu) -> bytes:
    """Return the NT_PRSTATUS of a vCPU: its number from 1 on stands for a process."""
    return _status(vcpu.index, vcpu.regs(), vcpu.sregs())


def saved_core_status(index: int, state: VcpuState) -> bytes:
    """Return the NT_PRSTATUS of a vCPU that was saved."""
    regs, sregs = Regs.from_buffer_copy(state.regs), Sregs.from_buffer_copy(state.sregs)
    return _status(index, regs, sregs)


def _status(index: int, general: Regs, system: Sregs) -> bytes:
    names = ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8")
    values = [getattr(general, name) for name in (*names, "rax", "rcx", "rdx", "rsi", "rdi")]
    values += [(1 << 64) - 1, general.rip, system.cs.selector, general.rflags, general.rsp]
    values += [system.ss.selector, system.fs.base, system.gs.base]
    values += [getattr(system, name).selector for name in ("ds", "es", "fs", "gs")]
    return _PRSTATUS.pack(0, 0, 0, 0, 0, 0, index + 1, 0, 0, 0, *values, 0)


def kernel_segments(
    memory: int, info: bytes, start: int, length: int
) -> list[tuple[int, int, int]]:
    """Return where a debugger finds a region of RAM: ``(virtual, physical, length)`` each.

    By Linux' maps if ``info``, its VMCOREINFO, is there: that of the kernel's own code and data,
    and the direct one. Else addresses are physical ones.
    """
    base = number(info, "phys_base")
    if base is None:
        return [(start, start, length)]
    segments = []
    if start == 0:
        first = max(base, 0)
        size = min(length - first, _KERNEL_BYTES)
        if size > 0:
            segments.append((_KERNEL_MAP + first - base, first, size))
    direct = _direct_map(memory, info, base)
    return [*segments, (direct + start, start, length)]


def _direct_map(memory: int, info: bytes, base: int) -> int:
    usual = _DIRECT_MAP_5 if number(info, "pgtable_l5_enabled") else _DIRECT_MAP
    where = symbol(info, "page_offset_base")
    if where is None:
        return usual
    # A kernel that places its maps at random says where, in a variable.
    at = where - _KERNEL_MAP + base
    if not 0 <= at <= os.fstat(memory).st_size - 8:
        return usual
    value = int.from_bytes(os.pread(memory, 8, at), "little")
    return value if value & _CANONICAL == _CANONICAL and value % (1 << 30) == 0 else usual
