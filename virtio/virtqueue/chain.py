"""The descriptor chain: one request of the driver, as zero-copy views of guest memory.

A chain is built from *copies* of its descriptors, and everything here is decided from those copies:
the driver may rewrite its descriptors at any moment, and gains nothing by it.
VIRTIO 1.4 "Message Framing", "The Virtqueue Descriptor Table".
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import chain as concatenated
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from virtio.errors import DriverError
from virtio.memory import MemoryAccessError

if TYPE_CHECKING:
    from virtio.virtqueue.queue import Queue

VIRTQ_DESC_F_NEXT: Final = 1
VIRTQ_DESC_F_WRITE: Final = 2
VIRTQ_DESC_F_INDIRECT: Final = 4

MAX_CHAIN_DESCRIPTORS: Final = 1024
"""The most descriptors that one chain may have, direct and indirect together (SPL-20).

It is the most buffers that one ``preadv`` takes (``IOV_MAX``), and it bounds the work that one
chain can cause. A longer chain is a :class:`DriverError`.
"""

MAX_CHAIN_BYTES: Final = 1 << 32
"""The most bytes that one chain may describe. VIRTIO 1.4 "The Virtqueue Descriptor Table"."""

Descriptor = tuple[int, int, int]
"""The copy of a descriptor: guest-physical address, length in bytes, flags."""


class DescriptorChain:
    """One request: what the driver lets the device read, then what it lets the device write.

    ``readable`` and ``writable`` are views straight into guest memory, none of them empty. How the
    driver cut its request into segments means nothing (SPL-19): use :meth:`read`, :meth:`write`
    and :meth:`split_status` for headers, answers and trailers. Each chain goes back to the driver
    exactly once: by :meth:`complete`, or by the queue's ``add_used``. From then on it has no views.

    ``readable_length`` and ``writable_length`` are the bytes of each side, and ``room`` is what
    ``writable_length`` was before a status byte was taken off. ``head_index`` is the number of the
    first descriptor in the table or ring, ``buffer_id`` the name under which the chain goes back to
    the driver (in the split form, the same number), ``slots`` the number of ring entries that it
    takes, and ``descriptors`` the copies that it is made of.

    Raises :class:`DriverError` when a readable descriptor follows a writable one (SPL-17), when
    the chain has too many bytes (SPL-14), or when a segment is not inside guest RAM (SPL-15).
    """

    __slots__ = (
        "_out",
        "_queue",
        "_readable",
        "_reads",
        "_status",
        "_writable",
        "buffer_id",
        "descriptors",
        "head_index",
        "readable_length",
        "room",
        "slots",
        "writable_length",
    )

    _out: bool
    """Whether the device has the chain, and may still give it back."""

    def __init__(
        self,
        queue: Queue,
        descriptors: Sequence[Descriptor],
        head_index: int,
        buffer_id: int,
        slots: int = 1,
    ) -> None:
        self._queue = queue
        self._out = True
        # The views, once they have been asked for.
        self._readable: list[memoryview] | None = None
        self._writable: list[memoryview] | None = None
        self._status: memoryview | None = None
        self.descriptors = descriptors
        self.head_index = head_index
        self.buffer_id = buffer_id
        self.slots = slots
        low, high = queue._window_start, queue._window_end
        readable_length = writable_length = reads = 0
        writing = False
        for address, length, flags in descriptors:
            if flags & VIRTQ_DESC_F_WRITE:
                writing = True
                writable_length += length
            elif writing:
                raise self._error("SPL-17", "a readable descriptor follows a writable one")
            else:
                readable_length += length
                reads += 1
            # An empty segment is allowed, wherever it claims to be (SPL-16).
            if length and (address < low or address + length > high):
                self._check(address, length)
        if readable_length + writable_length > MAX_CHAIN_BYTES:
            total = readable_length + writable_length
            raise self._error("SPL-14", f"{total} bytes in all, at most 2^32 are allowed")
        self._reads = reads
        self.readable_length = readable_length
        self.writable_length = self.room = writable_length

    @property
    def readable(self) -> list[memoryview]:
        """Read-only views of what the driver sent, in order."""
        views = self._readable
        return self._make_readable() if views is None else views

    @property
    def writable(self) -> list[memoryview]:
        """Views of what the device may write, in order."""
        views = self._writable
        return self._make_writable() if views is None else views

    def read(self, length: int, offset: int = 0) -> bytes:
        """Copy up to ``length`` readable bytes out, from byte ``offset`` on, across segments.

        The answer is shorter when the driver supplied less.
        """
        views = self.readable
        if views and offset + length <= len(views[0]):
            return bytes(views[0][offset : offset + length])
        parts: list[memoryview] = []
        for view in views:
            if length <= 0:
                break
            part = view[offset : offset + length]
            offset = max(0, offset - len(view))
            length -= len(part)
            parts.append(part)
        return b"".join(parts)

    def unpack(self, layout: Struct) -> tuple[Any, ...] | None:
        """Copy out the structure that the readable part begins with; None when it is shorter.

        How the driver cut it into segments means nothing. Each byte is loaded once.
        """
        queue, size = self._queue, layout.size
        address, length, flags = self.descriptors[0]
        start = address - queue._window_start
        whole = size <= length and start >= 0 and address + length <= queue._window_end
        if whole and self._out and not flags & VIRTQ_DESC_F_WRITE:  # nearly always
            return layout.unpack_from(queue._window, start)
        data = self.read(size)
        return layout.unpack(data) if len(data) == size else None

    def write(self, data: bytes | bytearray | memoryview, offset: int = 0) -> int:
        """Copy ``data`` into the writable part, from byte ``offset`` on, across segments.

        Returns the number of bytes written: fewer than ``data`` has when there is less room.
        """
        end = offset + len(data)
        if 0 <= offset < end <= self.writable_length and isinstance(data, bytes):
            queue = self._queue
            address, length, _ = self.descriptors[self._reads]
            start = address - queue._window_start
            if self._out and start >= 0 and end <= length and address + length <= queue._window_end:
                queue._window[start + offset : start + end] = data  # nearly always
                return len(data)
        views = self.writable
        source = memoryview(data).cast("B")
        written = 0
        for view in views:
            if offset >= len(view):
                offset -= len(view)
                continue
            count = min(len(view) - offset, len(source) - written)
            view[offset : offset + count] = source[written : written + count]
            written += count
            offset = 0
            if written == len(source):
                break
        return written

    def split_status(self) -> memoryview | None:
        """Take the last writable byte off ``writable`` and return it as a view of its own.

        Returns None when there is no writable byte. The lengths given to :meth:`complete` still
        count it.
        """
        queue = self._queue
        address, length, flags = self.descriptors[-1]
        if (
            self._writable is None
            and self.writable_length == self.room
            and self._out
            and flags & VIRTQ_DESC_F_WRITE
            and length
            and address >= queue._window_start
            and address + length <= queue._window_end
        ):  # nearly always
            end = address + length - queue._window_start
            self._status = queue._window[end - 1 : end]
        else:
            views = self.writable
            if not views:
                return None
            last = views.pop()
            if len(last) > 1:
                views.append(last[:-1])
            self._status = last[-1:]
        self.writable_length -= 1
        return self._status

    def complete(self, length: int) -> None:
        """Give the chain back with ``length`` bytes written, and notify the driver if it asks.

        Raises :class:`InternalError` for a chain already given back, or for a length that exceeds
        the writable part (SPL-34). Does nothing once the queue has been reset.
        """
        self._queue.add_used(self, length)
        self._queue.notify()

    def release_views(self) -> None:
        """Make the views unusable, also where a device kept one: the queue has been reset."""
        status = () if self._status is None else (self._status,)
        for view in concatenated(self._readable or (), self._writable or (), status):
            with suppress(BufferError):  # still exported, so its holder keeps it alive anyway
                view.release()
        self._out = False
        self._readable = self._writable = self._status = None

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{'W' if flags & VIRTQ_DESC_F_WRITE else 'R'} {address:#x}+{length:#x}"
            for address, length, flags in self.descriptors
        )
        return f"<DescriptorChain {self.head_index} of queue {self._queue.index}: {parts}>"

    def _make_readable(self) -> list[memoryview]:
        views: list[memoryview] = []
        if self._out:
            queue = self._queue
            low, high, window = queue._window_start, queue._window_end, queue._window_to_read
            for address, length, _ in self.descriptors[: self._reads]:
                if length:
                    if low <= address and address + length <= high:
                        views.append(window[address - low : address - low + length])
                    else:
                        elsewhere = self._views_elsewhere(address, length)
                        views += [view.toreadonly() for view in elsewhere]
        self._readable = views
        return views

    def _make_writable(self) -> list[memoryview]:
        views: list[memoryview] = []
        if self._out:
            queue, left = self._queue, self.writable_length  # without the status byte, perhaps
            low, high, window = queue._window_start, queue._window_end, queue._window
            for address, length, _ in self.descriptors[self._reads :]:
                if length > left:
                    length = left
                if length:
                    left -= length
                    if low <= address and address + length <= high:
                        views.append(window[address - low : address - low + length])
                    else:
                        views += self._views_elsewhere(address, length)
        self._writable = views
        return views

    def _views_elsewhere(self, address: int, length: int) -> list[memoryview]:
        """Return a segment outside the window as one view for each region that it touches."""
        memory = self._queue.memory
        try:
            return [memory.view(address, length)]
        except MemoryAccessError:
            return memory.views(address, length)

    def _check(self, address: int, length: int) -> None:
        try:
            self._views_elsewhere(address, length)
        except MemoryAccessError as error:
            raise self._error("SPL-15", str(error)) from None

    def _error(self, item: str, message: str) -> DriverError:
        return self._queue._error(item, message, self.head_index)


def checked_chain(
    queue: Queue,
    descriptors: Sequence[Descriptor],
    reads: int,
    readable_length: int,
    writable_length: int,
    head_index: int,
    buffer_id: int,
    slots: int,
) -> DescriptorChain:
    """Return a chain whose descriptors were checked, and its lengths counted, by native code.

    The first ``reads`` of them can be read.
    """
    chain = _new(DescriptorChain)
    chain._reads = reads
    chain._queue = queue
    chain._out = True
    chain._readable = chain._writable = chain._status = None
    chain.descriptors = descriptors
    chain.head_index = head_index
    chain.buffer_id = buffer_id
    chain.slots = slots
    chain.readable_length = readable_length
    chain.writable_length = chain.room = writable_length
    return chain


def plain_chain(
    queue: Queue, descriptor: Descriptor, head_index: int, buffer_id: int
) -> DescriptorChain:
    """Return a chain of one descriptor that its caller found to lie in guest memory.

    Most chains are such, and the constructor takes three times as long ("1 single" in
    ``tests.perf.queues``).
    """
    chain = _new(DescriptorChain)
    _, length, flags = descriptor
    chain._queue = queue
    chain._out = True
    chain._readable = chain._writable = chain._status = None
    chain.descriptors = (descriptor,)
    chain.head_index = head_index
    chain.buffer_id = buffer_id
    chain.slots = 1
    if flags & VIRTQ_DESC_F_WRITE:
        chain._reads = chain.readable_length = 0
        chain.writable_length = chain.room = length
    else:
        chain._reads = 1
        chain.readable_length = length
        chain.writable_length = chain.room = 0
    return chain


_new = object.__new__
