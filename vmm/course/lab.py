"""The smallest virtual machine that does something: what chapters 1 and 2 of the course explain.

Later chapters import this class instead of repeating its lines. Offsets and numbers are those of
``linux/kvm.h`` for x86-64; KVM api.rst describes each call.
"""

import ctypes
import fcntl
import mmap
import os
import signal
import struct
from typing import Any, Final, Self

KVM_CREATE_VM: Final = 0xAE01
KVM_GET_VCPU_MMAP_SIZE: Final = 0xAE04
KVM_CREATE_VCPU: Final = 0xAE41
KVM_SET_USER_MEMORY_REGION: Final = 0x4020_AE46
KVM_RUN: Final = 0xAE80
KVM_GET_REGS: Final = 0x8090_AE81
KVM_SET_REGS: Final = 0x4090_AE82
KVM_GET_SREGS: Final = 0x8138_AE83
KVM_SET_SREGS: Final = 0x4138_AE84

KVM_MEM_READONLY: Final = 2

EXIT_IO: Final = 2
EXIT_HLT: Final = 5
EXIT_MMIO: Final = 6
EXIT_SHUTDOWN: Final = 8
EXIT_NAMES: Final = {2: "port I/O", 5: "HLT", 6: "MMIO", 8: "shutdown", 17: "internal error"}

REGISTERS: Final = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"),
)


class GuestRunsOn(Exception):
    """The guest ran for the whole time it had, without an exit."""


class Lab:
    """A virtual machine with one processor and no memory yet; closed at the end of a block."""

    def __init__(self) -> None:
        self._kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        self._vm = fcntl.ioctl(self._kvm, KVM_CREATE_VM, 0)
        self._cpu = fcntl.ioctl(self._vm, KVM_CREATE_VCPU, 0)
        size = fcntl.ioctl(self._kvm, KVM_GET_VCPU_MMAP_SIZE, 0)
        self.area = mmap.mmap(self._cpu, size)  # struct kvm_run
        self._slots = 0
        self._views: list[Any] = []  # what a slot points to must live as long as the machine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.area.close()
        for fd in (self._cpu, self._vm, self._kvm):
            os.close(fd)
        self._views.clear()

    def add_slot(self, address: int, memory: mmap.mmap, *, read_only: bool = False) -> None:
        """Let the guest see ``memory`` at a guest-physical address."""
        view = ctypes.c_char.from_buffer(memory)
        self._views.append(view)
        flags = KVM_MEM_READONLY if read_only else 0
        where = ctypes.addressof(view)
        region = struct.pack("<IIQQQ", self._slots, flags, address, len(memory), where)
        fcntl.ioctl(self._vm, KVM_SET_USER_MEMORY_REGION, region)
        self._slots += 1

    def registers(self) -> dict[str, int]:
        """Return the general registers, by name."""
        data = bytearray(144)
        fcntl.ioctl(self._cpu, KVM_GET_REGS, data)
        return dict(zip(REGISTERS, struct.unpack("<18Q", data), strict=True))

    def set_registers(self, **values: int) -> None:
        """Set all general registers: those not named become 0."""
        values = {"rflags": 2, **values}  # bit 1 is always set
        data = struct.pack("<18Q", *(values.get(name, 0) for name in REGISTERS))
        fcntl.ioctl(self._cpu, KVM_SET_REGS, data)

    def special_registers(self) -> bytearray:
        """Return ``struct kvm_sregs``: segments, tables and control registers."""
        data = bytearray(312)
        fcntl.ioctl(self._cpu, KVM_GET_SREGS, data, True)
        return data

    def set_special_registers(self, data: bytes | bytearray) -> None:
        """Set what :meth:`special_registers` returned, with your changes in it."""
        fcntl.ioctl(self._cpu, KVM_SET_SREGS, bytes(data))

    def start_at(self, address: int, **values: int) -> None:
        """Have the processor begin at an address below 64 KiB, in the mode of its reset."""
        special = self.special_registers()
        struct.pack_into("<QIH", special, 0, 0, 0xFFFF, 0)  # code segment: base, limit, selector
        self.set_special_registers(special)
        self.set_registers(rip=address, **values)

    def run(self, seconds: float = 5.0) -> int:
        """Run the guest until its next exit and return the reason of that.

        Raises :class:`GuestRunsOn` when there is none within ``seconds`` of processor time: a host
        with much else to do does not make a guest too slow.
        """

        def stop(*_: object) -> None:
            raise GuestRunsOn(f"the guest ran for {seconds:g} s without an exit")

        before = signal.signal(signal.SIGPROF, stop)
        # The alarm repeats: one that comes just before the guest is entered would be lost.
        alarm = signal.setitimer(signal.ITIMER_PROF, seconds, 0.05)
        try:
            while True:
                try:
                    fcntl.ioctl(self._cpu, KVM_RUN, 0)
                except InterruptedError:
                    continue
                return int(struct.unpack_from("<I", self.area, 8)[0])
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
            signal.setitimer(signal.ITIMER_PROF, *alarm)  # what the caller waits for

    def port_access(self) -> tuple[bool, int, int, int, int]:
        """Return (is it OUT, port, bytes of one access, number of them, place in ``area``)."""
        direction, size, port, count, place = struct.unpack_from("<BBHIQ", self.area, 32)
        return direction == 1, port, size, count, place

    def memory_access(self) -> tuple[bool, int, int]:
        """Return (is it a write, guest-physical address, bytes); the data is at ``area[40:]``."""
        address, _, length, is_write = struct.unpack_from("<Q8sIB", self.area, 32)
        return is_write == 1, address, length
