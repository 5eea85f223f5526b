"""Serving one queue of a device: the eventfd that calls for it, and the call of the device.

VIRTIO 1.4 "Available Buffer Notifications"; eventfd(2).
"""

import os
import threading
from collections.abc import Callable
from functools import partial

from virtio.device.lifecycle import VirtioDevice
from virtio.errors import HostError
from virtio.log import Logger
from virtio.virtqueue.queue import Queue

_log = Logger(__name__)


class QueueRunner:
    """Calls the device for the queue at ``index`` when somebody added to ``notify_fd``, an eventfd.

    The driver adds to it, by KVM's hand or through a register, and so does the device for what is
    left of a burst; ``kicks`` counts the former. ``queue`` is what the driver enabled, and the
    device is called, by ``handler``, only while ``live`` is set as well. ``work`` is the device's
    work lock: the caller of a method holds it unless the method says otherwise. ``on_failure`` gets
    what device code raised. Raises :class:`HostError` when there is no descriptor left.
    """

    __slots__ = (
        "_last_seen",
        "_on_failure",
        "_own",
        "_past_traffic",
        "_work",
        "handler",
        "index",
        "kicks",
        "live",
        "notify_fd",
        "on_unheard",
        "queue",
    )

    def __init__(
        self,
        index: int,
        device: VirtioDevice,
        work: threading.Lock,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self.index = index
        self.queue: Queue | None = None
        self.live = False
        self.kicks = 0
        self.on_unheard: Callable[[int], None] | None = None
        self._own = 0
        self.handler: Callable[[], bool] = partial(device.handle_queue, index)
        self._work = work
        self._on_failure = on_failure
        self._last_seen = ""
        self._past_traffic = (0, 0, 0)
        try:
            self.notify_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as error:
            raise HostError("eventfd", error.errno or 0, "a queue's notification") from error

    def serve(self) -> bool:
        """Serve a burst if there was a notification; takes the work lock, and never raises.

        The event loop's callback. When the device may have left something the queue notifies
        itself, so that others have their turn first (``SPL-23``). Returns whether there was a
        notification, served or dropped (``MMIO-18``).
        """
        # The path of every request: one method, and nothing called but the device.
        with self._work:
            try:
                count = os.eventfd_read(self.notify_fd)
            except (BlockingIOError, ValueError):  # called in vain, or closed: then it is -1
                return False
            own, self._own = self._own, 0
            self.kicks += count - own
            if self.live and self.queue is not None:
                try:
                    if self.handler():
                        self.serve_again()
                except Exception as error:
                    self._on_failure(error)
            elif self.on_unheard is not None and count > own:
                self.on_unheard(count - own)
            return True

    def drain(self) -> int:
        """Take what notifications wait, and return how many of them are the driver's."""
        try:
            count = os.eventfd_read(self.notify_fd)
        except (BlockingIOError, ValueError):
            return 0
        own, self._own = self._own, 0
        self.kicks += count - own
        return count - own

    def notify(self) -> bool:
        """Take a notification that came through a register; without any lock, returns at once.

        Returns whether the queue is live; nothing happens if not.
        """
        if not self.live or self.queue is None:
            return False
        os.eventfd_write(self.notify_fd, 1)
        return True

    def serve_again(self) -> None:
        """Have the queue served soon without a notification of the driver's, if it is live."""
        if self.live and self.queue is not None:
            self._own += 1
            os.eventfd_write(self.notify_fd, 1)

    def stop(self) -> None:
        """Cut the queue off its rings for good; :meth:`describe` still tells its positions."""
        if self.on_unheard is not None:
            self.drain()  # lest what was in time be taken for too early a notification of the next
        if self.queue is not None:
            self._last_seen = f"stopped at {_positions(self.queue)}"
            self._past_traffic = self.traffic
            self.queue.interrupt = None
            self.queue.reset()
            self.queue = None

    def close(self) -> None:
        """Close the eventfd; :meth:`serve` finds no notification from then on."""
        os.close(self.notify_fd)
        self.notify_fd = -1

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

    @property
    def is_untouched(self) -> bool:
        """Whether the driver enabled the queue and nobody has used it yet."""
        try:
            queue = self.queue
            return queue is not None and queue.next_avail == 0 and not queue.has_available()
        except Exception as error:
            _log.debug("queue %d cannot be looked at: %r", self.index, error)
            return False

    def describe(self) -> str:
        """Return where the queue is in its rings, or was when it was stopped."""
        return self._last_seen if self.queue is None else _positions(self.queue)


def _positions(queue: Queue) -> str:
    """Return where a queue is; never raises, as a queue that failed is described for that."""
    try:
        more = ", more available" if queue.has_available() else ""
    except Exception as error:
        return f"at positions that cannot be told: {error!r}"
    return (
        f"next available {queue.next_avail}, next used {queue.next_used},"
        f" {queue.outstanding_count} outstanding{more}"
    )
