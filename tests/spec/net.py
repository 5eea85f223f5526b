"""A network card for the tests of the network device, and a network behind it that is watched.

All numbers are typed from VIRTIO 1.4 "Network Device".
"""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.spec.devices import EVERY_RING
from tests.spec.pci import PciRig
from tests.spec.rig import SPLIT, Form, Rig
from virtio.net import Net, NetBackend, NetEnd

CSUM, GUEST_CSUM, CTRL_GUEST_OFFLOADS, MTU, MAC = (1 << bit for bit in (0, 1, 2, 3, 5))
GUEST_TSO4, GUEST_TSO6, GUEST_ECN, HOST_TSO4, HOST_TSO6, HOST_ECN = (
    1 << bit for bit in (7, 8, 9, 11, 12, 13)
)
MRG_RXBUF, STATUS, CTRL_VQ, CTRL_RX, CTRL_VLAN, CTRL_RX_EXTRA, GUEST_ANNOUNCE, MQ = (
    1 << bit for bit in (15, 16, 17, 18, 19, 20, 21, 22)
)
CTRL_MAC_ADDR = 1 << 23
GUEST_USO4, GUEST_USO6, HOST_USO, SPEED_DUPLEX = (1 << bit for bit in (54, 55, 56, 63))
NEEDS_CSUM, DATA_VALID, RSC_INFO = 1, 2, 4
TCPV4, UDP, TCPV6, UDP_L4, ECN = 1, 3, 4, 5, 0x80
OK, ERR = 0, 1

OUR_MAC = bytes.fromhex("020000000001")
PEER_MAC = bytes.fromhex("020000000002")
OTHER_MAC = bytes.fromhex("020000000003")
GROUP = bytes.fromhex("01005e000001")
BROADCAST = b"\xff" * 6
PLAIN = bytes(10) + b"\1\0"


def header(
    flags: int = 0,
    gso_type: int = 0,
    hdr_len: int = 0,
    gso_size: int = 0,
    csum_start: int = 0,
    csum_offset: int = 0,
    num_buffers: int = 0,
) -> bytes:
    """Return a ``struct virtio_net_hdr``."""
    return struct.pack(
        "<BBHHHHH", flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers
    )


def frame(
    size: int = 60, to: bytes = OUR_MAC, *, vlan: int | None = None, source: bytes = PEER_MAC
) -> bytes:
    """Return an Ethernet frame of so many bytes, each of its payload telling its place."""
    tag = b"" if vlan is None else struct.pack(">HH", 0x8100, vlan)
    head = to + source + tag + b"\x88\xb5"
    return (head + bytes(n % 251 for n in range(size)))[:size]


