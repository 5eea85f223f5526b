"""The virtio specification, device side: queues, chains, devices and their life cycle.

VIRTIO 1.4. Nothing here knows of KVM, of transports, or of files on disk.
"""

from virtio.batch import ChainBatch
from virtio.block import Block, BlockBackend
from virtio.chain import DescriptorChain
from virtio.configuration import feature, field
from virtio.console import Console, ConsolePort
from virtio.declarative import Device
from virtio.device import Activation, EventLoop, VirtioDevice
from virtio.entropy import Entropy
from virtio.errors import ConfigurationError, DriverError, Error, HostError, InternalError
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
