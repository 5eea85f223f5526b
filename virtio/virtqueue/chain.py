"""The descriptor chain: one request of the driver, as zero-copy views of guest memory.

A chain is built from *copies* of its descriptors, and everything here is decided from those copies:
the driver may rewrite its descriptors at any moment, and gains nothing by it.
VIRTIO 1.4 "Message Framing", "The Virtqueue Descriptor Table".

Who owns a chain
----------------
A chain belongs to the driver, then to the device, then to the driver again, and nothing in guest
memory says whose it is. Both mistakes are silent: a device that writes into a buffer after it went
back corrupts memory that the driver has reused, and a chain that goes back twice gives the driver
two requests done where one was. A reset takes chains away in between, while device code may still
hold them.

Asking the queue each time ("is this chain outstanding?") does not work: the views that were handed
out before do not ask. Copying the data does work, and costs more than all the rest.

So the chain carries the answer: ``out`` is true from the moment when the queue hands it over until
it goes back, or until the queue is reset. Only the queue ends it, by :meth:`DescriptorChain.end`.
Views are made when they are first asked for, and from the end on there are none: a reset also makes
those unusable that somebody kept. What remains is a view kept over an ordinary completion; it still
reaches the buffer, as releasing it would fail in the midst of a system call that uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain as concatenated
from struct import Struct
from typing import Any, Final, Protocol

from virtio.errors import DriverError, InternalError
from virtio.memory import MemoryAccessError
from virtio.virtqueue.window import Window

VIRTQ_DESC_F_NEXT: Final = 1
VIRTQ_DESC_F_WRITE: Final = 2
VIRTQ_DESC_F_INDIRECT: Final = 4

MAX_CHAIN_DESCRIPTORS: Final = 1024
"""The most descriptors that one chain may have, direct and indirect together (``SPL-20``).

