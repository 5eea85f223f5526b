"""The queues of a device on its transport: how they come and go, are saved, and are described.

VIRTIO 1.4 "Virtqueue Configuration", "Virtqueue Reset".
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic_ns

from transport.interrupts import Interrupts
from transport.queue_registers import QueueRegisters
from transport.queue_runner import QueueRunner
from transport.runner import DeviceRunner
from transport.state import SavedQueue
from transport.tap import DeviceTap
from virtio.device.lifecycle import VirtioDevice
from virtio.memory import GuestMemory
from virtio.named_tuple import NamedTuple
from virtio.virtqueue.queue import Queue


class QueuePosition(NamedTuple):
    """Where a queue is: see :meth:`DeviceQueues.positions`.

    ``available`` tells whether the driver made something available that was not taken yet.
    """

    queue: int
    ready: bool
    kicks: int
    next_avail: int
    available: bool


class DeviceQueues:
    """Joins what the driver configured, ``registers``, with what serves it, ``runner``.

    ``used`` tells the driver of used buffers in the queue of an index. ``poll_ns`` is for how long
    a device that has one queue may wait for a request on the processor. The caller of a method
    holds the work lock, and keeps others from writing ``registers``.
    """

    def __init__(
        self,
        device: VirtioDevice,
        registers: Sequence[QueueRegisters],
        runner: DeviceRunner,
        used: Callable[[int], None],
        poll_ns: int,
    ) -> None:
        self._device = device
        self._registers = registers
        self._runner = runner
        self._used = used
        self._poll_ns = poll_ns
        self._tap: DeviceTap | None = None

    def find(self) -> None:
        """Ask the device which queues it has under the features that are accepted now."""
        for registers in self._registers:
            registers.set_max_size(self._device.queue_max_size(registers.index))

    def install(self, queue: Queue) -> None:
        """Let a new queue be served, and the device have it if the device is live."""
        one = self._runner.queues[queue.index]
        one.queue = self._connected(queue)
        if self._runner.live:
            self._runner.guard(None, self._device.enable_queue, queue.index, queue)
            one.serve_again()

    def remove(self, index: int) -> None:
        """Have the device let go of a queue if there is one, and cut the queue off its rings."""
        one = self._runner.queues[index]
        if self._runner.live and one.queue is not None:
            self._runner.guard(None, self._device.disable_queue, index)
        one.stop()

    def watch(self, tap: DeviceTap | None, interrupts: Interrupts) -> None:
        """Tell ``tap`` of the chains of all queues, and of interrupts; or nobody any more."""
        self._tap = tap
        self._used = interrupts.used if tap is None else _tapped_used(interrupts, tap)
        for one in self._runner.queues:
            if one.queue is not None:
                one.queue.watch(None)
                self._connected(one.queue)

    def state(self) -> tuple[SavedQueue, ...]:
        """Return all queues as plain values."""
        return tuple(
            SavedQueue(registers.state(), None if one.queue is None else one.queue.state())
            for registers, one in zip(self._registers, self._runner.queues, strict=True)
        )

    def restore(self, states: tuple[SavedQueue, ...], memory: GuestMemory) -> None:
        """Restore what :meth:`state` returned.

        Raises :class:`ConfigurationError` for a queue that there cannot be.
        """
        everything = zip(self._registers, self._runner.queues, states, strict=True)
        for registers, one, saved in everything:
            registers.restore(saved.registers)
            if saved.queue is not None:
                one.queue = self._connected(registers.reopen(memory, saved.queue))

    def positions(self) -> list[QueuePosition]:
        """Return where each queue is that there is; one that cannot be told is at 0."""
        found = []
        for registers, one in zip(self._registers, self._runner.queues, strict=True):
            position, available = 0, False
            with suppress(Exception):  # a ring that a driver broke
                if one.queue is not None:
                    position, available = one.queue.next_avail, one.queue.has_available()
            if registers.max_size:
                place = QueuePosition(
                    registers.index, registers.ready, one.kicks, position, available
                )
                found.append(place)
        return found

    def describe(self) -> list[str]:
        """Return a line about each queue that was used, and one about the others."""
        pairs = zip(self._registers, self._runner.queues, strict=True)
        lines = [f"  {line}" for pair in pairs if (line := _describe(*pair))]
        if untouched := len(self._registers) - len(lines):
            lines.append(f"  not used yet: {untouched} of {len(self._registers)} queues")
        return lines

    def _connected(self, queue: Queue) -> Queue:
        queue.interrupt = partial(self._used, queue.index)
        if sum(one.max_size > 0 for one in self._registers) == 1:  # else the others would wait, too
            queue.poll_ns = self._poll_ns
        if self._tap is not None:
            queue.watch(self._tap.watcher(queue.index))
        return queue


def _tapped_used(interrupts: Interrupts, tap: DeviceTap) -> Callable[[int], None]:
    """Return what tells the driver of used buffers, and ``tap`` unless it is dropped."""

    def used(queue: int) -> None:
        count, now = interrupts.used_count, monotonic_ns()  # the driver may react at once
        interrupts.used(queue)
        if interrupts.used_count != count:
            tap.interrupt(queue, now)

    return used


def _describe(registers: QueueRegisters, one: QueueRunner) -> str:
    """Return a line about a queue; an empty one when it is enabled and was never used."""
    if not registers.ready:
        return registers.describe()
    return "" if one.is_untouched else f"{registers.describe()}, {one.describe()}"