def word_sum(data: bytes) -> int:
    """Return the one's complement sum, word by word as RFC 1071 writes it."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ip_frame(
    payload: bytes, *, version: int = 4, protocol: int = 6, to: bytes = OUR_MAC, flags: int = 0x18
) -> bytes:
    """Return a TCP (6) or UDP (17) frame, its checksum the sum of the pseudo header alone."""
    length = (20 if protocol == 6 else 8) + len(payload)
    if version == 4:
        addresses = bytes([10, 0, 0, 2, 10, 0, 0, 1])
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 7, 0, 64, protocol, 0) + addresses
        ip = ip[:10] + struct.pack(">H", 0xFFFF - word_sum(ip)) + ip[12:]
    else:
        addresses = bytes(range(32))
        ip = struct.pack(">IHBB", 6 << 28, length & 0xFFFF, protocol, 64) + addresses
    pseudo = word_sum(addresses + struct.pack(">HH", protocol, length & 0xFFFF))
    if protocol == 6:
        part = struct.pack(">HHIIBBHHH", 1000, 80, 99, 0, 0x50, flags, 512, pseudo, 0)
    else:
        part = struct.pack(">HHHH", 1000, 53, length & 0xFFFF, pseudo)
    kind = b"\x08\x00" if version == 4 else b"\x86\xdd"
    return to + PEER_MAC + kind + ip + part + payload


def checksums_hold(one: bytes) -> bool:
    """Tell whether the checksums of an IP frame are right."""
    ip = one[14:]
    v4 = ip[0] >> 4 == 4
    if v4 and word_sum(ip[:20]) != 0xFFFF:
        return False
    addresses, protocol, part = (ip[12:20], ip[9], ip[20:]) if v4 else (ip[8:40], ip[6], ip[40:])
    pseudo = addresses + struct.pack(">HH", protocol, len(part))
    return word_sum(pseudo + part) == 0xFFFF


class Wire(NetBackend):
    """A network that notes what it gets: ``packets``, up to ``room``, and the offloads ``told``."""

    def __init__(self, takes: int = 0xFF, *, pairs: int = 4) -> None:
        self.takes = takes
        self.max_pairs = pairs
        self.packets: list[bytes] = []
        self.queues: list[int] = []
        self.room = 1 << 30
        self.told: list[tuple[int, int]] = []
        self.resumed = 0

    def attach(self, end: NetEnd) -> None:
        self.end = end

    def send(self, packets: Sequence[bytes], pair: int) -> int:
        taken = packets[: self.room]
        self.room -= len(taken)
        self.packets += taken
        self.queues += [pair] * len(taken)
        return len(taken)

    def make_room(self, room: int = 1 << 30, pair: int = 0) -> None:
        """Take so many packets more."""
        self.room = room
        self.end.space(pair)

    def resume(self) -> None:
        self.resumed += 1

    def set_offloads(self, mask: int, pairs: int) -> None:
        self.told.append((mask, pairs))


class Received(NamedTuple):
    """What came in one buffer."""

    header: bytes
    frame: bytes


class NetRig(Rig):
    """A live network card whose driver has given no buffer yet.

    Without ``features`` all are accepted.
    """

    def __init__(
        self,
        wire: Wire | None = None,
        *,
        form: Form = SPLIT,
        features: int | None = None,
        size: int = 32,
        **options: Any,
    ) -> None:
        self.network = wire or Wire()
        self.net = Net(self.network, mac=OUR_MAC, ring_features=EVERY_RING, **options)
        super().__init__(self.net)
        own = self.net.device_features & ~(0x1FF << 28 | 1 << 40)
        self.start(own if features is None else features, form, size)

    @property
    def controlq(self) -> int:
        """The index of the control queue: the last one."""
        return max(self.rings)

    def settle(self) -> None:
        """Let the device do all that it can do now."""
        self.serve()
        while self.loop.advance():
            self.serve()

    def give(self, *sizes: int, pair: int = 0) -> None:
        """Give the device a buffer of each size."""
        for size in sizes:
            self.add(2 * pair, ((), (size,)))
        self.settle()

    def deliver(self, *packets: bytes) -> int:
        """Have packets come in from the network."""
        taken = self.network.end.deliver(packets)
        self.settle()
        return taken

    def deliver_frames(self, *frames: bytes) -> int:
        """Have finished frames come in."""
        return self.deliver(*[PLAIN + one for one in frames])

    def got(self, pair: int = 0) -> list[bytes]:
        """Return what is in the buffers that came back, headers included."""
        return [one.data[: one.length] for one in self.rings[2 * pair].collect()]

    def received(self, pair: int = 0) -> list[Received]:
        """Return the frames that came in, one in each buffer."""
        return [Received(one[:12], one[12:]) for one in self.got(pair)]

    def frames(self, *frames: bytes, pair: int = 0) -> list[bytes]:
        """Have frames come in, with a buffer for each, and return those that the guest gets."""
        self.give(*[2048] * max(0, len(frames) - self.rings[2 * pair].in_flight), pair=pair)
        self.deliver_frames(*frames)
        return [one.frame for one in self.received(pair)]

    def send(self, *packets: bytes, pair: int = 0) -> list[int]:
        """Send packets, a buffer each; returns the used lengths of those that came back."""
        for one in packets:
            self.add(2 * pair + 1, ((one,), ()))
        self.settle()
        return [used.length for used in self.rings[2 * pair + 1].collect()]

    def sent(self, *packets: bytes, pair: int = 0) -> list[bytes]:
        """Send packets, which must all come back, and return what the network got of them."""
        assert self.send(*packets, pair=pair) == [0] * len(packets)
        got, self.network.packets = self.network.packets, []
        return got

    def command(self, kind: int, number: int, data: bytes = b"") -> int:
        """Send a command and return its answer."""
        used = self.request(self.controlq, ((bytes([kind, number]), data), (1,)))
        assert used.length == 1
        self.settle()
        return used.data[0]


class PciNetRig(NetRig, PciRig):
    """The same on virtio-pci."""


RIGS: dict[type[Rig], type[NetRig]] = {Rig: NetRig, PciRig: PciNetRig}