It is the most buffers that one ``preadv`` takes (``IOV_MAX``), and it bounds the work that one
chain can cause. A longer chain is a :class:`DriverError`.
"""

MAX_CHAIN_BYTES: Final = 1 << 32
"""The most bytes that one chain may describe. VIRTIO 1.4 "The Virtqueue Descriptor Table"."""

Descriptor = tuple[int, int, int]
"""The copy of a descriptor: guest-physical address, length in bytes, flags."""


class ChainOwner(Protocol):
    """The queue that a chain came from, and goes back to."""

    index: int
    window: Window

    def add_used(self, chain: DescriptorChain, length: int) -> None:
        """Give the chain back with that many bytes written."""

    def add_used_many(self, completions: Iterable[tuple[DescriptorChain, int]]) -> None:
        """Give several chains back, so that the driver sees all of them at once."""

    def notify(self) -> None:
        """Tell the driver, if it wants to hear."""


class DescriptorChain:
    """One request: the part that the device may read, then the part that it may write.

    ``readable`` and ``writable`` are views straight into guest memory, none of them empty. How the
    driver cut its request into segments means nothing (``SPL-19``): use :meth:`read`, :meth:`write`
    and :meth:`split_status` for headers, answers and trailers. Each chain goes back to the driver
    exactly once: by :meth:`complete`, or by the queue's ``add_used``. From then on it has no views.

    ``readable_length`` and ``writable_length`` are the bytes of each side, and ``room`` is what
    ``writable_length`` was before a status byte was taken off. ``head_index`` is the number of the
    first descriptor in the table or ring, ``buffer_id`` the name under which the chain goes back to
    the driver (in the split form, the same number), ``slots`` the number of ring entries that the
    chain takes, ``descriptors`` the copies, and ``out`` whether the device has the chain.

    Raises :class:`DriverError` when a readable descriptor follows a writable one (``SPL-17``), when
    the chain has too many bytes (``SPL-14``), or when a segment is not inside guest RAM
    (``SPL-15``).
    """

    __slots__ = (
        "_readable",
        "_reads",
        "_status",
        "_writable",
        "buffer_id",
        "descriptors",
        "head_index",
        "out",
        "owner",
        "readable_length",
        "room",
        "slots",
        "writable_length",
    )

    def __init__(
        self,
        owner: ChainOwner,
        descriptors: Sequence[Descriptor],
        head_index: int,
        buffer_id: int,
        slots: int = 1,
    ) -> None:
        self.owner = owner
        self.out = True
        # The views, once they have been asked for.
        self._readable: list[memoryview] | None = None
        self._writable: list[memoryview] | None = None
        self._status: memoryview | None = None
        self.descriptors = descriptors
        self.head_index = head_index
        self.buffer_id = buffer_id
        self.slots = slots
        window = owner.window
        low, high = window.start, window.end
        readable_length = writable_length = reads = 0
        writing = False
        for address, length, flags in descriptors:
            if flags & VIRTQ_DESC_F_WRITE:
                writing = True
                writable_length += length
            elif writing:
                raise self._breach("SPL-17", "a readable descriptor follows a writable one")
            else:
                readable_length += length
                reads += 1
            # An empty segment is allowed, wherever it claims to be (SPL-16).
            if length and (address < low or address + length > high):
                self._check(address, length)
        if readable_length + writable_length > MAX_CHAIN_BYTES:
            total = readable_length + writable_length
            raise self._breach("SPL-14", f"{total} bytes in all must be at most 2^32")
        self._reads = reads
        self.readable_length = readable_length
        self.writable_length = self.room = writable_length

    @property
    def readable(self) -> list[memoryview]:
        """Read-only views of what the driver sent, in order."""
        views = self._readable
        if views is None:
            window = self.owner.window
            views = self._views(self.descriptors[: self._reads], window.readonly)
            self._readable = views
        return views

    @property
    def writable(self) -> list[memoryview]:
        """Views of what the device may write, in order."""
        views = self._writable
        if views is None:
            views = self._views(self.descriptors[self._reads :], self.owner.window.bytes)
            self._writable = views
        return views

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
        address, length, _ = self.descriptors[0]
        window, size = self.owner.window, layout.size
        start = address - window.start
        whole = size <= length and start >= 0 and address + length <= window.end
        if whole and self._reads and self.out:  # nearly always: no view has to be made
            return layout.unpack_from(window.readonly, start)
        data = self.read(size)
        return layout.unpack(data) if len(data) == size else None

    def write(self, data: bytes | bytearray | memoryview, offset: int = 0) -> int:
        """Copy ``data`` into the writable part, from byte ``offset`` on, across segments.

        Returns the number of bytes written: fewer than ``data`` has when there is less room.
        """
        views = self.writable
        if not offset and isinstance(data, bytes) and views and len(data) <= len(views[0]):
            views[0][: len(data)] = data
            return len(data)
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
        the writable part (``SPL-34``). Does nothing once the queue has been reset.
        """
        self.owner.add_used(self, length)
        self.owner.notify()

    def end(self, owner: ChainOwner, length: int) -> None:
        """Belong to the device no more: the queue gives the chain back with so many bytes written.

        Raises :class:`InternalError` when the device does not have it, or has no room for those.
        """
        if not self.out or self.owner is not owner:
            raise InternalError(f"{self!r} is given back, but the device does not have it")
        if not 0 <= length <= self.room:
            raise InternalError(f"{self!r}: {length} bytes written, room for {self.room}")
        self.out = False
        self._readable = self._writable = self._status = None

    def revoke(self) -> None:
        """Belong to the device no more, as the queue is reset; kept views become unusable."""
        status = () if self._status is None else (self._status,)
        for view in concatenated(self._readable or (), self._writable or (), status):
            with suppress(BufferError):  # still exported, so its holder keeps it alive anyway
                view.release()
        self.out = False
        self._readable = self._writable = self._status = None

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{'W' if flags & VIRTQ_DESC_F_WRITE else 'R'} {address:#x}+{length:#x}"
            for address, length, flags in self.descriptors
        )
        return f"<DescriptorChain {self.head_index} of queue {self.owner.index}: {parts}>"

    def _views(self, descriptors: Sequence[Descriptor], window: memoryview) -> list[memoryview]:
        """Return views of the segments; of those inside the window, slices of that view of it."""
        views: list[memoryview] = []
        if not self.out:
            return views
        of_owner = self.owner.window
        low, high = of_owner.start, of_owner.end
        for address, length, _ in descriptors:
            if not length:
                continue
            if low <= address and address + length <= high:
                views.append(window[address - low : address - low + length])
            else:
                elsewhere = of_owner.views(address, length)
                views += [one.toreadonly() for one in elsewhere] if window.readonly else elsewhere
        return views

    def _check(self, address: int, length: int) -> None:
        try:
            self.owner.window.views(address, length)
        except MemoryAccessError as error:
            raise self._breach("SPL-15", str(error)) from None

    def _breach(self, item: str, message: str) -> DriverError:
        return DriverError(item, message, queue=self.owner.index, chain=self.head_index)


def checked_chain(
    owner: ChainOwner,
    descriptors: Sequence[Descriptor],
    reads: int,
    readable_length: int,
    writable_length: int,
    head_index: int,
    buffer_id: int,
    slots: int,
) -> DescriptorChain:
    """Return a chain whose descriptors were checked, and its lengths counted, by the caller.

    The first ``reads`` of them can be read. Most chains are such, and the constructor takes three
    times as long ("1 single" in ``tests.perf.queues``).
    """
    chain = _new(DescriptorChain)
    chain._reads = reads
    chain.owner = owner
    chain.out = True
    chain._readable = chain._writable = chain._status = None
    chain.descriptors = descriptors
    chain.head_index = head_index
    chain.buffer_id = buffer_id
    chain.slots = slots
    chain.readable_length = readable_length
    chain.writable_length = chain.room = writable_length
    return chain


_new = object.__new__
