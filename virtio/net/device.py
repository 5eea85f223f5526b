"""The network device: packets between a driver and a backend. VIRTIO 1.4 "Network Device".

Device code runs under the work lock of the transport. A backend delivers from any thread, into an
:class:`Inbox`, and rings; then the device comes, filters and finishes the packets, and puts them
into the buffers that the driver gave.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

from virtio import engine
from virtio.device.declaration import (
    DEFAULT_RING_FEATURES,
    Device,
    QueueKind,
    feature,
    field,
    queue,
)
from virtio.device.doorbell import Doorbell
from virtio.errors import ConfigurationError
from virtio.net.backend import NetBackend, NoNetwork
from virtio.net.control import MAX_COMMAND_BYTES, execute
from virtio.net.counters import NetCounters
from virtio.net.filter import MAC_BYTES, ReceiveFilter
from virtio.net.inbox import Inbox
from virtio.net.lending import Lender
from virtio.net.offload import finished
from virtio.net.packet import (
    CSUM,
    ECN,
    ETHERNET_BYTES,
    EVERYTHING,
    HEADER_BYTES,
    MAX_PACKET_BYTES,
    MIN_PACKET_BYTES,
    PLAIN,
    TSO4,
    TSO6,
    USO,
    USO4,
    USO6,
    VERIFIED,
    VLAN_TAG_BYTES,
    sanitized,
)
from virtio.net.receive import Receiver
from virtio.net.steering import Steering
from virtio.net.transmit import Transmitter, forget_all
from virtio.saved import FeatureSet, Within, checked

if TYPE_CHECKING:
    from virtio.device.lifecycle import Activation, TimerHandle
    from virtio.native.data_path import DataPath
    from virtio.net.native_pair import NativePair
    from virtio.virtqueue.batch import ChainBatch
    from virtio.virtqueue.chain import DescriptorChain

QUEUE_SIZE: Final = 256
CONTROL_QUEUE_SIZE: Final = 64
MAX_PAIRS: Final = 256
READY_PACKETS: Final = 256
"""How many packets wait, filtered and finished, for buffers; others wait unseen, or are lost."""
TAKE_AT_ONCE: Final = 16
TURN_NS: Final = 2_000_000
PATIENCE_SECONDS: Final = 0.5
"""How long a packet may wait that needs more buffers than there are."""

MTU_LEAST, MTU_MOST = 68, 65535
LINK_UP, ANNOUNCE = 1, 2
ARRIVALS: Final = -1
"""What is rung when packets arrived; a number is that of a pair that can send again."""

GUEST_OFFLOADS: Final = {1: CSUM, 7: TSO4, 8: TSO6, 9: ECN, 54: USO4, 55: USO6}
HOST_OFFLOADS: Final = {0: CSUM, 11: TSO4, 12: TSO6, 13: ECN, 56: USO}
"""Numbers of feature bits, and what each lets packets be left unfinished in."""


def _many(device: Net) -> bool:
    return device.max_virtqueue_pairs > 1


class Net(Device):
    """A network card on ``backend``; without one, its cable is not plugged in.

    ``mac`` is its address, by default a random one. ``mtu`` tells the driver the largest packet
    that the network carries, behind the Ethernet header; ``pairs`` is the number of receive and
    transmit queues, one pair for each processor of the guest that is to send at the same time;
    ``speed`` is shown to the guest in megabits a second. ``offloads`` is whether packets may be
    handed over unfinished, either way; the device or the backend then finishes them if need be.

    :attr:`link` plugs the cable, and pulls it. ``counters`` tells what became of the packets.
    Raises :class:`ConfigurationError` for what cannot be.
    """

    device_id = 1
    in_order = True

    VIRTIO_NET_F_CSUM = feature(0, when=lambda device: device.offloads)
    VIRTIO_NET_F_GUEST_CSUM = feature(1, when=lambda device: device.offloads)
    VIRTIO_NET_F_MTU = feature(3, when=lambda device: bool(device.mtu))
    VIRTIO_NET_F_MAC = feature(5)
    VIRTIO_NET_F_GUEST_TSO4 = feature(7, requires=(VIRTIO_NET_F_GUEST_CSUM,))
    VIRTIO_NET_F_GUEST_TSO6 = feature(8, requires=(VIRTIO_NET_F_GUEST_CSUM,))
    VIRTIO_NET_F_GUEST_ECN = feature(
        9, requires_any=(VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6)
    )
    VIRTIO_NET_F_HOST_TSO4 = feature(11, requires=(VIRTIO_NET_F_CSUM,))
    VIRTIO_NET_F_HOST_TSO6 = feature(12, requires=(VIRTIO_NET_F_CSUM,))
    VIRTIO_NET_F_HOST_ECN = feature(
        13, requires_any=(VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6)
    )
    VIRTIO_NET_F_MRG_RXBUF = feature(15)
    VIRTIO_NET_F_STATUS = feature(16)
    VIRTIO_NET_F_CTRL_VQ = feature(17)
    VIRTIO_NET_F_CTRL_RX = feature(18, requires=(VIRTIO_NET_F_CTRL_VQ,))
    VIRTIO_NET_F_CTRL_VLAN = feature(19, requires=(VIRTIO_NET_F_CTRL_VQ,))
    VIRTIO_NET_F_CTRL_RX_EXTRA = feature(20, requires=(VIRTIO_NET_F_CTRL_VQ,))
    VIRTIO_NET_F_GUEST_ANNOUNCE = feature(21, requires=(VIRTIO_NET_F_CTRL_VQ,))
    VIRTIO_NET_F_MQ = feature(22, requires=(VIRTIO_NET_F_CTRL_VQ,), when=_many)
    VIRTIO_NET_F_CTRL_MAC_ADDR = feature(23, requires=(VIRTIO_NET_F_CTRL_VQ,))
    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS = feature(
        2, requires=(VIRTIO_NET_F_CTRL_VQ,), when=lambda device: device.offloads
    )
    VIRTIO_NET_F_GUEST_USO4 = feature(54, requires=(VIRTIO_NET_F_GUEST_CSUM,))
    VIRTIO_NET_F_GUEST_USO6 = feature(55, requires=(VIRTIO_NET_F_GUEST_CSUM,))
    VIRTIO_NET_F_HOST_USO = feature(56, requires=(VIRTIO_NET_F_CSUM,))
    VIRTIO_NET_F_SPEED_DUPLEX = feature(63, when=lambda device: device.speed > 0)

    mac = field("bytes", 0x00, length=MAC_BYTES, default=bytes(MAC_BYTES))
    status = field("u16", 0x06, feature=VIRTIO_NET_F_STATUS)
    max_virtqueue_pairs = field("u16", 0x08, feature=VIRTIO_NET_F_MQ, default=1)
    mtu = field("u16", 0x0A, feature=VIRTIO_NET_F_MTU)
    speed = field("u32", 0x0C, feature=VIRTIO_NET_F_SPEED_DUPLEX)
    duplex = field("u8", 0x10, feature=VIRTIO_NET_F_SPEED_DUPLEX, default=1)

    def __init__(
        self,
        backend: NetBackend | None = None,
        *,
        mac: bytes | None = None,
        mtu: int | None = None,
        pairs: int = 1,
        speed: int | None = None,
        offloads: bool = True,
        ring_features: int = DEFAULT_RING_FEATURES,
    ) -> None:
        super().__init__(ring_features=ring_features)
        self.backend = backend or NoNetwork()
        self.offloads = offloads
        self._own_mac = _checked_mac(os.urandom(6) if mac is None else mac, chosen=mac is not None)
        self.mac = self._own_mac
        self.mtu = 0 if mtu is None else _between("MTU", mtu, MTU_LEAST, MTU_MOST)
        most = min(MAX_PAIRS, self.backend.max_pairs)
        self.max_virtqueue_pairs = _between("queue pairs", pairs, 1, most)
        self.speed = 0 if speed is None else _between("speed", speed, 1, 0x7FFF_FFFF)
        self.counters = NetCounters()
        self._net_bell = Doorbell(self._attend)
        self._inbox = Inbox()
        self._receivers = [Receiver(self.counters) for _ in range(pairs)]
        self._transmitters = [Transmitter(self.backend, n, self.counters) for n in range(pairs)]
        self._native_pair = _native_pair(self.backend)
        self._native_pairs: list[NativePair] = []
        self._link, self._announces = self.backend.link, False
        self._forget_driver()
        self._update_status()
        self.backend.attach(self)

    def _forget_driver(self) -> None:
        """Be as at power-on, as far as what the driver set is concerned."""
        self.filter = ReceiveFilter()
        self.pairs_in_use = 1
        self._takes = 0
        self._steering = Steering()
        self._patience: TimerHandle | None = None

    # The host's side, from any thread

    @property
    def takes(self) -> int:
        """The mask of what packets for the guest may be left unfinished in."""
        return self._takes

    @property
    def link(self) -> bool:
        """Whether the cable is plugged."""
        return self._link

    @link.setter
    def link(self, up: bool) -> None:
        self.set_link(up)

    def set_link(self, up: bool) -> None:
        """Plug the cable, or pull it, and tell the guest (``NET-17``)."""
        self._link = up
        for number, one in enumerate(self._transmitters):
            one.plugged = up
            self._net_bell.ring(number)
        self._choose()
        self._update_status()

    def announce(self) -> None:
        """Have the guest tell the network where it is now, if its driver can do that."""
        can = self.VIRTIO_NET_F_GUEST_ANNOUNCE and self.VIRTIO_NET_F_STATUS
        self._announces = can and self.activation is not None
        self._update_status()

    def deliver(self, packets: Sequence[bytes], pair: int | None = None) -> int:
        """Take packets for the guest, in order; returns how many there was room for."""
        if self.activation is None or not self._link:
            self.counters.lost += len(packets)
            return len(packets)
        taken = self._inbox.put(packets, pair)
        self._net_bell.ring(ARRIVALS)
        return taken

    def space(self, pair: int = 0) -> None:
        """Hear that the backend takes packets again."""
        self._net_bell.ring(pair)

    # Queues

    def queue_layout(self, features: int) -> list[tuple[QueueKind, int]]:
        """Return the pairs, then the control queue: where it is depends on MQ (``NET-03``)."""
        kinds = self.queue_kinds
        many = features & type(self).VIRTIO_NET_F_MQ.mask
        layout: list[tuple[QueueKind, int]] = []
        for number in range(self.max_virtqueue_pairs if many else 1):
            layout += [(kinds["receiveq"], number), (kinds["transmitq"], number)]
        if features & type(self).VIRTIO_NET_F_CTRL_VQ.mask:
            layout.append((kinds["controlq"], 0))
        return layout

    @queue(
        size=QUEUE_SIZE,
        count="max_virtqueue_pairs",
        batch=True,
        burst=QUEUE_SIZE,
        fill="_room",
        native="_receive_path",
    )
    def receiveq(self, chains: ChainBatch, number: int) -> Sequence[int | None]:
        """Fill buffers with packets."""
        receiver = self._receivers[number]
        answers = receiver.fill(chains)
        if receiver.starved and self._patience is None:
            self._patience = self.loop.call_later(PATIENCE_SECONDS, self._lose_patience)
        return answers

    def _room(self, number: int) -> int:
        self._take_in(serving=number)
        wanted = self._receivers[number].wanted()
        if number < len(self._native_pairs):
            waiting = bool(wanted or len(self._inbox))
            return int(self._native_pairs[number].prepare(waiting=waiting)) or wanted
        return wanted

    def _receive_path(self, number: int) -> DataPath | None:
        pairs = self._native_pairs
        return pairs[number].receive_path() if number < len(pairs) else None

    def arrived(self, pair: int) -> bool | None:
        """Read what arrived at a descriptor that the backend lends; see :class:`NetEnd`."""
        return self._native_pairs[pair].arrived() if pair < len(self._native_pairs) else None

    def has_waiting(self, number: int) -> bool:
        """Whether packets wait that Python is to put into a receive queue's buffers."""
        return bool(len(self._inbox) or self._receivers[number].packets)

    def serve_receiveq(self, number: int) -> bool:
        """Serve a receive queue now; returns whether there is more of both packets and buffers."""
        return self.handle_queue(2 * number)

    @queue(size=QUEUE_SIZE, count="max_virtqueue_pairs", batch=True, native="_transmit_path")
    def transmitq(self, chains: ChainBatch, number: int) -> Sequence[int | None]:
        """Send packets; those that the backend does not take now are held."""
        if self.pairs_in_use > 1:
            self._steering.learn(chains, number)
        answers, late = self._transmitters[number].send(chains)
        if late:
            self._net_bell.ring(number)
        if number < len(self._native_pairs):
            self._native_pairs[number].choose_writer()
        return answers

    def _transmit_path(self, number: int) -> DataPath | None:
        pairs = self._native_pairs
        return pairs[number].transmit_path() if number < len(pairs) else None

    @queue(size=CONTROL_QUEUE_SIZE, feature=VIRTIO_NET_F_CTRL_VQ)
    def controlq(self, chain: DescriptorChain) -> int:
        """Do a command; one that cannot be answered is not done (``NET-19``)."""
        if not chain.writable_length:
            return 0
        answer = execute(self, chain.read(MAX_COMMAND_BYTES + 1))
        self._choose()
        return chain.write(answer)

    # What is due

    def _attend(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if number == ARRIVALS:
                self._take_in()
            elif number < len(self._transmitters):
                if self._transmitters[number].flush():
                    self._net_bell.ring(number)
                if number < len(self._native_pairs):
                    self._native_pairs[number].look_again()

    def _take_in(self, *, serving: int | None = None) -> None:
        """Filter and finish packets that arrived, and have them put into buffers.

        Those for the queue that is being ``serving`` are seen to by the caller.
        """
        end_ns = time.monotonic_ns() + TURN_NS
        waiting = sum(len(one.packets) for one in self._receivers)
        concerned: set[int] = set()
        while len(self._inbox) and waiting < READY_PACKETS and time.monotonic_ns() < end_ns:
            arrived, refused = self._inbox.take(TAKE_AT_ONCE)
            for packet, pair in arrived:
                waiting += self._admit(packet, pair, concerned)
            if refused:
                self.backend.resume()
        if serving is None and len(self._inbox) and waiting < READY_PACKETS:
            self._net_bell.ring(ARRIVALS)
        for number in concerned - {serving}:
            self.fill("receiveq", number)

    def _admit(self, packet: bytes, pair: int | None, concerned: set[int]) -> int:
        """Let one packet wait for buffers, or several that it was cut into; returns how many."""
        if not MIN_PACKET_BYTES <= len(packet) <= MAX_PACKET_BYTES:
            self.counters.unfit += 1
            return 0
        if not self.filter.passes(
            packet,
            self.mac,
            any_multicast=not self.VIRTIO_NET_F_CTRL_RX,
            by_vlan=self.VIRTIO_NET_F_CTRL_VLAN,
        ):
            self.counters.filtered += 1
            return 0
        trusted: bytes | None = packet
        if not packet.startswith((PLAIN, VERIFIED)):
            trusted = sanitized(packet, EVERYTHING)
        packets = [] if trusted is None else finished(trusted, self._takes)
        if not packets or not all(map(self._fits, packets)):
            self.counters.unfit += 1
            return 0
        number = self._queue_for(packet, pair)
        self._receivers[number].packets.extend(packets)
        concerned.add(number)
        return len(packets)

    def _fits(self, packet: bytes) -> bool:
        """Whether a packet is within the MTU; one to be cut is, however large (``NET-15``)."""
        if not self.VIRTIO_NET_F_MTU or packet[1]:
            return True
        tag = VLAN_TAG_BYTES if packet[24:26] == b"\x81\x00" else 0
        return len(packet) <= HEADER_BYTES + ETHERNET_BYTES + tag + self.mtu

    def _queue_for(self, packet: bytes, pair: int | None) -> int:
        """Choose a receive queue of those in use, not one under reset (``NET-26``, ``NET-27``)."""
        if self.pairs_in_use == 1:
            return 0
        chosen = self._steering.queue_of(packet) if pair is None else pair
        live = [n for n in range(self.pairs_in_use) if self.has_receiveq(n)]
        return chosen if chosen in live or not live else live[chosen % len(live)]

    def has_receiveq(self, number: int) -> bool:
        """Whether a receive queue is live."""
        queues = self.queues
        return 2 * number < len(queues) and queues[2 * number] is not None

    def _lose_patience(self) -> None:
        """Drop the packets that still wait for more buffers than there are."""
        self._patience = None
        for number, one in enumerate(self._receivers):
            if one.starved:
                one.starved = False
                one.drop_first()
                self.fill("receiveq", number)

    # What the driver sets, on the control queue

    def change_quietly(self, name: str, value: int | bytes) -> None:
        """Change a configuration field, on the driver's word: it needs no notification."""
        with self.config_lock:
            if getattr(self, name) != value:
                self.config_values[name] = value
                self.config_generation = (self.config_generation + 1) & 0xFFFF_FFFF

    def announced(self) -> None:
        """Take back the wish of :meth:`announce`, which the guest has fulfilled."""
        self._announces = False
        self.change_quietly("status", self._status())

    def use_pairs(self, pairs: int) -> bool:
        """Have packets received on the first ``pairs`` queues (``NET-26``)."""
        if not 1 <= pairs <= self.max_virtqueue_pairs:
            return False
        self.pairs_in_use = pairs
        self._redistribute()
        self.backend.set_offloads(self._takes, pairs)
        return True

    def use_offloads(self, bits: int) -> bool:
        """Leave packets for the guest unfinished by these feature bits alone (``NET-28``)."""
        accepted = sum(1 << bit for bit in GUEST_OFFLOADS if self.driver_features >> bit & 1)
        if bits & ~accepted:
            return False
        self._take_unfinished(bits)
        return True

    def _take_unfinished(self, bits: int) -> None:
        self._takes = sum(mask for bit, mask in GUEST_OFFLOADS.items() if bits >> bit & 1)
        for one in self._receivers:
            waiting, one.packets = one.packets, type(one.packets)()
            for packet in waiting:
                one.packets.extend(finished(packet, self._takes))
        self.backend.set_offloads(self._takes, self.pairs_in_use)

    def _redistribute(self) -> None:
        """Choose a queue again for all packets that wait for buffers."""
        waiting = [packet for one in self._receivers for packet in one.packets]
        for one in self._receivers:
            one.packets.clear()
        for packet in waiting:
            number = self._queue_for(packet, None)
            self._receivers[number].packets.append(packet)
            self.fill("receiveq", number)

    def _status(self) -> int:
        return LINK_UP * self._link | ANNOUNCE * (self._announces and self._link)

    def _update_status(self) -> None:
        with self.config_lock:
            before = self.status
            self.change_quietly("status", self._status())
            changed = self.status != before
        activation = self.activation
        if changed and activation is not None:
            activation.notify_config()

    # Life, reset and state

    def activate(self, activation: Activation) -> None:
        """Go live, with all accepted offloads in use; a restored device with those it had."""
        super().activate(activation)
        self._net_bell.connect(activation.loop)
        features = activation.features
        allowed = sum(mask for bit, mask in HOST_OFFLOADS.items() if features >> bit & 1)
        for receiver, transmitter in zip(self._receivers, self._transmitters, strict=True):
            receiver.mergeable = self.VIRTIO_NET_F_MRG_RXBUF
            transmitter.allowed, transmitter.plugged = allowed, self._link
        self._native_pairs = self._make_native_pairs()
        if self._restored_offloads is None:
            self._take_unfinished(features)
        else:
            self._take_unfinished(self._restored_offloads)
            self._restored_offloads = None
            self.announce()
        self.backend.start(activation.loop)

    def _make_native_pairs(self) -> list[NativePair]:
        made, backend = self._native_pair, self.backend
        if made is None or not isinstance(backend, Lender) or engine.data_paths() is None:
            return []
        parts = zip(self._receivers, self._transmitters, strict=True)
        return [made(self, backend, n, *both) for n, both in enumerate(parts)]

    _restored_offloads: int | None = None

    def disable_queue(self, index: int) -> None:
        """Let go of what is held, and give the packets of a receive queue to another."""
        super().disable_queue(index)
        if index < len(self._handlers) and self._handlers[index].kind.name == "transmitq":
            self._transmitters[index // 2].forget()
        elif self.pairs_in_use > 1:
            self._redistribute()

    def reset(self) -> None:
        """Forget packets, filters, and the address that the driver chose."""
        for pair in self._native_pairs:
            pair.give_back()
        self._native_pairs = []
        self.backend.stop()
        self._net_bell.connect(None)
        super().reset()
        if self._patience is not None:
            self._patience.cancel()
        self._forget_driver()
        self._inbox.clear()
        self._restored_offloads = None
        self._announces = False
        forget_all(self._transmitters)
        for one in self._receivers:
            one.packets.clear()
            one.starved = False
        self.change_quietly("mac", self._own_mac)
        self.change_quietly("status", self._status())

    def state(self) -> dict[str, Any]:
        """Return what the driver set; packets on their way to it are lost, as on any network."""
        takes = sum(1 << bit for bit, mask in GUEST_OFFLOADS.items() if self._takes & mask)
        return super().state() | {
            "filter": self.filter.state(),
            "pairs": self.pairs_in_use,
            "offloads": takes if self.activation else None,
            "own_mac": self._own_mac,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned; the cable is plugged as it is with the backend now.

        Raises :class:`ConfigurationError` for a state that this device cannot have been in.
        """
        pairs = self.max_virtqueue_pairs
        config = state["config"]
        for name in ("max_virtqueue_pairs", "mtu", "speed", "duplex"):
            if config[name] != getattr(self, name):
                raise ConfigurationError(f"saved net: {name} must be {getattr(self, name)}")
        in_use = checked(Annotated[int, Within(1, pairs)], "net pairs", state["pairs"])
        offloads = checked(FeatureSet | None, "net offloads", state["offloads"])
        own_mac = _checked_mac(checked(bytes, "net own_mac", state["own_mac"]), chosen=True)
        accepted = ReceiveFilter.from_state(state["filter"])
        super().restore(state)
        self.filter, self.pairs_in_use, self._own_mac = accepted, in_use, own_mac
        allowed = sum(1 << bit for bit in GUEST_OFFLOADS) & self.driver_features
        self._restored_offloads = None if offloads is None else offloads & allowed
        self.change_quietly("status", self._status())


def _native_pair(backend: NetBackend) -> type[NativePair] | None:
    if not isinstance(backend, Lender) or engine.data_paths() is None:
        return None
    from virtio.net.native_pair import NativePair

    return NativePair


def _checked_mac(mac: bytes, *, chosen: bool) -> bytes:
    if not chosen:
        return bytes([mac[0] & 0xFC | 2]) + mac[1:]  # of one station, locally administered
    if len(mac) != MAC_BYTES or mac[0] & 1 or not any(mac):
        raise ConfigurationError(
            f"MAC address {mac[:8].hex(':')}: must be 6 bytes, of one station, and not zero"
        )
    return mac


def _between(what: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise ConfigurationError(f"net: {what} {value}: must be {least} to {most}")
    return value
