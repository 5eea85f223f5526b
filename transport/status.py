"""The device status: its bits, and the order in which a driver may set them.

VIRTIO 1.4 "Device Status Field"; the spelling is that of Linux ``linux/virtio_config.h``.
"""

from typing import Final

VIRTIO_CONFIG_S_ACKNOWLEDGE: Final = 1
VIRTIO_CONFIG_S_DRIVER: Final = 2
VIRTIO_CONFIG_S_DRIVER_OK: Final = 4
VIRTIO_CONFIG_S_FEATURES_OK: Final = 8
VIRTIO_CONFIG_S_NEEDS_RESET: Final = 0x40
VIRTIO_CONFIG_S_FAILED: Final = 0x80

STEPS: Final = (
    (VIRTIO_CONFIG_S_ACKNOWLEDGE, 0),
    (VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_ACKNOWLEDGE),
    (VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_DRIVER),
    (VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK),
)
"""The bits in the order of initialization, each with the one that must be set before it."""

STOPPED: Final = VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED
"""While one of these is set only a reset leads on."""

_NAMES: Final = {
    VIRTIO_CONFIG_S_ACKNOWLEDGE: "ACKNOWLEDGE",
    VIRTIO_CONFIG_S_DRIVER: "DRIVER",
    VIRTIO_CONFIG_S_FEATURES_OK: "FEATURES_OK",
    VIRTIO_CONFIG_S_DRIVER_OK: "DRIVER_OK",
    VIRTIO_CONFIG_S_NEEDS_RESET: "DEVICE_NEEDS_RESET",
    VIRTIO_CONFIG_S_FAILED: "FAILED",
}


def status_names(status: int) -> str:
    """Return the names of the bits that are set, for a person to read; ``reset`` for none.

    >>> status_names(0x03)
    'ACKNOWLEDGE DRIVER'
    """
    return " ".join(name for bit, name in _NAMES.items() if status & bit) or "reset"
