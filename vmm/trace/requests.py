"""Requests: from the driver's notification, over the chain, to the interrupt that tells it is done.

The chain of a request is known by its id as long as it is out; which notification it came with, and
which interrupt told of it, is seen from the order of events.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from vmm.trace.events import (
    Completed,
    Event,
    Interrupt,
    Kick,
    QueueEnabled,
    Reset,
    Taken,
)

TOLD_NS = 1_000_000
"""How long after its completion an interrupt may come that still is the one of a request."""

MOST_UNTOLD = 4096


@dataclass(slots=True)
class Request:
    """One request: ``kick`` and ``interrupt`` are the times of those, or 0 where there was none."""

    taken: Taken
    kick: int = 0
    completed: int = 0
    length: int = 0
    interrupt: int = 0

    @property
    def begin(self) -> int:
        """When the device heard of it."""
        return self.kick or self.taken.at

    @property
    def end(self) -> int:
        """When the driver heard that it is done; or could see it, where nobody told."""
        return self.interrupt or self.completed


@dataclass(slots=True)
class _Queue:
    kick: int = 0
    out: dict[int, Request] = field(default_factory=dict)
    untold: list[Request] = field(default_factory=list)


class Requests:
    """Finds the requests in events: :meth:`see` returns those that an event ends."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, int], _Queue] = {}

    def see(self, event: Event) -> Iterator[Request]:
        """Take the next event, and return the requests that are over with it."""
        if isinstance(event, Reset):
            for (device, _), queue in self._queues.items():
                if device == event.device:
                    yield from self._end(queue)
            return
        queue = self._queues.setdefault((event.device, event.queue), _Queue())
        if isinstance(event, Kick):
            queue.kick = event.at
        elif isinstance(event, Taken):
            # Those that were added while the device was at work came with no notification.
            request = Request(event, queue.kick)
            queue.kick = 0
            queue.out[event.id] = request
        elif isinstance(event, Completed):
            done = queue.out.pop(event.id, None)
            if done is not None:
                done.completed, done.length = event.at, event.length
                queue.untold.append(done)
                if len(queue.untold) > MOST_UNTOLD:
                    yield queue.untold.pop(0)
        elif isinstance(event, Interrupt):
            for one in queue.untold:
                if event.at - one.completed <= TOLD_NS:
                    one.interrupt = event.at
            yield from self._tell(queue)
        elif isinstance(event, QueueEnabled):
            yield from self._end(queue)

    def rest(self) -> Iterator[Request]:
        """Return the requests that were completed, and of which no interrupt told."""
        for queue in self._queues.values():
            yield from self._tell(queue)

    def _end(self, queue: _Queue) -> Iterator[Request]:
        queue.kick = 0
        queue.out.clear()
        yield from self._tell(queue)

    @staticmethod
    def _tell(queue: _Queue) -> Iterator[Request]:
        told, queue.untold = queue.untold, []
        yield from told
