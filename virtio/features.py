"""Feature bits that every virtio device shares: their numbers and a helper for masks.

VIRTIO 1.4 "Reserved Feature Bits"; the spelling is that of Linux ``linux/virtio_config.h`` and
``linux/virtio_ring.h``.
"""

from typing import Final

VIRTIO_RING_F_INDIRECT_DESC: Final = 28
VIRTIO_RING_F_EVENT_IDX: Final = 29
VIRTIO_F_VERSION_1: Final = 32
VIRTIO_F_ACCESS_PLATFORM: Final = 33
VIRTIO_F_RING_PACKED: Final = 34
VIRTIO_F_IN_ORDER: Final = 35
VIRTIO_F_ORDER_PLATFORM: Final = 36
VIRTIO_F_SR_IOV: Final = 37
VIRTIO_F_NOTIFICATION_DATA: Final = 38
VIRTIO_F_NOTIF_CONFIG_DATA: Final = 39
VIRTIO_F_RING_RESET: Final = 40
VIRTIO_F_ADMIN_VQ: Final = 41
VIRTIO_F_SUSPEND: Final = 43


def mask(*bits: int) -> int:
    """Return the feature set that holds the given bit numbers."""
    return sum(1 << bit for bit in set(bits))
