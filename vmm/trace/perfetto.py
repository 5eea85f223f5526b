"""Perfetto's own format: packets of track events. Perfetto "TracePacket reference".

Only the few fields that a timeline needs are written; their numbers are those of
``protos/perfetto/trace`` of the Perfetto project.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final

from vmm.trace.events import Event
from vmm.trace.protobuf import fixed64, message, number, text
from vmm.trace.timeline import Timeline, Track

_SLICE_BEGIN: Final = 1
_SLICE_END: Final = 2
_INSTANT: Final = 3
_STATE_CLEARED: Final = 1  # SEQ_INCREMENTAL_STATE_CLEARED


class PerfettoWriter:
    """Turns events into packets; tracks of one name in a group are shown as one."""

    def __init__(self) -> None:
        self._timeline = Timeline(self)
        self._packets: list[bytes] = []
        self._tracks: dict[tuple[Track, int], int] = {}
        self._groups: dict[str, int] = {}
        # Another run in the same file has other tracks, and numbers its arrows anew.
        self._salt = int.from_bytes(os.urandom(4), "little") << 32
        self._sequence = (self._salt >> 32 & 0x7FFF_FFFF) | 1

    def header(self, *, again: bool) -> bytes:
        """Return the first packet."""
        packet = number(10, self._sequence) + number(13, _STATE_CLEARED)
        return message(1, packet)

    def feed(self, events: Sequence[Event]) -> bytes:
        """Return the packets of some events."""
        self._timeline.feed(events)
        return self._take()

    def end(self) -> bytes:
        """Return the packets of what was kept."""
        self._timeline.end()
        return self._take()

    def _take(self) -> bytes:
        packets, self._packets = self._packets, []
        return b"".join(packets)

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
        """Draw a slice: its beginning and its end are packets."""
        uuid = self._track(track, lane)
        event = text(23, name) + text(22, track[0]) + _annotations(details)
        event += b"".join(fixed64(47, self._salt | flow) for flow in flows)
        self._event(begin, uuid, _SLICE_BEGIN, event)
        self._event(end, uuid, _SLICE_END, b"")

    def instant(self, track: Track, name: str, at: int, details: Mapping[str, str | int]) -> None:
        """Draw a moment."""
        event = text(23, name) + text(22, track[0]) + _annotations(details)
        self._event(at, self._track(track, 0), _INSTANT, event)

    def _event(self, at: int, uuid: int, kind: int, more: bytes) -> None:
        event = number(9, kind) + number(11, uuid) + more
        self._packet(number(8, at) + message(11, event))

    def _packet(self, data: bytes) -> None:
        self._packets.append(message(1, number(10, self._sequence) + data))

    def _track(self, track: Track, lane: int) -> int:
        known = self._tracks.get((track, lane))
        if known is not None:
            return known
        group, name = track
        parent = self._groups.get(group)
        if parent is None:
            parent = self._groups[group] = self._salt | 0x8000_0000 | len(self._groups) + 1
            self._describe(number(1, parent) + text(2, group))
        uuid = self._tracks[track, lane] = self._salt | len(self._tracks) + 1
        self._describe(number(1, uuid) + number(5, parent) + text(2, name))
        return uuid

    def _describe(self, descriptor: bytes) -> None:
        self._packet(message(60, descriptor))


def _annotations(details: Mapping[str, str | int]) -> bytes:
    return b"".join(
        message(4, text(10, name) + (text(6, one) if isinstance(one, str) else number(4, one)))
        for name, one in details.items()
    )
