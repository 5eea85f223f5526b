"""A device on the bench: live, with a driver at every queue, and with time that stands still.

bench = Bench(Entropy())
used = bench.request([], [512])
assert used.length == 512
"""

from collections.abc import Sequence
from functools import partial

from virtio.device.lifecycle import Activation, VirtioDevice
from virtio.memory import FlatMemory
from virtio.testing.arena import flat_memory
from virtio.testing.driver import QueueDriver, Used
from virtio.testing.loop import ManualLoop
from virtio.testing.packed import PackedDriver
from virtio.testing.split import SplitDriver
from virtio.virtqueue.queue import Queue
from virtio.virtqueue.state import QueueLayout


class Bench:
    """Takes a device through negotiation to DRIVER_OK, with a driver for each of its queues.

    ``features`` is the set to accept, by default all that is offered; ``queue_size`` bounds the
    size of the queues, ``memory_bytes`` is the guest's RAM. ``interrupts`` lists the indices of the
    queues that notified, in order; ``config_interrupts`` counts the others.
    """

    def __init__(
        self,
        device: VirtioDevice,
        features: int | None = None,
        *,
        queue_size: int = 256,
        memory_bytes: int = 16 << 20,
    ) -> None:
        self.device = device
        self.features = device.device_features if features is None else features
        self.memory: FlatMemory = flat_memory((0, memory_bytes))
        self.loop = ManualLoop()
        self.interrupts: list[int] = []
        self.config_interrupts = 0
        if not device.features_acceptable(self.features):
            raise ValueError(f"features {self.features:#x} are not acceptable")
        device.negotiated(self.features)
        self.drivers: list[QueueDriver] = []
        self.queues: list[Queue | None] = []
        for index in range(len(device.queue_max_sizes)):
            if device.queue_max_size(index):
                self._add_queue(index, min(queue_size, device.queue_max_size(index)))
        device.activate(self._activation(self.queues))

    def _add_queue(self, index: int, size: int) -> None:
        kind = PackedDriver if self.features >> 34 & 1 else SplitDriver
        share = (self.memory.regions[0][1] - 0x1000) // len(self.device.queue_max_sizes)
        driver = kind(
            self.memory,
            size,
            base=0x1000 + index * (share & ~0xFFF),
            event_idx=bool(self.features >> 29 & 1),
            indirect=bool(self.features >> 28 & 1),
        )
        queue = Queue(self.memory, QueueLayout(*driver.layout), self.features, index=index)
        queue.interrupt = partial(self.interrupts.append, index)
        self.drivers.append(driver)
        self.queues.append(queue)

    def _activation(self, queues: list[Queue | None]) -> Activation:
        return Activation(
            self.memory, self.features, queues, self._count_config_interrupt, self.loop
        )

    def _count_config_interrupt(self) -> None:
        self.config_interrupts += 1

    def serve(self) -> None:
        """Let the device handle all its queues until none has more."""
        while any(self.device.handle_queue(index) for index in range(len(self.queues))):
            pass

    def request(
        self, readable: Sequence[bytes] = (), writable: Sequence[int] = (), *, queue: int = 0
    ) -> Used:
        """Send one chain, serve, and return it; it must be the only one that comes back."""
        self.drivers[queue].add(readable, writable)
        self.serve()
        [used] = self.drivers[queue].collect()
        return used

    def disable_queue(self, index: int) -> None:
        """Take a queue from the device as a transport does."""
        queue = self.queues[index]
        self.device.disable_queue(index)
        if queue is not None:
            queue.reset()
        self.queues[index] = None

    def reset(self) -> None:
        """Reset the device as a transport does."""
        self.device.reset()
        for queue in self.queues:
            if queue is not None:
                queue.reset()
        self.loop.forget()

    def restore_into(self, device: VirtioDevice) -> None:
        """Save device and queues, and go on with them in another instance of the device."""
        state = self.device.state()
        saved = [queue.state() if queue is not None else None for queue in self.queues]
        self.reset()
        device.restore(state)
        self.device = device
        self.queues = [Queue.from_state(self.memory, one) if one else None for one in saved]
        for index, queue in enumerate(self.queues):
            if queue is not None:
                queue.interrupt = partial(self.interrupts.append, index)
                queue.enable_notification()
        device.activate(self._activation(self.queues))
