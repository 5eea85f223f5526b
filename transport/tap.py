"""Hearing what a transport does, for a trace: a tap is set and taken away while the device lives.

Steps in the life of a device are told where they happen. On the way of a request nothing asks
whether somebody listens: there a tap takes the place of what is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from transport.queue_runner import QueueRunner
    from virtio.virtqueue.watched import RingWatcher


class DeviceTap(Protocol):
    """Who hears of one device; from any thread, with locks of the transport held: be quick."""

    def status(self, before: int, after: int) -> None:
        """The device status has a new bit."""

    def features(self, offered: int, accepted: int, *, taken: bool) -> None:
        """The driver set FEATURES_OK; ``taken`` says whether the device agreed."""

    def reset(self) -> None:
        """The device is about to be reset."""

    def queue(self, index: int, size: int) -> None:
        """A queue was enabled with a size, or disabled, with 0."""

    def kick(self, queue: int, count: int) -> None:
        """The device hears of that many notifications of a queue."""

    def unheard(self, queue: int, count: int) -> None:
        """That many notifications were dropped, as the device does not serve the queue."""

    def interrupt(self, queue: int, at: int) -> None:
        """The driver was told of used buffers; ``at`` is by ``time.monotonic_ns``."""

    def message(self, vector: int, address: int, data: int) -> None:
        """A message of MSI-X is about to be sent."""

    def configuration(self) -> None:
        """The driver is about to be told that the configuration or the status changed."""

    def dropped(self, what: str) -> None:
        """The driver did something that had no effect."""

    def failed(self, error: Exception) -> None:
        """The driver broke a rule, or the device failed; it needs a reset."""

    def watcher(self, queue: int) -> RingWatcher:
        """Return who hears of the chains of a queue."""


def tapped_handler(
    one: QueueRunner, handler: Callable[[], bool], tap: DeviceTap
) -> Callable[[], bool]:
    """Return a handler that tells of the driver's notifications first."""
    heard = one.kicks

    def handle() -> bool:
        nonlocal heard
        if (kicks := one.kicks) != heard:
            tap.kick(one.index, kicks - heard)
            heard = kicks
        return handler()

    return handle
