"""Packets: what passes between a driver, the device and the network behind it.

A packet is the bytes of a header and of an Ethernet frame::

    struct virtio_net_hdr {
        u8 flags; u8 gso_type; le16 hdr_len; le16 gso_size;
        le16 csum_start; le16 csum_offset; le16 num_buffers;
    };

The header tells what of the frame is unfinished: a checksum, or the cutting of a large frame into
segments. It always has ``num_buffers`` (``NET-01``), which is 1 in every packet of ours, so that
one that fits into a buffer is copied as it is. Linux ``TUNSETVNETHDRSZ`` with 12 gives a tap the
same form. VIRTIO 1.4 "Network Device", "Device Operation".
"""

from struct import Struct
from typing import Final

HEADER: Final = Struct("<BBHHHHH")
HEADER_BYTES: Final = HEADER.size
assert HEADER_BYTES == 12

PLAIN: Final = bytes.fromhex("00000000000000000000 0100")
"""The header of a frame that is finished."""
VERIFIED: Final = b"\2" + PLAIN[1:]
"""That of one whose checksums somebody has verified, too."""

VIRTIO_NET_HDR_F_NEEDS_CSUM: Final = 1
VIRTIO_NET_HDR_F_DATA_VALID: Final = 2
VIRTIO_NET_HDR_GSO_NONE: Final = 0
VIRTIO_NET_HDR_GSO_TCPV4: Final = 1
VIRTIO_NET_HDR_GSO_TCPV6: Final = 4
VIRTIO_NET_HDR_GSO_UDP_L4: Final = 5
VIRTIO_NET_HDR_GSO_ECN: Final = 0x80

ETHERNET_BYTES: Final = 14
VLAN_TAG_BYTES: Final = 4
MAX_FRAME_BYTES: Final = 65535 + ETHERNET_BYTES + 2 * VLAN_TAG_BYTES
"""The largest IP packet, behind an Ethernet header with two tags."""
MAX_PACKET_BYTES: Final = HEADER_BYTES + MAX_FRAME_BYTES
MIN_PACKET_BYTES: Final = HEADER_BYTES + ETHERNET_BYTES
MAX_SEGMENTS: Final = 1024
"""Into how many segments one frame may be cut: 64 bytes each make the largest frame."""

# What may be left unfinished, with the numbers of Linux's TUN_F_CSUM, TSO4, TSO6, TSO_ECN, USO4
# and USO6, so that a tap is told as it stands. linux/if_tun.h.
CSUM: Final = 0x01
TSO4: Final = 0x02
TSO6: Final = 0x04
ECN: Final = 0x08
USO4: Final = 0x20
USO6: Final = 0x40
EVERYTHING: Final = CSUM | TSO4 | TSO6 | ECN | USO4 | USO6
USO: Final = USO4 | USO6

GSO_NEEDS: Final = {
    VIRTIO_NET_HDR_GSO_TCPV4: TSO4,
    VIRTIO_NET_HDR_GSO_TCPV6: TSO6,
    VIRTIO_NET_HDR_GSO_UDP_L4: USO,
}
"""What has to be allowed for a frame of each kind; USO is either of its two."""


def packet_of(frame: bytes) -> bytes:
    """Return a finished frame as a packet.

    >>> packet_of(b"frame")[12:]
    b'frame'
    """
    return PLAIN + frame


def sanitized(data: bytes, allowed: int) -> bytes | None:
    """Return what a driver sent as a packet that others can trust; None for one to be dropped.

    ``allowed`` is what the driver may leave unfinished. Its header is rewritten: unknown flags, and
    fields that its flags do not call for, are gone (``NET-11``). A frame that is short, too long,
    or told to be finished where it is not, is dropped (``NET-12``, ``NET-13``).
    """
    if not MIN_PACKET_BYTES <= len(data) <= MAX_PACKET_BYTES:
        return None
    kind = data[1]
    needs_checksum = data[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM and allowed & CSUM
    if not needs_checksum:
        return None if kind else _with_header(PLAIN, data)
    _, _, _, gso_size, start, offset, _ = HEADER.unpack_from(data)
    size = len(data) - HEADER_BYTES
    if not ETHERNET_BYTES <= start <= start + offset <= size - 2:
        return None
    flags = VIRTIO_NET_HDR_F_NEEDS_CSUM
    if not kind:
        return _with_header(HEADER.pack(flags, 0, 0, 0, start, offset, 1), data)
    headers = _headers_bytes(data, kind & ~VIRTIO_NET_HDR_GSO_ECN, start, offset)
    if not may_be_unfinished(kind, allowed) or not headers < min(size, 1 << 16):
        return None
    if not size - headers <= gso_size * MAX_SEGMENTS:  # one of size 0 is among those
        return None
    return _with_header(HEADER.pack(flags, kind, headers, gso_size, start, offset, 1), data)


def _with_header(header: bytes, data: bytes) -> bytes:
    return data if data[:HEADER_BYTES] == header else header + data[HEADER_BYTES:]


def may_be_unfinished(kind: int, allowed: int) -> bool:
    """Whether frames of a ``gso_type`` may be left uncut."""
    if kind & VIRTIO_NET_HDR_GSO_ECN and not allowed & ECN:
        return False
    return bool(GSO_NEEDS.get(kind & ~VIRTIO_NET_HDR_GSO_ECN, 0) & allowed)


def _headers_bytes(data: bytes, kind: int, start: int, offset: int) -> int:
    """Return the length of all headers of a frame to be cut; a huge one if they make no sense.

    The ``hdr_len`` of the driver is not looked at.
    """
    size = len(data) - HEADER_BYTES
    if kind == VIRTIO_NET_HDR_GSO_UDP_L4:
        return start + 8 if offset == 6 else size
    if offset != 16 or start + 20 > size:
        return size
    own = (data[HEADER_BYTES + start + 12] >> 4) * 4
    return start + own if own >= 20 else size
