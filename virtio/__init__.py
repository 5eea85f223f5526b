"""The virtio specification, device side: queues, chains, devices and their life cycle.

VIRTIO 1.4. Nothing here knows of KVM, of transports, or of files on disk. The names below are
imported when they are first used: who needs one device does not load the others.
"""

from typing import TYPE_CHECKING

from virtio.lazy import lazy_names

if TYPE_CHECKING:
    from virtio.batch import ChainBatch
    from virtio.block import Block, BlockBackend
    from virtio.chain import DescriptorChain
    from virtio.configuration import feature, field
    from virtio.console import Console, ConsolePort
    from virtio.declarative import Device
    from virtio.device import Activation, EventLoop, VirtioDevice
    from virtio.entropy import Entropy
    from virtio.errors import ConfigurationError, DriverError, Error, HostError, InternalError
    from virtio.frame import Frame
    from virtio.memory import FlatMemory, GuestMemory, MemoryAccessError
    from virtio.queue_kind import queue
    from virtio.virtqueue import Queue, QueueLayout, QueueState

__all__ = [
    "Activation",
    "Block",
    "BlockBackend",
    "ChainBatch",
    "ConfigurationError",
    "Console",
    "ConsolePort",
    "DescriptorChain",
    "Device",
    "DriverError",
    "Entropy",
    "Error",
    "EventLoop",
    "FlatMemory",
    "Frame",
    "GuestMemory",
    "HostError",
    "InternalError",
    "MemoryAccessError",
    "Queue",
    "QueueLayout",
    "QueueState",
    "VirtioDevice",
    "feature",
    "field",
    "queue",
]

__getattr__ = lazy_names(
    __name__,
    {
        "batch": ("ChainBatch",),
        "block": ("Block", "BlockBackend"),
        "chain": ("DescriptorChain",),
        "configuration": ("feature", "field"),
        "console": ("Console", "ConsolePort"),
        "declarative": ("Device",),
        "device": ("Activation", "EventLoop", "VirtioDevice"),
        "entropy": ("Entropy",),
        "errors": ("ConfigurationError", "DriverError", "Error", "HostError", "InternalError"),
        "frame": ("Frame",),
        "memory": ("FlatMemory", "GuestMemory", "MemoryAccessError"),
        "queue_kind": ("queue",),
        "virtqueue": ("Queue", "QueueLayout", "QueueState"),
    },
)
