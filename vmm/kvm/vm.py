"""The virtual machine file descriptor: memory slots, event file descriptors, vCPUs.

KVM api.rst "VM ioctls".
"""

import ctypes
import os
from typing import Final, TypeVar

from vmm.host.resource import Resource
from vmm.kvm import ioctl, structs
from vmm.kvm.vcpu import VcpuFd

KVM_MEM_LOG_DIRTY_PAGES: Final = 1
KVM_IOEVENTFD_FLAG_DATAMATCH: Final = 1
KVM_IRQFD_FLAG_DEASSIGN: Final = 1
KVM_IOEVENTFD_FLAG_DEASSIGN: Final = 4

AnyVcpu = TypeVar("AnyVcpu", bound=VcpuFd)


class Vm(Resource):
    """A virtual machine of KVM. Closing it leaves vCPUs open, which hold it alive."""

    def __init__(self, fd: int, vcpu_mmap_size: int) -> None:
        self.fd = fd
        self._vcpu_mmap_size = vcpu_mmap_size

    def set_memory(
        self, slot: int, address: int, memory: memoryview, *, log_writes: bool = False
    ) -> None:
        """Back guest-physical ``address`` with ``memory``, a page-aligned writable buffer.

        With ``log_writes`` KVM notes what the guest writes, for :meth:`written_pages`.
        """
        host = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        region = structs.UserspaceMemoryRegion(
            slot=slot, guest_phys_addr=address, memory_size=len(memory), userspace_addr=host
        )
        region.flags = KVM_MEM_LOG_DIRTY_PAGES if log_writes else 0
        ioctl.ioctl(self.fd, ioctl.KVM_SET_USER_MEMORY_REGION, region)

    def written_pages(self, slot: int, pages: int) -> bytes:
        """Return a bit for each page of a slot that the guest wrote since the last call.

        The first page is the lowest bit of the first byte ("KVM_GET_DIRTY_LOG").
        """
        bitmap = ctypes.create_string_buffer(-(-pages // 64) * 8)
        request = structs.DirtyLog(slot=slot, dirty_bitmap=ctypes.addressof(bitmap))
        ioctl.ioctl(self.fd, ioctl.KVM_GET_DIRTY_LOG, request)
        return bitmap.raw

    def attach_irqfd(self, eventfd: int, gsi: int) -> None:
        """Raise interrupt ``gsi`` (an edge) whenever ``eventfd`` is written ("KVM_IRQFD")."""
        ioctl.ioctl(self.fd, ioctl.KVM_IRQFD, structs.Irqfd(fd=eventfd, gsi=gsi))

    def attach_ioeventfd(self, eventfd: int, address: int, length: int, value: int) -> None:
        """Signal ``eventfd`` when the guest writes ``value`` of ``length`` bytes to ``address``.

        The write no longer exits to user space ("KVM_IOEVENTFD").
        """
        self._set_ioeventfd(eventfd, address, length, value, 0)

    def detach_ioeventfd(self, eventfd: int, address: int, length: int, value: int) -> None:
        """Undo :meth:`attach_ioeventfd`: the write exits again."""
        self._set_ioeventfd(eventfd, address, length, value, KVM_IOEVENTFD_FLAG_DEASSIGN)

    def _set_ioeventfd(
        self, eventfd: int, address: int, length: int, value: int, flags: int
    ) -> None:
        request = structs.Ioeventfd(
            datamatch=value,
            addr=address,
            len=length,
            fd=eventfd,
            flags=KVM_IOEVENTFD_FLAG_DATAMATCH | flags,
        )
        ioctl.ioctl(self.fd, ioctl.KVM_IOEVENTFD, request)

    def attach_write_eventfd(self, eventfd: int, address: int) -> None:
        """Signal ``eventfd`` when the guest writes to ``address``, of any width and value."""
        ioctl.ioctl(self.fd, ioctl.KVM_IOEVENTFD, structs.Ioeventfd(addr=address, fd=eventfd))

    def detach_write_eventfd(self, eventfd: int, address: int) -> None:
        """Undo :meth:`attach_write_eventfd`."""
        request = structs.Ioeventfd(addr=address, fd=eventfd, flags=KVM_IOEVENTFD_FLAG_DEASSIGN)
        ioctl.ioctl(self.fd, ioctl.KVM_IOEVENTFD, request)

    def detach_irqfd(self, eventfd: int, gsi: int) -> None:
        """Undo :meth:`attach_irqfd`; what was written is delivered when this returns."""
        request = structs.Irqfd(fd=eventfd, gsi=gsi, flags=KVM_IRQFD_FLAG_DEASSIGN)
        ioctl.ioctl(self.fd, ioctl.KVM_IRQFD, request)

    def set_line(self, gsi: int, *, level: bool) -> None:
        """Set the level of an interrupt line ("KVM_IRQ_LINE")."""
        ioctl.ioctl(self.fd, ioctl.KVM_IRQ_LINE, structs.IrqLevel(irq=gsi, level=level))

    def signal_msi(self, address: int, data: int) -> bool:
        """Deliver a message now ("KVM_SIGNAL_MSI"); returns whether a processor took it."""
        low, high = address & 0xFFFF_FFFF, address >> 32
        request = structs.Msi(address_lo=low, address_hi=high, data=data)
        return ioctl.try_ioctl(self.fd, ioctl.KVM_SIGNAL_MSI, ctypes.addressof(request)) > 0

    def create_vcpu(self, index: int, kind: type[AnyVcpu], vcpu_id: int | None = None) -> AnyVcpu:
        """Create vCPU ``index`` as a ``kind``, the architecture's own class ("KVM_CREATE_VCPU").

        ``vcpu_id`` is KVM's number for it where that is another one.
        """
        fd = ioctl.ioctl(self.fd, ioctl.KVM_CREATE_VCPU, index if vcpu_id is None else vcpu_id)
        return kind(fd, index, self._vcpu_mmap_size)

    def close(self) -> None:
        """Close the file descriptor."""
        os.close(self.fd)
