"""The virtio specification, device side: queues, chains, devices and their life cycle.

VIRTIO 1.4. Items such as ``SPL-33`` are the requirements of that document, numbered; the table of
them is ``tests/spec/CONFORMANCE.md``, with the tests of each. Nothing here knows of KVM, of
transports, or of files on disk. The names below are imported when they are first used: who needs
one device does not load the others.
"""

from typing import TYPE_CHECKING

from virtio.lazy import lazy_names

if TYPE_CHECKING:
    from virtio.balloon import Balloon as Balloon
    from virtio.balloon import BalloonStatistics as BalloonStatistics
    from virtio.block import Block as Block
    from virtio.block import BlockBackend as BlockBackend
    from virtio.console import Console as Console
    from virtio.console import ConsolePort as ConsolePort
    from virtio.device.configuration import feature as feature
    from virtio.device.configuration import field as field
    from virtio.device.declaration import Device as Device
    from virtio.device.handlers import queue as queue
    from virtio.device.lifecycle import Activation as Activation
    from virtio.device.lifecycle import EventLoop as EventLoop
    from virtio.device.lifecycle import VirtioDevice as VirtioDevice
    from virtio.entropy import Entropy as Entropy
    from virtio.errors import ConfigurationError as ConfigurationError
    from virtio.errors import DriverError as DriverError
    from virtio.errors import Error as Error
    from virtio.errors import HostError as HostError
    from virtio.errors import InternalError as InternalError
    from virtio.fs import FileSystem as FileSystem
    from virtio.fs import Fs as Fs
    from virtio.memory import FlatMemory as FlatMemory
    from virtio.memory import GuestMemory as GuestMemory
    from virtio.memory import MemoryAccessError as MemoryAccessError
    from virtio.net import Net as Net
    from virtio.net import NetBackend as NetBackend
    from virtio.virtqueue.batch import ChainBatch as ChainBatch
    from virtio.virtqueue.chain import DescriptorChain as DescriptorChain
    from virtio.virtqueue.queue import Queue as Queue
    from virtio.virtqueue.request import Request as Request
    from virtio.virtqueue.state import QueueLayout as QueueLayout
    from virtio.virtqueue.state import QueueState as QueueState
    from virtio.vsock import Vsock as Vsock
    from virtio.vsock import VsockConnection as VsockConnection
else:
    __getattr__, __all__ = lazy_names(
        __name__,
        {
            "balloon": "Balloon BalloonStatistics",
            "block": "Block BlockBackend",
            "console": "Console ConsolePort",
            "device.configuration": "feature field",
            "device.declaration": "Device",
            "device.handlers": "queue",
            "device.lifecycle": "Activation EventLoop VirtioDevice",
            "entropy": "Entropy",
            "errors": "ConfigurationError DriverError Error HostError InternalError",
            "fs": "FileSystem Fs",
            "memory": "FlatMemory GuestMemory MemoryAccessError",
            "net": "Net NetBackend",
            "virtqueue.batch": "ChainBatch",
            "virtqueue.chain": "DescriptorChain",
            "virtqueue.queue": "Queue",
            "virtqueue.request": "Request",
            "virtqueue.state": "QueueLayout QueueState",
            "vsock": "Vsock VsockConnection",
        },
    )
