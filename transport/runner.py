"""The one place that runs device code: under the work lock, and so that only the device can break.

A handler, a callback, a reset and a queue that goes away never meet: each holds the work lock.
"""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from transport.device_loop import DeviceLoop
from transport.queue_slot import QueueSlot
from transport.stats import TransportStats
from virtio.device.lifecycle import Activation, EventLoop, VirtioDevice
from virtio.memory import GuestMemory

Result = TypeVar("Result")


class DeviceRunner:
    """Runs one device between its activation and the next stop.

    ``work`` is the work lock; unless said otherwise the caller of a method holds it. ``live`` says
    whether the device may touch its queues. ``on_failure`` gets what device code raised.
    """

    def __init__(
        self,
        device: VirtioDevice,
        slots: Sequence[QueueSlot],
        loop: EventLoop,
        stats: TransportStats,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self.work = threading.Lock()
        self.live = False
        self._device = device
        self._slots = slots
        self._machine_loop = loop
        self._device_loop: DeviceLoop | None = None
        self._stats = stats
        self._on_failure = on_failure

    def start(self, memory: GuestMemory, features: int, notify_config: Callable[[], None]) -> None:
        """Activate the device, and have every queue looked at once (``COM-03``)."""
        self._device_loop = DeviceLoop(self._machine_loop, self.work, self._run_callback)
        self.live = True
        queues = [slot.queue for slot in self._slots]
        activation = Activation(memory, features, queues, notify_config, self._device_loop)
        self.guard(None, self._device.activate, activation)
        for slot in self._slots:
            self.serve_soon(slot)

    def hold(self) -> None:
        """Call the device no more, neither for its queues nor from the loop."""
        self.live = False
        if self._device_loop is not None:
            self._device_loop.close()

    def stop(self) -> None:
        """Do that, and leave all rings alone from here on."""
        self.hold()
        for slot in self._slots:
            slot.stop()

    def serve(self, slot: QueueSlot) -> bool:
        """Serve a queue for one burst if it was notified; takes the work lock by itself.

        With more left to do the queue notifies itself, so that others have their turn (``SPL-23``).
        Returns whether there was a notification, served or dropped (``MMIO-18``).
        """
        with self.work:
            pending, kicks = slot.event.take()
            self._stats.kicks += kicks
            if pending and self.live and slot.queue is not None:
                more = self.guard(False, self._device.handle_queue, slot.index)
                if more:
                    self.serve_soon(slot)
            return pending

    def serve_soon(self, slot: QueueSlot) -> None:
        """Have a queue looked at, without a notification of the driver's."""
        if self.live and slot.queue is not None:
            slot.event.signal_again()

    def guard(self, otherwise: Result, call: Callable[..., Result], *arguments: object) -> Result:
        """Return what ``call`` returns, or ``otherwise`` when it fails."""
        try:
            return call(*arguments)
        except Exception as error:
            self._on_failure(error)
            return otherwise

    def _run_callback(self, callback: Callable[[], object]) -> None:
        self.guard(None, callback)
