"""Finishes packets in software: checksums, and large frames cut into segments.

A driver, or the network, that does not take unfinished packets gets them finished (``NET-08``,
``NET-09``). RFC 1071 (checksums), RFC 9293 (TCP), Linux ``net/ipv4/tcp_offload.c`` and
``udp_offload.c``. VIRTIO 1.4 "Packet Transmission", "Processing of Incoming Packets".
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from virtio.net.packet import (
    CSUM,
    HEADER,
    HEADER_BYTES,
    PLAIN,
    USO4,
    USO6,
    VERIFIED,
    VIRTIO_NET_HDR_F_DATA_VALID,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_UDP_L4,
    may_be_unfinished,
)

_U16: Final = Struct(">H")
_U32: Final = Struct(">I")
_VLAN_TYPES: Final = (0x8100, 0x88A8)
_IPV4, _IPV6 = 0x0800, 0x86DD
_TCP, _UDP = 6, 17
_FIN, _PSH, _CWR = 0x01, 0x08, 0x80


def finished(packet: bytes, takes: int) -> list[bytes]:
    """Return a packet as one who takes only some packets unfinished can have it.

    ``takes`` is a mask of what may be left. The answer is the packet itself, or with its checksum,
    or its segments; it is empty for one whose frame is not what its header says.
    """
    if packet[0] == packet[1] == 0:
        return [packet]
    flags, kind, _, _, start, offset, _ = HEADER.unpack_from(packet)
    if not flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:
        is_verified = flags & VIRTIO_NET_HDR_F_DATA_VALID and takes & CSUM
        return [(VERIFIED if is_verified else PLAIN) + packet[HEADER_BYTES:]]
    if kind and not (takes & CSUM and may_be_unfinished(kind, _of_its_family(packet, kind, takes))):
        return _segments(packet, kind, takes)
    return [packet] if takes & CSUM else [_checksummed(packet, start, offset)]


def _of_its_family(packet: bytes, kind: int, takes: int) -> int:
    """Take away what is allowed only for the other version of IP; UDP has one kind for both."""
    if kind != VIRTIO_NET_HDR_GSO_UDP_L4:
        return takes
    return takes & ~(USO4 if _network_of(packet)[1] == _IPV6 else USO6)


def checksum(data: bytes | bytearray | memoryview, initial: int = 0) -> int:
    """Return the Internet checksum of ``data``, its one's complement sum begun with ``initial``.

    A sum of 16-bit words with carries added back is the remainder by 65535 of the number that they
    are; Python divides such at the speed of memory.

    >>> hex(checksum(bytes.fromhex("0001f203f4f5f6f7")))
    '0x220d'
    """
    number = int.from_bytes(data, "big")
    if len(data) & 1:
        number <<= 8
    return 0xFFFF - (number + initial) % 0xFFFF


def _checksummed(packet: bytes, start: int, offset: int) -> bytes:
    whole = bytearray(packet)
    whole[:HEADER_BYTES] = PLAIN
    at = HEADER_BYTES + start
    with memoryview(whole) as view:
        _U16.pack_into(whole, at + offset, checksum(view[at:]))
    return bytes(whole)


def _network_of(packet: bytes) -> tuple[int, int]:
    """Return where the header of IP begins in a packet, and the type of the frame."""
    at = HEADER_BYTES + 12
    for _ in range(3):
        if at + 2 > len(packet):
            break
        (ethertype,) = _U16.unpack_from(packet, at)
        at += 2
        if ethertype not in _VLAN_TYPES:
            return at, ethertype
        at += 2
    return len(packet), 0


def _segments(packet: bytes, kind: int, takes: int) -> list[bytes]:
    """Cut a packet into frames of ``gso_size`` bytes of data, each with headers of its own."""
    _, _, headers, size, start, offset, _ = HEADER.unpack_from(packet)
    network, ethertype = _network_of(packet)
    transport, data = HEADER_BYTES + start, HEADER_BYTES + headers
    udp = kind & ~VIRTIO_NET_HDR_GSO_ECN == VIRTIO_NET_HDR_GSO_UDP_L4
    if not _is_ip(packet, network, ethertype, transport, _UDP if udp else _TCP):
        return []
    if data <= transport or data >= len(packet) or not size:
        return []
    cut = _UdpCut if udp else _TcpCut
    one = cut(packet, network, ethertype == _IPV6, transport, data, offset)
    parts = range(data, len(packet), size)
    leave = start if takes & CSUM else 0
    return [one.segment(n, at, packet[at : at + size], leave) for n, at in enumerate(parts)]


def _is_ip(packet: bytes, network: int, ethertype: int, transport: int, protocol: int) -> bool:
    """Whether the header of IP is where, and what, the cutting of a packet needs."""
    least = {_IPV4: 20, _IPV6: 40}.get(ethertype, 0)
    if not least or network + least > transport:
        return False
    if ethertype == _IPV6:
        return packet[network] >> 4 == 6
    own = (packet[network] & 15) * 4
    is_v4 = packet[network] >> 4 == 4 and own >= 20 and packet[network + 9] == protocol
    return is_v4 and network + own == transport


class _Cut:
    """What all segments of one packet have in common; offsets are into the packet."""

    protocol = 0

    def __init__(
        self, packet: bytes, network: int, v6: bool, transport: int, data: int, offset: int
    ) -> None:
        self.packet = packet
        self.head = packet[HEADER_BYTES:data]
        self.network = network - HEADER_BYTES
        self.transport = transport - HEADER_BYTES
        self.v6 = v6
        self.offset = offset
        self.data_at = data
        addresses = (
            packet[network + 8 : network + 40] if v6 else packet[network + 12 : network + 20]
        )
        self.pseudo = int.from_bytes(addresses, "big") % 0xFFFF + self.protocol

    def segment(self, number: int, at: int, data: bytes, leave: int) -> bytes:
        """Return the packet of some of the data, which was at ``at``.

        ``leave`` is where the checksum begins that is left to others, or 0.
        """
        frame = bytearray(self.head + data)
        self._number_network(frame, number)
        self._number_transport(frame, number, at - self.data_at, at + len(data) == len(self.packet))
        length = len(frame) - self.transport
        field = self.transport + self.offset
        if leave:
            header = HEADER.pack(VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, 0, 0, leave, self.offset, 1)
            _U16.pack_into(frame, field, (self.pseudo + length) % 0xFFFF)
            return header + frame
        _U16.pack_into(frame, field, 0)
        with memoryview(frame) as view:
            value = checksum(view[self.transport :], self.pseudo + length)
        _U16.pack_into(frame, field, value)
        return PLAIN + frame

    def _number_network(self, frame: bytearray, number: int) -> None:
        at = self.network
        if self.v6:
            _U16.pack_into(frame, at + 4, len(frame) - at - 40)
            return
        (identification,) = _U16.unpack_from(frame, at + 4)
        _U16.pack_into(frame, at + 2, len(frame) - at)
        _U16.pack_into(frame, at + 4, (identification + number) & 0xFFFF)
        _U16.pack_into(frame, at + 10, 0)
        with memoryview(frame) as view:
            value = checksum(view[at : self.transport])
        _U16.pack_into(frame, at + 10, value)

    def _number_transport(self, frame: bytearray, number: int, done: int, last: bool) -> None:
        raise NotImplementedError


class _TcpCut(_Cut):
    protocol = _TCP

    def _number_transport(self, frame: bytearray, number: int, done: int, last: bool) -> None:
        at = self.transport
        (sequence,) = _U32.unpack_from(frame, at + 4)
        _U32.pack_into(frame, at + 4, (sequence + done) & 0xFFFF_FFFF)
        if not last:
            frame[at + 13] &= ~(_FIN | _PSH)
        if number:
            frame[at + 13] &= ~_CWR


class _UdpCut(_Cut):
    protocol = _UDP

    def _number_transport(self, frame: bytearray, number: int, done: int, last: bool) -> None:
        _U16.pack_into(frame, self.transport + 4, len(frame) - self.transport)
