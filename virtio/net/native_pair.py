"""A queue pair whose ordinary packets native code moves, and how it and Python take turns.

Each direction belongs to one of the two at a time, so that packets keep their order. Python has
outgoing ones while some are held, or what was sent before waits for room; and incoming ones while
one waits in the device or the backend. What native code has begun with then goes back to the
backend, a frame that has not come whole included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtio.native.wire import EVERY, LISTED, NONE, OWN, Wire
from virtio.net.lending import Lender
from virtio.net.packet import ETHERNET_BYTES
from virtio.virtqueue.ring import LEFT

if TYPE_CHECKING:
    from virtio.native.data_path import DataPath
    from virtio.net.device import Net
    from virtio.net.receive import Receiver
    from virtio.net.transmit import Transmitter


class NativePair:
    """The ``number``-th pair of a live device, over the descriptor that its backend lends."""

    def __init__(
        self,
        device: Net,
        backend: Lender,
        number: int,
        receiver: Receiver,
        transmitter: Transmitter,
    ) -> None:
        self._device = device
        self._backend = backend
        self._number = number
        self._receiver = receiver
        self._transmitter = transmitter
        self._wire = Wire(*backend.descriptor(number))
        self._paused = False

    # From the guest

    def transmit_path(self) -> DataPath | None:
        """Return the native way out, if the cable is plugged."""
        if not self._device.link:
            return None
        struct = self._wire.struct
        struct.allowed, struct.network_takes = self._transmitter.allowed, self._backend.takes
        self.choose_writer()
        return self._wire.transmit_path(self._transmitted)

    def choose_writer(self) -> None:
        """Let native code write, unless something waits that was sent before."""
        waits = self._transmitter.is_holding or not self._backend.lends_writing(self._number)
        self._wire.struct.stalled = waits

    def _transmitted(self, _end: int) -> None:
        self._count()
        if self._wire.struct.stalled:
            unsent = self._wire.take_unsent()
            if unsent:
                self._backend.return_writing(self._number, unsent)
            self.choose_writer()

    # To the guest

    @property
    def reads(self) -> bool:
        """Whether the descriptor's packets are for this pair's queue, and the guest gets them."""
        device = self._device
        return (
            device.link and self._number < device.pairs_in_use and device.has_receiveq(self._number)
        )

    def receive_path(self) -> DataPath | None:
        """Return the native way in, with the filter that the driver wants now."""
        if not self.reads:
            return None
        device, struct = self._device, self._wire.struct
        modes, multicast = device.filter.modes, device.filter.multicast
        struct.mergeable = self._receiver.mergeable
        struct.guest_takes = device.takes
        struct.mtu = device.mtu + ETHERNET_BYTES if device.VIRTIO_NET_F_MTU else 0
        struct.mac = device.mac
        struct.by_vlan = device.VIRTIO_NET_F_CTRL_VLAN
        struct.everything = "promisc" in modes
        struct.broadcast = EVERY if "nobcast" not in modes else NONE
        struct.unicast = LISTED if device.filter.unicast else OWN
        if "nouni" in modes:
            struct.unicast = NONE
        elif "alluni" in modes:
            struct.unicast = EVERY
        struct.multicast = LISTED if multicast else NONE
        if "nomulti" in modes:
            struct.multicast = NONE
        elif "allmulti" in modes or not device.VIRTIO_NET_F_CTRL_RX:
            struct.multicast = EVERY
        return self._wire.receive_path(self._received)

    def prepare(self, *, waiting: bool) -> bool:
        """Get ready to read, unless packets are ``waiting``; returns whether there may be some."""
        struct = self._wire.struct
        struct.blocked = waiting
        if waiting or not struct.ready or not self.reads:
            return False
        begun = self._backend.lend_reading(self._number)
        if begun is None:
            struct.blocked = True
        elif begun:
            self._wire.give_read(begun)
        return True

    def arrived(self) -> bool | None:
        """Read what arrived; see :meth:`NetEnd.arrived`."""
        if self.reads and not self._device.has_waiting(self._number):
            struct = self._wire.struct
            struct.ready = True
            more = self._device.serve_receiveq(self._number)
            if not struct.ready or self.reads:
                self._paused = bool(struct.ready) and not more
                return not self._paused
        self.give_back()
        return None

    def _received(self, end: int) -> None:
        self._count()
        if end == LEFT:
            self.give_back()
            if not self._wire.struct.blocked:
                self._backend.read_on(self._number)
        self._go_on()

    def _go_on(self) -> None:
        """Have the descriptor watched again, once it was read to its end."""
        if self._paused and not self._wire.struct.ready:
            self._paused = False
            self._backend.resume()

    def give_back(self) -> None:
        """Leave reading to the backend."""
        self._wire.struct.ready = False
        data = self._wire.take_read()
        if data:
            self._backend.return_reading(self._number, data)

    def look_again(self) -> None:
        """Leave to the backend what a change of the device has made its own."""
        self.choose_writer()
        if not self.reads:
            self.give_back()
        self._go_on()

    def _count(self) -> None:
        counters = self._device.counters
        sent, received, filtered, unfit = self._wire.take_counts()
        counters.sent += sent
        counters.received += received
        counters.filtered += filtered
        counters.unfit += unfit
