"""Interrupt lines of a guest, which KVM raises when an eventfd is written: irqfd."""

import os

from vmm.kvm.vm import Vm


class IrqfdLine:
    """An edge-triggered interrupt line: writing an eventfd makes KVM inject ``gsi``.

    KVM api.rst "KVM_IRQFD".
    """

    def __init__(self, vm: Vm, gsi: int) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            vm.attach_irqfd(self.fd, gsi)
        except BaseException:
            os.close(self.fd)
            raise

    def raise_(self) -> None:
        """Produce one edge."""
        os.eventfd_write(self.fd, 1)

    def lower(self) -> None:
        """Nothing: the line falls by itself after each edge."""

    def close(self) -> None:
        """Detach the line."""
        os.close(self.fd)
