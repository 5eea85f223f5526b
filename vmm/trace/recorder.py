"""Keeps what the taps note until somebody reads it, and puts it into the order of time.

Threads of the machine only append: a note to a list, and native code a record to a ring. Whatever
takes longer happens on the thread that reads. Both are bounded; what has no room is counted.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from operator import attrgetter
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

from vmm.trace.decoder import Decoder
from vmm.trace.events import Event, Lost

if TYPE_CHECKING:
    from virtio.native.records import Records
    from virtio.virtqueue.watched import Given, Taken

MOST_NOTES: Final = 1 << 19
MOST_BYTES: Final = 256 << 20
"""Of native records that were read and not decoded; then they wait in their rings, and get lost."""

LATE_NS: Final = 20_000_000
"""How long a note may take from its time to the list: later ones come out of order."""


class QueueNotes:
    """What is told of the chains of one queue, by native code or by Python."""

    def __init__(self, recorder: Recorder, device: str, queue: int) -> None:
        self.device = device
        self.index = queue
        self.thread = 0
        self._records: Records | None = None
        self._recorder = recorder

    def taken(self, chains: Sequence[Taken]) -> None:
        """Chains were taken from the ring."""
        self._recorder.note_chains(self, chains)

    def given(self, chains: Sequence[Given]) -> None:
        """Chains were given back."""
        self._recorder.note_chains(self, chains)

    def native(self, make: Callable[[], Records]) -> Records:
        """Return where native code tells of chains: one ring, whatever becomes of the queue."""
        if self._records is None:
            self._records = make()
        return self._records

    def read(self) -> tuple[bytes, int]:
        """Return the records that came, and how many were lost."""
        if self._records is None:
            return b"", 0
        return self._records.read(), self._records.take_lost()


class Recorder:
    """The notes of one machine.

    :meth:`note` may be called from any thread. One thread at a time may read.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._notes: deque[Any] = deque()
        self._queues: dict[tuple[str, int], QueueNotes] = {}
        self._raw: deque[tuple[QueueNotes, bytes]] = deque()
        self._raw_bytes = 0
        self._room = MOST_NOTES
        self._lost = 0
        self._early: list[Event] = []
        self._reading = threading.Lock()

    def note(self, *note: Any) -> None:
        """Keep a note: time, kind, thread, device, queue, and more; see :class:`Decoder`."""
        if len(self._notes) < self._room:
            self._notes.append(note)
        else:
            self._lost += 1

    def note_chains(self, queue: QueueNotes, chains: Sequence[Taken | Given]) -> None:
        """Keep what Python tells of chains."""
        if len(self._notes) < self._room:
            self._notes.append((queue, get_ident(), chains))
        else:
            self._lost += len(chains)

    def queue(self, device: str, queue: int) -> QueueNotes:
        """Return what notes the chains of a queue."""
        return self._queues.setdefault((device, queue), QueueNotes(self, device, queue))

    def close(self) -> None:
        """Keep no further note: a debugger may hold on to a tap for longer."""
        self._room = 0

    def collect(self) -> None:
        """Empty the rings of native code, which are small."""
        with self._reading:
            self._collect()

    def _collect(self) -> None:
        if self._raw_bytes >= MOST_BYTES:
            return
        for one in tuple(self._queues.values()):
            data, lost = one.read()
            self._lost += lost
            if data:
                self._raw.append((one, data))
                self._raw_bytes += len(data)

    def read(self, *, last: bool = False) -> list[Event]:
        """Return the events that came, in the order of time.

        Those of the last moments are kept for the next call, unless it is the ``last``.
        """
        with self._reading:
            # Notes after records: whoever is told of by both comes from Python last.
            until = time.monotonic_ns() - LATE_NS
            self._collect()
            found = self._early
            while self._raw:
                queue, data = self._raw.popleft()
                self._raw_bytes -= len(data)
                found += self._native(queue, data)
            for _ in range(len(self._notes)):
                note = self._notes.popleft()
                if isinstance(note[0], QueueNotes):
                    queue, thread, chains = note
                    found += self._decoder.chains(queue.device, queue.index, thread, iter(chains))
                else:
                    found.append(self._decoder.event(note))
            if self._lost:
                lost, self._lost = self._lost, 0
                found.append(Lost(time.monotonic_ns(), count=lost))
            found.sort(key=attrgetter("at"))
            self._early = []
            if not last:
                split = len(found)
                while split and found[split - 1].at > until:
                    split -= 1
                self._early = found[split:]
                del found[split:]
            return found

    def _native(self, queue: QueueNotes, data: bytes) -> list[Event]:
        from virtio.native.records import decode

        told = decode(data)
        return list(self._decoder.chains(queue.device, queue.index, queue.thread, told))
