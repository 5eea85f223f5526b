"""Interrupt lines of a guest, which KVM raises when an eventfd is written: irqfd."""

import os
from collections.abc import Callable
from functools import partial

from vmm.kvm.vm import Vm


class IrqfdLine:
    """An edge-triggered interrupt line: writing an eventfd makes KVM inject ``gsi``.

    ``raise_()`` makes one edge. No Python stands between a device's interrupt and the system call.
    KVM api.rst "KVM_IRQFD".
    """

    def __init__(self, vm: Vm, gsi: int) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            vm.attach_irqfd(self.fd, gsi)
        except BaseException:
            os.close(self.fd)
            raise
        self.raise_: Callable[[], None] = partial(os.eventfd_write, self.fd, 1)

    def lower(self) -> None:
        """Do nothing: the line falls by itself after each edge."""

    def close(self) -> None:
        """Detach the line."""
        os.close(self.fd)
