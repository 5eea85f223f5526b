"""A trace as a timeline: tracks with slices and arrows between them, for Perfetto.

There is a track for each vCPU with the time that it was out of the guest, one for each device with
the steps of its life, its notifications and interrupts, and one for each queue with its requests.
Requests of a queue that are under way at the same time have tracks beside each other. An arrow
leads from a notification to the first request that it told of, and from each to its interrupt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from vmm.trace.events import (
    Access,
    Command,
    Completed,
    Event,
    Exit,
    Interrupt,
    Kick,
    Milestone,
    Snapshot,
    Taken,
)
from vmm.trace.requests import Request, Requests

Track = tuple[str, str]
"""A group of tracks, and the name of one in it."""

MARK_NS = 1000
"""How long a notification or an interrupt is shown: arrows need slices to begin and end at."""

MACHINE, VCPUS = "machine", "vCPUs"


class Drawing(Protocol):
    """What draws: times in nanoseconds; ``flows`` are the numbers of arrows through a slice."""

    def slice(
        self,
        track: Track,
        lane: int,
        name: str,
        begin: int,
        end: int,
        details: Mapping[str, str | int],
        flows: Sequence[int] = (),
    ) -> None:
        """Draw a slice in a lane of a track, which it has for itself."""

    def instant(self, track: Track, name: str, at: int, details: Mapping[str, str | int]) -> None:
        """Draw a moment."""


class Timeline:
    """Draws events; :meth:`end` draws what was kept."""

    def __init__(self, drawing: Drawing) -> None:
        self._drawing = drawing
        self._requests = Requests()
        self._lanes: dict[tuple[str, int], list[int]] = {}
        self._commands: dict[int, Command] = {}
        self._kicks: dict[tuple[str, int], Kick] = {}
        self._told: dict[tuple[str, int], list[int]] = {}
        self._flows = 0

    def feed(self, events: Sequence[Event]) -> None:
        """Draw some events, in the order of time."""
        for event in events:
            self._draw(event)

    def end(self) -> None:
        """Draw what waits for an end that does not come."""
        for request in self._requests.rest():
            self._draw_request(request)
        for kick in self._kicks.values():
            self._mark(kick, "kick", ())
        self._kicks.clear()

    def _draw(self, event: Event) -> None:
        if isinstance(event, Exit):
            self._draw_exit(event)
        elif isinstance(event, Command):
            self._draw_command(event)
        elif isinstance(event, Snapshot):
            end = event.at + event.duration
            self._drawing.slice((MACHINE, "snapshots"), 0, "snapshot", event.at, end, {})
        elif isinstance(event, Milestone):
            self._drawing.instant((MACHINE, "boot"), event.what, event.at, {})
        elif isinstance(event, Kick | Taken | Completed | Interrupt):
            self._draw_step(event)
        else:
            track = (event.device, "life") if event.device else (MACHINE, "trace")
            name = f"{event.kind} {event.details}".strip()
            self._drawing.instant(track, name, event.at, {"thread": event.thread})
            for request in self._requests.see(event):
                self._draw_request(request)

    def _draw_exit(self, event: Exit) -> None:
        details: dict[str, str | int] = {"reason": event.reason}
        name = event.reason
        if isinstance(event, Access):
            name = f"{event.device or event.kind} {event.details}"
            details |= {"address": hex(event.address), "value": hex(event.value)}
        end = event.at + event.duration
        self._drawing.slice((VCPUS, event.thread), 0, name, event.at, end, details)

    def _draw_command(self, event: Command) -> None:
        if event.step != "done":
            self._commands[event.number] = event
            return
        begin = self._commands.pop(event.number, None)
        if begin is not None:
            lane = self._lane(("agent", 0), begin.at, event.at)
            name = f"{begin.step} {begin.what}".strip()
            self._drawing.slice((MACHINE, "agent"), lane, name, begin.at, event.at, {})

    def _draw_step(self, event: Kick | Taken | Completed | Interrupt) -> None:
        key = event.device, event.queue
        if isinstance(event, Kick):
            before = self._kicks.pop(key, None)
            if before is not None:  # which told of nothing new
                self._mark(before, "kick", ())
            self._kicks[key] = event
        ended = list(self._requests.see(event))
        flows = []
        for request in ended:
            flows.append(self._draw_request(request))
        if isinstance(event, Interrupt):
            self._mark(event, "interrupt", flows)

    def _draw_request(self, request: Request) -> int:
        taken = request.taken
        self._flows += 1
        flow = self._flows
        key = taken.device, taken.queue
        kick = self._kicks.get(key)
        if kick is not None and kick.at == request.kick:
            del self._kicks[key]
            self._mark(kick, "kick", (flow,))
        lane = self._lane(key, request.begin, request.end)
        track = taken.device, f"queue {taken.queue}"
        details: dict[str, str | int] = {
            "chain": taken.id,
            "descriptors": taken.details,
            "readable": taken.readable,
            "writable": taken.writable,
            "written": request.length,
            "thread": taken.thread,
        }
        name = f"{taken.request or 'request'} {taken.what}".strip()
        self._drawing.slice(track, lane, name, request.begin, request.end, details, (flow,))
        self._drawing.slice(track, lane, "device", taken.at, request.completed, {})
        return flow

    def _mark(self, event: Kick | Interrupt, name: str, flows: Sequence[int]) -> None:
        track = event.device, f"{name}s"
        end = event.at + MARK_NS
        lane = self._lane((f"{event.device} {name}", 0), event.at, end)
        self._drawing.slice(track, lane, f"{name} {event.queue}", event.at, end, {}, flows)

    def _lane(self, key: tuple[str, int], begin: int, end: int) -> int:
        """Return the first lane that is free from ``begin`` on, and take it up to ``end``."""
        lanes = self._lanes.setdefault(key, [])
        for number, busy_until in enumerate(lanes):
            if busy_until <= begin:
                lanes[number] = end
                return number
        lanes.append(end)
        return len(lanes) - 1
