"""The driver's side of virtqueues, for tests of devices: no guest and no KVM needed.

    memory = flat_memory((0, 1 << 20))
    driver = SplitDriver(memory, 16)
    queue = Queue(memory, QueueLayout(*driver.layout))
    token = driver.add([b"request"], [512])
    ...                                     # the device serves the queue
    [used] = driver.collect()

:class:`SplitDriver` and :class:`PackedDriver` share the interface of :class:`QueueDriver`, and each
adds raw access to its rings for drivers that misbehave.
"""

from virtio.testing.arena import Arena, flat_memory
from virtio.testing.bench import Bench
from virtio.testing.driver import (
    POISON,
    QueueDriver,
    QueueFull,
    RingLayout,
    Segment,
    Used,
)
from virtio.testing.loop import ManualLoop, ManualTimer
from virtio.testing.packed import PackedDriver
from virtio.testing.split import SplitDriver

__all__ = [
    "POISON",
    "Arena",
    "Bench",
    "ManualLoop",
    "ManualTimer",
    "PackedDriver",
    "QueueDriver",
    "QueueFull",
    "RingLayout",
    "Segment",
    "SplitDriver",
    "Used",
    "flat_memory",
]
