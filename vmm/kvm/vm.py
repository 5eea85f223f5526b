"""The virtual machine file descriptor: memory slots, interrupt chips, event file descriptors.

KVM api.rst "VM ioctls".
"""

import ctypes
import os
from typing import Final

from vmm.host.resource import Resource
from vmm.kvm import ioctl, structs
from vmm.kvm.vcpu import Vcpu

KVM_PIT_SPEAKER_DUMMY: Final = 1
KVM_IOEVENTFD_FLAG_DATAMATCH: Final = 1
KVM_IRQFD_FLAG_DEASSIGN: Final = 1
KVM_IOEVENTFD_FLAG_DEASSIGN: Final = 4


class Vm(Resource):
    """A virtual machine of KVM. Closing it leaves vCPUs open, which hold it alive."""

    def __init__(self, fd: int, vcpu_mmap_size: int) -> None:
        self.fd = fd
        self._vcpu_mmap_size = vcpu_mmap_size

    def set_tss_address(self, address: int) -> None:
        """Give KVM three pages of guest-physical space ("KVM_SET_TSS_ADDR")."""
        ioctl.ioctl(self.fd, ioctl.KVM_SET_TSS_ADDR, address)

    def create_irqchip(self) -> None:
        """Create the in-kernel 8259 pair, IOAPIC and local APICs ("KVM_CREATE_IRQCHIP")."""
        ioctl.ioctl(self.fd, ioctl.KVM_CREATE_IRQCHIP)

    def create_pit(self) -> None:
        """Create the in-kernel 8254 timer, which also answers port 0x61 ("KVM_CREATE_PIT2")."""
        config = structs.PitConfig(flags=KVM_PIT_SPEAKER_DUMMY)
        ioctl.ioctl(self.fd, ioctl.KVM_CREATE_PIT2, config)

    def set_memory(self, slot: int, address: int, memory: memoryview) -> None:
        """Back guest-physical ``address`` with ``memory``, a page-aligned writable buffer."""
        host = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        region = structs.UserspaceMemoryRegion(
            slot=slot, guest_phys_addr=address, memory_size=len(memory), userspace_addr=host
        )
        ioctl.ioctl(self.fd, ioctl.KVM_SET_USER_MEMORY_REGION, region)

    def attach_irqfd(self, eventfd: int, gsi: int) -> None:
        """Raise interrupt ``gsi`` (an edge) whenever ``eventfd`` is written ("KVM_IRQFD")."""
        ioctl.ioctl(self.fd, ioctl.KVM_IRQFD, structs.Irqfd(fd=eventfd, gsi=gsi))

    def attach_ioeventfd(self, eventfd: int, address: int, length: int, value: int) -> None:
        """Signal ``eventfd`` when the guest writes ``value`` of ``length`` bytes to ``address``.

        The write no longer exits to user space ("KVM_IOEVENTFD").
        """
        request = structs.Ioeventfd(
            datamatch=value,
            addr=address,
            len=length,
            fd=eventfd,
            flags=KVM_IOEVENTFD_FLAG_DATAMATCH,
        )
        ioctl.ioctl(self.fd, ioctl.KVM_IOEVENTFD, request)

    def create_vcpu(self, index: int) -> Vcpu:
        """Create vCPU ``index``, whose initial APIC ID is the same number ("KVM_CREATE_VCPU")."""
        fd = ioctl.ioctl(self.fd, ioctl.KVM_CREATE_VCPU, index)
        return Vcpu(fd, index, self._vcpu_mmap_size)

    def close(self) -> None:
        """Close the file descriptor."""
        os.close(self.fd)
