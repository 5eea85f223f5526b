"""A queue as the driver sets it up through registers: size, addresses, enabled or not.

VIRTIO 1.4 "Virtqueue Configuration".
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final, Literal, NamedTuple

from transport.notify import NotifyEvent
from virtio.errors import ConfigurationError, DriverError
from virtio.memory import GuestMemory
from virtio.saved import U32, U64
from virtio.virtqueue.queue import MAX_QUEUE_SIZE, Queue, QueueLayout, QueueState

Area = Literal["descriptor_area", "driver_area", "device_area"]

WORD: Final = 0xFFFF_FFFF

_log = logging.getLogger(__name__)


class QueueSlotState(NamedTuple):
    """The registers of one queue, and its position when it was live."""

    size: U32
    descriptor_area: U64
    driver_area: U64
    device_area: U64
    ready: bool
    queue: QueueState | None


class QueueSlot:
    """The registers of one queue index, its notifications, and the live queue behind them.

    ``max_size`` is QueueSizeMax, 0 while there is no such queue. ``queue`` is there while ``ready``
    is set, until the device is stopped. ``resetting`` is what QueueReset reads.
    """

    def __init__(self, index: int, event: NotifyEvent) -> None:
        self.index = index
        self.event = event
        self.max_size = 0
        self.queue: Queue | None = None
        self._last_seen = ""
        self._past_traffic = (0, 0, 0)
        self.set_defaults()

    def set_defaults(self) -> None:
        """Forget what the driver configured; the size starts out as the largest one."""
        self.ready = False
        self.resetting = False
        self.size = self.max_size
        self.descriptor_area = 0
        self.driver_area = 0
        self.device_area = 0

    def set_max_size(self, max_size: int) -> None:
        """Take QueueSizeMax under the features accepted by now."""
        if self.size == self.max_size:
            self.size = max_size
        self.max_size = max_size

    def set_size(self, size: int) -> None:
        """Store QueueSize; dropped while the queue is enabled (``MMIO-11``)."""
        if not self.ready:
            self.size = size

    def set_address(self, area: Area, shift: int, word: int) -> None:
        """Store half of an area's address: the low one (``shift`` 0) or the high one (32).

        Dropped while the queue is enabled (``MMIO-10``, ``MMIO-11``).
        """
        if not self.ready:
            other_half = getattr(self, area) & WORD << (32 - shift)
            setattr(self, area, other_half | word << shift)

    def open(self, memory: GuestMemory, features: int) -> Queue:
        """Return a new queue over the rings; :class:`DriverError` when there can be none."""
        if not 1 <= self.size <= self.max_size:
            message = f"QueueSize is {self.size}; 1 to {self.max_size} are allowed"
            raise DriverError("SPL-02", message, queue=self.index)
        layout = QueueLayout(self.size, self.descriptor_area, self.driver_area, self.device_area)
        return Queue(memory, layout, features, index=self.index)

    def stop(self) -> None:
        """Cut the queue off its rings for good; what it was is kept for :meth:`describe`."""
        if self.queue is not None:
            self._last_seen = f"stopped at {_positions(self.queue)}"
            self._past_traffic = self.traffic
            self.queue.interrupt = None
            self.queue.reset()
            self.queue = None

    @property
    def traffic(self) -> tuple[int, int, int]:
        """Chains handed back, bytes they offered, bytes written; of all queues that were here."""
        completed, read, written = self._past_traffic
        if self.queue is None:
            return completed, read, written
        return (
            completed + self.queue.completed,
            read + self.queue.bytes_read,
            written + self.queue.bytes_written,
        )

    def state(self) -> QueueSlotState:
        """Return the registers, and the queue if it is live, as a plain value."""
        return QueueSlotState(
            self.size,
            self.descriptor_area,
            self.driver_area,
            self.device_area,
            self.ready,
            None if self.queue is None else self.queue.state(),
        )

    def restore(self, state: QueueSlotState, memory: GuestMemory) -> None:
        """Take over a saved state; a live queue goes on where it was.

        Raises :class:`ConfigurationError` for a queue that cannot be.
        """
        self.size = state.size
        self.descriptor_area = state.descriptor_area
        self.driver_area = state.driver_area
        self.device_area = state.device_area
        self.ready = state.ready
        self.queue = None if state.queue is None else self._rebuild(state.queue, memory)

    def _rebuild(self, state: QueueState, memory: GuestMemory) -> Queue:
        if state.layout.size > self.max_size:
            raise ConfigurationError(
                f"saved queue {self.index}: size is {state.layout.size}, must be 1 to"
                f" {self.max_size}"
            )
        try:
            return Queue.from_state(memory, state)
        except DriverError as error:  # rings or chains that are not in this memory
            raise ConfigurationError(f"saved queue {self.index}: {error}") from None

    @property
    def is_untouched(self) -> bool:
        """Whether the driver has enabled the queue and nobody has used it yet."""
        try:
            queue = self.queue
            return queue is not None and queue.state().next_avail == 0 and not queue.has_available()
        except Exception as error:
            _log.debug("queue %d cannot be looked at: %r", self.index, error)
            return False

    def describe(self) -> str:
        """Return one line about the queue for a person to read."""
        line = f"queue {self.index}: size {self.size} of {self.max_size}"
        if not self.ready:
            return f"{line}, not ready"
        return f"{line}, ready, {self._last_seen if self.queue is None else _positions(self.queue)}"


def make_slots(max_sizes: Sequence[int], files: ExitStack) -> list[QueueSlot]:
    """Return a slot for each queue of a device; ``files`` closes their eventfds.

    Raises :class:`ConfigurationError` for a largest size that no queue can have (``MMIO-09``).
    """
    slots = []
    for index, max_size in enumerate(max_sizes):
        if not 1 <= max_size <= MAX_QUEUE_SIZE or max_size & (max_size - 1):
            raise ConfigurationError(
                f"queue {index}: the largest size is {max_size}; a power of two from 1 to"
                f" {MAX_QUEUE_SIZE} is allowed"
            )
        event = NotifyEvent()
        files.callback(event.close)
        slots.append(QueueSlot(index, event))
    return slots


def _positions(queue: Queue) -> str:
    """Return where a queue is; never raises, as a queue that failed is described for that."""
    try:
        state = queue.state()
        more = ", more available" if queue.has_available() else ""
    except Exception as error:
        return f"at positions that cannot be told: {error!r}"
    return (
        f"next available {state.next_avail}, next used {state.next_used},"
        f" {len(state.outstanding)} outstanding{more}"
    )
