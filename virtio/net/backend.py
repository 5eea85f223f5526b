"""What the network device needs of the network behind it, and what that needs of the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from virtio.device.lifecycle import EventLoop


class NetEnd(Protocol):
    """The device's side of a backend; every method may be called from any thread, none waits."""

    def deliver(self, packets: Sequence[bytes], pair: int | None = None) -> int:
        """Take packets for the guest, in order; returns how many there was room for.

        The others the backend keeps, until :meth:`NetBackend.resume`, or drops. ``pair`` is the
        queue pair that they are for, where the backend chose one.
        """

    def space(self, pair: int = 0) -> None:
        """Hear that a backend, having taken fewer packets than it was given, takes more again."""

    def set_link(self, up: bool) -> None:
        """Tell the guest that its cable was plugged, or pulled."""

    def arrived(self, pair: int) -> bool | None:
        """Read what arrived at a descriptor that the backend lends, on the device's loop.

        Returns whether it shall be watched further; after False comes :meth:`NetBackend.resume`.
        None when the backend has to read it itself.
        """


class NetBackend(ABC):
    """Carries packets (:mod:`virtio.net.packet`) of one device; no method waits.

    ``name`` stands in messages. ``takes`` is the mask of what a packet for :meth:`send` may be left
    unfinished in, of :mod:`virtio.net.packet`; the device finishes the rest. ``max_pairs`` is how
    many queue pairs it serves. ``link`` is whether the cable is plugged at first.
    """

    name: str = "network"
    takes: int = 0
    max_pairs: int = 256
    link: bool = True

    @abstractmethod
    def attach(self, end: NetEnd) -> None:
        """Have the device to deliver to; once, and before all else."""

    @abstractmethod
    def send(self, packets: Sequence[bytes], pair: int) -> int:
        """Take packets of the guest, in order, and return how many.

        After fewer than all :meth:`NetEnd.space` is called when there is room again.
        """

    def start(self, loop: EventLoop) -> None:  # noqa: B027 - few have descriptors to watch
        """Watch descriptors on the loop of a device that goes live; it forgets them at reset."""

    def stop(self) -> None:  # noqa: B027
        """Deliver nothing more until the next start: the device was reset."""

    def resume(self) -> None:  # noqa: B027
        """Deliver what was kept: the device, having taken less than it was given, has room."""

    def set_offloads(self, mask: int, pairs: int) -> None:  # noqa: B027
        """Hear what packets for the guest may be left unfinished in, and how many pairs it uses.

        Others may be delivered as well: the device finishes them.
        """


class NoNetwork(NetBackend):
    """A cable that is not plugged in."""

    name = "no network"
    link = False

    def attach(self, end: NetEnd) -> None:
        """Need no device."""

    def send(self, packets: Sequence[bytes], pair: int) -> int:
        """Drop them."""
        return len(packets)
