"""What stands where behind BAR 0 of a virtio function, and the capabilities that tell it.

VIRTIO 1.4 "Virtio Structure PCI Capabilities".
"""

import struct
from typing import Final

from transport.pci.configuration import ConfigurationSpace
from transport.pci.msix import PCI_CAP_ID_MSIX, PCI_MSIX_FLAGS_ENABLE, PCI_MSIX_FLAGS_MASKALL
from virtio.named_tuple import NamedTuple

PCI_CAP_ID_VNDR: Final = 0x09

VIRTIO_PCI_CAP_COMMON_CFG: Final = 1
VIRTIO_PCI_CAP_NOTIFY_CFG: Final = 2
VIRTIO_PCI_CAP_ISR_CFG: Final = 3
VIRTIO_PCI_CAP_DEVICE_CFG: Final = 4
VIRTIO_PCI_CAP_PCI_CFG: Final = 5

BAR: Final = 0
BAR_BYTES: Final = 0x8000

COMMON: Final = 0x0000
COMMON_BYTES: Final = 64
ISR: Final = 0x1000
DEVICE: Final = 0x2000
DEVICE_BYTES: Final = 0x1000
NOTIFY: Final = 0x3000
NOTIFY_BYTES: Final = 0x1000
NOTIFY_MULTIPLIER: Final = 4
"""Each queue has its own address, four bytes that may also carry NOTIFICATION_DATA."""
TABLE: Final = 0x4000
TABLE_BYTES: Final = 0x2000
PENDING: Final = 0x6000

MAX_QUEUES: Final = TABLE_BYTES // 16 - 1

# after kind and link: length, type, bar, id, offset, length of the structure
_CAPABILITY = struct.Struct("<BBBB2xII")
_MSIX = struct.Struct("<HII")
_HEAD_BYTES: Final = 2

WINDOW_BAR: Final = 4
WINDOW_OFFSET: Final = 8
WINDOW_LENGTH: Final = 12
WINDOW_DATA: Final = 16
_WINDOW_WRITABLE: Final = bytes(2) + b"\xff" + bytes(3) + b"\xff" * 12


class Capabilities(NamedTuple):
    """Where in configuration space the two capabilities are that a driver writes to."""

    window: int
    msix: int


def add_capabilities(space: ConfigurationSpace, queues: int, vectors: int) -> Capabilities:
    """Put all capabilities of a virtio function with these numbers into ``space``."""
    notify = NOTIFY_MULTIPLIER.to_bytes(4, "little")
    for kind, offset, length, more in (
        (VIRTIO_PCI_CAP_COMMON_CFG, COMMON, COMMON_BYTES, b""),
        (VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY, NOTIFY_MULTIPLIER * queues, notify),
        (VIRTIO_PCI_CAP_ISR_CFG, ISR, 1, b""),
        (VIRTIO_PCI_CAP_DEVICE_CFG, DEVICE, DEVICE_BYTES, b""),
    ):
        space.add_capability(PCI_CAP_ID_VNDR, _body(kind, offset, length, more))
    window = space.add_capability(
        PCI_CAP_ID_VNDR, _body(VIRTIO_PCI_CAP_PCI_CFG, 0, 0, bytes(4)), _WINDOW_WRITABLE
    )
    control = PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL
    msix = space.add_capability(
        PCI_CAP_ID_MSIX,
        _MSIX.pack(vectors - 1, TABLE | BAR, PENDING | BAR),
        control.to_bytes(2, "little"),
    )
    return Capabilities(window, msix)


def _body(kind: int, offset: int, length: int, more: bytes) -> bytes:
    size = _HEAD_BYTES + _CAPABILITY.size + len(more)
    return _CAPABILITY.pack(size, kind, BAR, 0, offset, length) + more
