"""The window: guest memory as a queue, its rings and its chains see it, without copies.

VIRTIO 1.4 "Virtqueues". A window belongs to one queue, and closes with it.
"""

from __future__ import annotations

from contextlib import suppress
from operator import itemgetter
from typing import Literal

from virtio.memory import GuestMemory, MemoryAccessError

WordCode = Literal["H", "I", "Q"]


class Window:
    """Views of guest memory by guest-physical address, all of them gone after :meth:`close`.

    The largest region of RAM, where nearly all buffers lie, is in view all the time: ``bytes`` from
    ``start`` up to ``end``, and ``readonly`` for reading only. A slice of those is the fastest way
    to a buffer; :meth:`views` finds buffers anywhere.
    """

    __slots__ = ("_open", "bytes", "end", "memory", "readonly", "start")

    def __init__(self, memory: GuestMemory) -> None:
        self.memory = memory
        self.start, length = max(memory.regions, key=itemgetter(1))
        self.end = self.start + length
        self.bytes = memory.view(self.start, length)
        self.readonly = self.bytes.toreadonly()
        self._open = [self.bytes, self.readonly]

    def views(self, address: int, length: int) -> list[memoryview]:
        """Return the range as one view for each region that it touches.

        Raises :class:`MemoryAccessError` when any byte lies outside guest RAM.
        """
        try:
            return [self.memory.view(address, length)]
        except MemoryAccessError:
            return self.memory.views(address, length)

    def area(self, address: int, length: int) -> memoryview:
        """Return a range inside one region, which stays in view until the window closes.

        Raises :class:`MemoryAccessError` for any other range.
        """
        view = self.memory.view(address, length)
        self._open.append(view)
        return view

    def words(self, area: memoryview, code: WordCode) -> memoryview:
        """Return an area as words of 16, 32 or 64 bits, each loaded and stored at once.

        ``struct.pack_into`` would not do: it zeroes its target first, and a driver that polls an
        index or a flag would see that zero (``SPL-33``).
        """
        words = area.cast(code)
        self._open.append(words)
        return words

    def column(self, area: memoryview, code: WordCode, first: int, step: int) -> memoryview:
        """Return every ``step``-th word from ``first`` on: one field of many structures."""
        column = self.words(area, code)[first::step]
        self._open.append(column)
        return column

    def close(self) -> None:
        """Let go of guest memory for good."""
        for view in self._open:
            with suppress(BufferError):  # still exported, so its holder keeps it alive anyway
                view.release()
        self._open.clear()
