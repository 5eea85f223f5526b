"""The virtio specification, device side: queues, chains, devices and their life cycle.

VIRTIO 1.4. Nothing here knows of KVM, of transports, or of files on disk. The names below are
imported when they are first used: who needs one device does not load the others.
"""

from typing import TYPE_CHECKING

from virtio.lazy import lazy_names

if TYPE_CHECKING:
    from virtio.block import Block, BlockBackend
    from virtio.console import Console, ConsolePort
    from virtio.device.configuration import feature, field
    from virtio.device.declaration import Device
    from virtio.device.handlers import queue
    from virtio.device.lifecycle import Activation, EventLoop, VirtioDevice
    from virtio.entropy import Entropy
    from virtio.errors import ConfigurationError, DriverError, Error, HostError, InternalError
    from virtio.memory import FlatMemory, GuestMemory, MemoryAccessError
    from virtio.virtqueue.batch import ChainBatch
    from virtio.virtqueue.chain import DescriptorChain
    from virtio.virtqueue.queue import Queue, QueueLayout, QueueState
    from virtio.virtqueue.request import Request

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
    "GuestMemory",
    "HostError",
    "InternalError",
    "MemoryAccessError",
    "Queue",
    "QueueLayout",
    "QueueState",
    "Request",
    "VirtioDevice",
    "feature",
    "field",
    "queue",
]

__getattr__ = lazy_names(
    __name__,
    {
        "virtqueue.batch": ("ChainBatch",),
        "block": ("Block", "BlockBackend"),
        "virtqueue.chain": ("DescriptorChain",),
        "device.configuration": ("feature", "field"),
        "console": ("Console", "ConsolePort"),
        "device.declaration": ("Device",),
        "device.lifecycle": ("Activation", "EventLoop", "VirtioDevice"),
        "entropy": ("Entropy",),
        "errors": ("ConfigurationError", "DriverError", "Error", "HostError", "InternalError"),
        "virtqueue.request": ("Request",),
        "memory": ("FlatMemory", "GuestMemory", "MemoryAccessError"),
        "device.handlers": ("queue",),
        "virtqueue.queue": ("Queue", "QueueLayout", "QueueState"),
    },
)
