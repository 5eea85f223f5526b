"""The routing of GSIs to messages, and the messages of one function.

KVM api.rst "KVM_SET_GSI_ROUTING", "KVM_SIGNAL_MSI", "KVM_IRQFD".
"""

import os
import threading
from collections.abc import Sequence
from typing import Final

from virtio.errors import HostError
from virtio.log import Logger
from vmm.kvm import structs
from vmm.kvm.ioctl import KVM_SET_GSI_ROUTING, ioctl
from vmm.kvm.vm import Vm

KVM_IRQ_ROUTING_MSI: Final = 2

SETTLED_AFTER: Final = 256

_log = Logger(__name__)

# How a message gets into the guest
#
# KVM takes messages in two ways. KVM_SIGNAL_MSI delivers one at once, whatever its address and
# data. An irqfd delivers the message that its GSI is routed to whenever an eventfd is written: that
# costs less each time, and may be done by threads that know nothing of KVM. But a route cannot be
# changed alone: KVM_SET_GSI_ROUTING replaces all of them, and then waits for a grace period, 2.5 to
# 3.4 ms whatever the number (measured on Linux 6.18).
#
# What does not work. Setting the route at each write of the table lets a guest that rewrites it in
# a loop take the host's time (`PCI-58`). Setting it when a vector is unmasked costs a Linux guest
# with four devices some 15 routes, 45 ms of a boot, most of them for vectors that are never used.
#
# What we do. A vector begins with KVM_SIGNAL_MSI. After `SETTLED_AFTER` messages that are alike it
# gets a GSI, a route and an irqfd, in this order, as an irqfd may fire as soon as it is there. When
# the guest gives it another message, it begins anew, and keeps its GSI for the next route.
#
# What remains. A guest can make the host set one route for each 256 interrupts that its own device
# raised, on that device's thread: others wait for none of it, unless they settle themselves.


class GsiRoutes:
    """All routes of a machine: ``fixed``, those of its chips, and one for each GSI that is lent.

    ``gsis`` are those that may be lent.
    """

    def __init__(
        self, vm: Vm, fixed: Sequence[structs.IrqRoutingEntry], gsis: Sequence[int]
    ) -> None:
        self._vm = vm
        self._fixed = fixed
        self._free = list(reversed(gsis))
        self._messages: dict[int, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def lend(self) -> int | None:
        """Return a GSI that nobody has, None when there is none left."""
        with self._lock:
            return self._free.pop() if self._free else None

    def give_back(self, gsi: int) -> None:
        """Take a GSI back; its route stays until another one is set, and nothing signals it."""
        with self._lock:
            self._messages.pop(gsi, None)
            self._free.append(gsi)

    def set(self, gsi: int, address: int, data: int) -> None:
        """Route a GSI to a message. Raises :class:`HostError` when KVM refuses."""
        with self._lock:
            before = dict(self._messages)
            self._messages[gsi] = (address, data)
            try:
                self._apply()
            except HostError:
                self._messages = before
                raise

    def _apply(self) -> None:
        count = len(self._fixed) + len(self._messages)
        routing = structs.flexible(structs.IrqRoutingHead, structs.IrqRoutingEntry, count)
        routing.head.nr = count
        for index, entry in enumerate(self._fixed):
            routing.entries[index] = entry
        for index, (gsi, (address, data)) in enumerate(self._messages.items(), len(self._fixed)):
            entry = routing.entries[index]
            entry.gsi, entry.type = gsi, KVM_IRQ_ROUTING_MSI
            entry.u[0], entry.u[1], entry.u[2] = address & 0xFFFF_FFFF, address >> 32, data
        ioctl(self._vm.fd, KVM_SET_GSI_ROUTING, routing)


class MsiVector:
    """One vector: its last ``message``, how many alike there were, and its irqfd if it has one."""

    __slots__ = ("count", "fd", "gsi", "message", "routed")

    def __init__(self) -> None:
        self.message = (0, 0)
        self.count = 0
        self.routed = False
        self.gsi: int | None = None
        self.fd = -1


class MsiSink:
    """Sends the messages of one function into the guest; a ``MessageSink`` of its transport."""

    def __init__(self, vm: Vm, routes: GsiRoutes) -> None:
        self._vm = vm
        self._routes = routes
        self._vectors: dict[int, MsiVector] = {}

    def send(self, vector: int, address: int, data: int) -> None:
        """Write ``data``, 32 bits, to ``address``."""
        one = self._vectors.get(vector)
        if one is None:
            one = self._vectors[vector] = MsiVector()
        if one.message != (address, data):
            one.message, one.count, one.routed = (address, data), 0, False
        if one.routed:
            os.eventfd_write(one.fd, 1)
            return
        self._vm.signal_msi(address, data)
        one.count += 1
        if one.count == SETTLED_AFTER:
            self._settle(one)

    def close(self) -> None:
        """Give back GSIs and eventfds; the caller has seen to it that nothing is sent any more."""
        vectors, self._vectors = self._vectors, {}
        for one in vectors.values():
            if one.fd >= 0 and one.gsi is not None:
                self._vm.detach_irqfd(one.fd, one.gsi)
                os.close(one.fd)
            if one.gsi is not None:
                self._routes.give_back(one.gsi)

    @property
    def routed(self) -> dict[int, int]:
        """The GSI of each vector that has an irqfd for its present message."""
        return {
            vector: one.gsi
            for vector, one in self._vectors.items()
            if one.routed and one.gsi is not None
        }

    def _settle(self, one: MsiVector) -> None:
        """Give a vector a route of its own; without one it goes on as it is."""
        if one.gsi is None:
            one.gsi = self._routes.lend()
        if one.gsi is None:
            return
        try:
            self._routes.set(one.gsi, *one.message)
            if one.fd < 0:
                one.fd = self._open_irqfd(one.gsi)
        except (HostError, OSError) as error:
            _log.warning("a vector stays without a route: %s", error)
        else:
            one.routed = True

    def _open_irqfd(self, gsi: int) -> int:
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._vm.attach_irqfd(fd, gsi)
        except BaseException:
            os.close(fd)
            raise
        return fd
