"""The memory balloon device. VIRTIO 1.4 "Traditional Memory Balloon Device"."""

from virtio.balloon.device import Balloon
from virtio.balloon.statistics import BalloonStatistics

__all__ = ["Balloon", "BalloonStatistics"]
