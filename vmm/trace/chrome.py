"""The Chrome trace event format: JSON that Perfetto and chrome://tracing open.

"Trace Event Format" of the Chromium project: an array of events, times in microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from vmm.trace.events import Event
from vmm.trace.timeline import Timeline, Track

END: Final = b"\n]\n"


class ChromeWriter:
    """Turns events into the records of one array; a group of tracks is a process."""

    def __init__(self) -> None:
        self._timeline = Timeline(self)
        self._records: list[dict[str, Any]] = []
        self._groups: dict[str, int] = {}
        self._tracks: dict[tuple[Track, int], tuple[int, int]] = {}
        self._seen: set[int] = set()
        self._first = True

    def header(self, *, again: bool) -> bytes:
        """Return the beginning of the array, or nothing where it goes on after another run."""
        self._first = not again
        return b"" if again else b"["

    def feed(self, events: Sequence[Event]) -> bytes:
        """Return the records of some events."""
        self._timeline.feed(events)
        return self._take()

    def end(self) -> bytes:
        """Return what is left, and the end of the array."""
        self._timeline.end()
        return self._take() + END

    def _take(self) -> bytes:
        records, self._records = self._records, []
        text = ""
        for one in records:
            text += "\n" if self._first else ",\n"
            text += json.dumps(one)
            self._first = False
        return text.encode()

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
        """Draw a slice; an arrow binds to the slice in which it begins and ends."""
        place = self._place(track, lane)
        common = {"pid": place[0], "tid": place[1], "name": name, "cat": track[0]}
        duration = (end - begin) / 1000
        self._records.append(
            {**common, "ph": "X", "ts": begin / 1000, "dur": duration, "args": dict(details)}
        )
        for flow in flows:
            phase = "t" if flow in self._seen else "s"
            self._seen.add(flow)
            self._records.append(
                {
                    **(common | {"name": "request", "cat": "flow"}),
                    "ph": phase,
                    "id": flow,
                    "ts": begin / 1000,
                    "bp": "e",
                }
            )

    def instant(self, track: Track, name: str, at: int, details: Mapping[str, str | int]) -> None:
        """Draw a moment."""
        process, thread = self._place(track, 0)
        self._records.append(
            {
                "pid": process,
                "tid": thread,
                "name": name,
                "cat": track[0],
                "ph": "i",
                "s": "t",
                "ts": at / 1000,
                "args": dict(details),
            }
        )

    def _place(self, track: Track, lane: int) -> tuple[int, int]:
        known = self._tracks.get((track, lane))
        if known is not None:
            return known
        group, name = track
        process = self._groups.get(group)
        if process is None:
            process = self._groups[group] = len(self._groups) + 1
            self._name("process_name", process, 0, group)
        place = process, len(self._tracks) + 1
        self._tracks[track, lane] = place
        self._name("thread_name", *place, f"{name} ({lane})" if lane else name)
        return place

    def _name(self, what: str, process: int, thread: int, name: str) -> None:
        self._records.append(
            {"ph": "M", "pid": process, "tid": thread, "name": what, "args": {"name": name}}
        )
