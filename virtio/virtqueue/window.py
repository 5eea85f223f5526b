"""The guest memory of a virtqueue: its rings, the window on RAM, and indirect tables.

VIRTIO 1.4 "Virtqueues".
"""

from operator import itemgetter
from typing import Final, Literal

from virtio.errors import DriverError
from virtio.memory import GuestMemory, MemoryAccessError

DESCRIPTOR_BYTES: Final = 16
MAX_TABLE_BYTES: Final = DESCRIPTOR_BYTES << 16
"""How far a 16-bit ``next`` reaches into an indirect table."""


class QueueMemory:
    """What a queue sees of guest memory, and the error that ends it when the driver is wrong.

    The window is the largest region of RAM, where nearly all buffers are: ``_window`` is a view of
    its bytes, from ``_window_start`` up to ``_window_end``, and ``_window_to_read`` the same bytes
    for reading only.
    """

    __slots__ = (
        "_areas",
        "_breach",
        "_mapped",
        "_window",
        "_window_end",
        "_window_start",
        "_window_to_read",
        "index",
        "memory",
    )

    def __init__(self, memory: GuestMemory, index: int) -> None:
        self.memory = memory
        self.index = index
        self._breach: tuple[str, str, int | None] | None = None
        start, length = max(memory.regions, key=itemgetter(1))
        self._window = memory.view(start, length)
        self._window_start, self._window_end = start, start + length
        self._window_to_read = self._window.toreadonly()
        self._mapped = [self._window, self._window_to_read]
        self._areas: list[memoryview] = []

    def _part(self, name: str, address: int, length: int, alignment: int) -> memoryview:
        """Return the bytes of one area of the queue, after checking where it lies."""
        if address % alignment:
            raise self._error(
                "SPL-03", f"{name} at {address:#x} is not aligned to {alignment} bytes"
            )
        try:
            view = self.memory.view(address, length)
        except MemoryAccessError as error:
            raise self._error("SPL-04", f"{name}: {error}") from None
        self._mapped.append(view)
        self._areas.append(view)
        return view

    def _words(self, part: memoryview, code: Literal["H", "I", "Q"]) -> memoryview:
        """Return ``part`` as words of 16 to 64 bits, each of which is loaded and stored at once.

        ``struct.pack_into`` would not do: it zeroes its target first, and a driver polling an index
        or a flag would see that zero (SPL-33).
        """
        words = part.cast(code)
        self._mapped.append(words)
        return words

    def _column(
        self, part: memoryview, code: Literal["H", "I", "Q"], first: int, step: int
    ) -> memoryview:
        """Return every ``step``-th of such words from ``first`` on: a field of many structures."""
        column = self._words(part, code)[first::step]
        self._mapped.append(column)
        return column

    def _indirect_table(
        self, item: str, address: int, length: int, head: int
    ) -> memoryview | bytes:
        """Return an indirect table: a view, or a copy where it crosses memory regions.

        ``item`` is what a table of bad length or outside guest RAM breaches.
        """
        if not length or length % DESCRIPTOR_BYTES:
            raise self._error(item, f"indirect table of {length} bytes, not 16 each", head)
        try:
            return self.memory.view(address, length)
        except MemoryAccessError:
            return self._table_across_regions(item, address, length, head)

    def _table_across_regions(self, item: str, address: int, length: int, head: int) -> bytes:
        try:
            self.memory.views(address, length)
            return b"".join(self.memory.views(address, min(length, MAX_TABLE_BYTES)))
        except MemoryAccessError as error:
            raise self._error(item, f"indirect table: {error}", head) from None

    def _unmap(self) -> None:
        """Let go of guest memory for good."""
        for view in self._mapped:
            view.release()
        self._mapped.clear()
        self._areas.clear()

    def _refuse(self) -> None:
        """Raise again what broke the queue; a queue that was reset just has no chains."""
        if self._breach is not None:
            item, message, chain = self._breach
            raise DriverError(item, message, queue=self.index, chain=chain)

    def _error(self, item: str, message: str, chain: int | None = None) -> DriverError:
        """Return the error to raise, and remember it as what broke the queue."""
        self._breach = item, message, chain
        return DriverError(item, message, queue=self.index, chain=chain)
