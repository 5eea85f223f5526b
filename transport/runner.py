"""The running of a device: all calls of device code, under one lock, and so that it cannot spread.

What device code raises goes to ``on_failure`` and no further. No register is known here.
"""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

from transport.device_loop import DeviceLoop
from transport.queue_runner import QueueRunner
from transport.tap import DeviceTap, tapped_handler
from virtio.device.lifecycle import Activation, EventLoop, VirtioDevice
from virtio.memory import GuestMemory

Result = TypeVar("Result")

# Why nothing touches guest memory once a reset has returned (COM-22)
#
# A driver that reads status 0 frees its rings and buffers. A byte that the device writes after that
# lands in memory that now belongs to somebody else in the guest. But the reset comes on a virtual
# CPU's thread, and meanwhile, on the thread that serves the device, a handler may be running; a
# callback of a timer or a descriptor may have left the event loop's tables and not have begun; the
# device may hold chains that it wants to complete later; and the host may be reading from a disk
# straight into a buffer of the guest.
#
# What does not work: to remove all watchers and timers, because a callback that is on its way is in
# no table any more. A flag that handlers look at, because they look and then go on. To have the
# loop's thread do the reset, because the virtual CPU would wait for a thread that may be waiting
# for the virtual CPUs, for a snapshot, or that has ended.
#
# What we do, in one hold of the work lock:
#
# 1. Take the lock: a handler that was running has returned.
# 2. ``hold``: ``live`` and the device's loop are off. A callback that is on its way takes the same
#    lock after us, and then finds them off.
# 3. The device's own ``reset``: it forgets what others do for it. None of them has a buffer of the
#    guest; virtio/device/calls.py tells how a disk that does not answer is dealt with.
# 4. ``stop``: each queue is reset. Views of its chains are released, so that a chain that comes
#    back later writes nothing, and ``interrupt`` is None, so that it signals nothing.
#
# The third step comes before the fourth, for memory must not be unmapped under a device's hands.
# A queue that is disabled or reset alone goes through the same: the lock, the device's
# ``disable_queue``, the queue's reset.
#
# What remains: a device that copied the address of a buffer has to forget it in its ``reset``; and
# a ``reset`` that does not return holds up the virtual CPU that asked for it, and no other.


class DeviceRunner:
    """Runs one device between its activation and the next stop.

    ``work`` is the work lock; the caller of a method holds it. ``live`` says whether the device may
    touch its queues, which are served by ``queues``, one for each of ``queue_count``. ``paused``
    says that it must not for a while, although it is live, and ``suspended`` that it failed and
    waits for somebody who mends it.
    """

    def __init__(
        self,
        device: VirtioDevice,
        queue_count: int,
        loop: EventLoop,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self.work = threading.Lock()
        self.live = False
        self.paused = False
        self.suspended = False
        self.queues: list[QueueRunner] = []
        self._device = device
        self._machine_loop = loop
        self._device_loop: DeviceLoop | None = None
        self._on_failure = on_failure
        self._tap: DeviceTap | None = None
        with ExitStack() as eventfds:
            for index in range(queue_count):
                queue = QueueRunner(index, device, self.work, on_failure)
                eventfds.callback(queue.close)
                self.queues.append(queue)
            self._eventfds = eventfds.pop_all()

    def start(self, memory: GuestMemory, features: int, notify_config: Callable[[], None]) -> None:
        """Activate the device, and have every queue looked at once (``COM-03``)."""
        self.suspended = False
        self._device_loop = DeviceLoop(self._machine_loop, self.work, self._on_failure)
        self._device_loop.pause(paused=self.paused)
        for one in self.queues:
            if one.on_unheard is not None and (early := one.drain()):
                one.on_unheard(early)
        self._set_live(live=True)
        queues = [one.queue for one in self.queues]
        activation = Activation(memory, features, queues, notify_config, self._device_loop)
        self.guard(None, self._device.activate, activation)
        for one in self.queues:
            one.handler = self._handler(one)
            one.serve_again()

    def _handler(self, one: QueueRunner) -> Callable[[], bool]:
        handler = self._device.queue_handler(one.index)
        return handler if self._tap is None else tapped_handler(one, handler, self._tap)

    def watch(self, tap: DeviceTap | None) -> None:
        """Tell ``tap`` of the driver's notifications from now on, or nobody any more."""
        self._tap = tap
        for one in self.queues:
            one.on_unheard = None if tap is None else partial(self._unheard, tap, one.index)
            if self.live:
                one.handler = self._handler(one)

    def _unheard(self, tap: DeviceTap, queue: int, count: int) -> None:
        waits = self.paused or self.suspended  # and looks at all queues when it goes on
        if not waits:
            tap.unheard(queue, count)

    def pause(self, *, paused: bool) -> None:
        """Keep the device from its queues, or let it go on with all that came meanwhile.

        Also callbacks of the device wait, as they may complete what it took from a queue.
        """
        self.paused = paused
        self._let_work()

    def suspend(self) -> None:
        """Keep a device that failed from its queues, with all its chains, until it is stopped."""
        self.suspended = True
        self._let_work()

    def _let_work(self) -> None:
        self._set_live(live=self.live)
        if self._device_loop is not None:
            self._device_loop.pause(paused=self.paused or self.suspended)
        for one in self.queues:
            one.serve_again()

    def hold(self) -> None:
        """Call the device no more, neither for its queues nor from the loop."""
        self._set_live(live=False)
        if self._device_loop is not None:
            self._device_loop.close()

    def stop(self) -> None:
        """Call the device no more, and cut all queues off their rings."""
        self.hold()
        for one in self.queues:
            one.stop()

    def close(self) -> None:
        """Close the eventfds of a stopped device."""
        self._eventfds.close()

    def guard(self, otherwise: Result, call: Callable[..., Result], *arguments: object) -> Result:
        """Return what ``call`` returns, or ``otherwise`` when it fails."""
        try:
            return call(*arguments)
        except Exception as error:
            self._on_failure(error)
            return otherwise

    def _set_live(self, *, live: bool) -> None:
        self.live = live
        for one in self.queues:
            one.live = live and not self.paused and not self.suspended
