"""The native side of a queue: ``native.c`` over the same rings, at the same positions.

Importing it raises ``ImportError`` where the C part was not built; :mod:`virtio.engine` chooses.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Sequence
from functools import cache
from struct import Struct
from struct import error as StructError
from typing import TYPE_CHECKING, Any, Final, cast

from virtio._native import ffi, lib
from virtio.batch import ChainBatch
from virtio.chain import DescriptorChain, checked_chain
from virtio.engine import IDLE, LEFT, MORE, TELL, WRONG
from virtio.frame import Frame
from virtio.rate import TokenBucket

if TYPE_CHECKING:
    from virtio.virtqueue import Queue

logger = logging.getLogger(__name__)

CHAINS: Final = int(lib.CHAINS)
"""How many are taken in one call at most."""

_PLAIN: Final = Struct("<QIHHH6x")
_DESCRIPTOR: Final = Struct("<QIH10x")  # the same without head and id
_TAKEN: Final = Struct("<QQIIIIIIQQI4x")
_TOLD: Final = Struct("<IIIIIIQ")
_TELLS: Final = Struct("<II24xIIQQ")
_LENGTHS_AT, _TAKEN_AT, _COPIES_AT, _HEADERS_AT = (
    ffi.offsetof("struct turn", name) for name in ("lengths", "taken", "copies", "headers")
)
assert _PLAIN.size == _DESCRIPTOR.size == ffi.sizeof("struct plain")
assert _TAKEN.size == ffi.sizeof("struct taken")
assert _TOLD.size == ffi.offsetof("struct turn", "count")
assert _TELLS.size == _LENGTHS_AT
MAX_HEADER_BYTES: Final = int(lib.MAX_HEADER_BYTES)
DATA_IN: Final = int(lib.DATA_IN)
assert (lib.IDLE, lib.LEFT, lib.TELL, lib.MORE, lib.WRONG) == (IDLE, LEFT, TELL, MORE, WRONG)
assert array("I").itemsize == ffi.sizeof("uint32_t")


@cache
def _words(count: int) -> Struct:
    return Struct(f"<{count}I")


class NativeBatch(ChainBatch):
    """A batch whose columns stay in C until somebody asks for them."""

    __slots__ = ("_count", "_plain")

    def __init__(self, queue: Queue, plain: Any, count: int) -> None:
        super().__init__(queue)
        self._plain = plain
        self._count = count

    @property
    def writable_lengths(self) -> list[int]:
        """How many bytes of each chain the device may write."""
        if self._chains is None and self._rooms is None:
            rooms = array("I", bytes(4 * self._count))
            lib.get_rooms(self._plain, self._count, ffi.from_buffer("uint32_t[]", rooms))
            self._rooms = rooms.tolist()
        return super().writable_lengths

    @property
    def readable_lengths(self) -> list[int]:
        """How many bytes of each chain the device may read."""
        self._unpack()
        return super().readable_lengths

    @property
    def readable_bytes(self) -> int:
        """How many bytes the device may read, in all chains together."""
        self._unpack()
        return super().readable_bytes

    def make_chains(self) -> list[DescriptorChain]:
        """Return the chains; they are made now, unless they exist."""
        self._unpack()
        return super().make_chains()

    def give_back(self, lengths: Sequence[int | None]) -> bool:
        """Give all chains back at once, if that is possible; see the base class."""
        try:
            column = array("I", cast(Sequence[int], lengths))  # which refuses None
        except (TypeError, OverflowError):
            return False
        native = self._queue._native
        buffer = ffi.from_buffer("uint32_t[]", column)
        return native is not None and native.publish(self._plain, buffer, self._count)

    def __len__(self) -> int:
        return self._count

    def _unpack(self) -> None:
        if self._chains is None and self._count and not self.heads:
            rows = _PLAIN.iter_unpack(ffi.buffer(self._plain, self._count * _PLAIN.size))
            addresses, lengths, flags, heads, buffer_ids = zip(*rows, strict=True)
            self.add(self._count, heads, buffer_ids, addresses, lengths, flags)


class NativeChains(ChainBatch):
    """A batch of ``size`` chains of any shape.

    ``rows`` and ``copies`` are what C says of them and of their descriptors, ``headers`` those of
    the chains that are frames, as far as they were looked for.
    """

    __slots__ = ("_copies", "_headers", "_rows", "size")

    def __init__(self, queue: Queue, size: int, rows: bytes, copies: bytes, headers: bytes) -> None:
        # No columns: the few steps of this are taken for each request at depth 1.
        self._queue = queue
        self._chains = None
        self.size = size
        self._rows = rows
        self._copies = copies
        self._headers = headers

    @property
    def readable_lengths(self) -> list[int]:
        """How many bytes of each chain the device may read."""
        if self._chains is None:
            return [row[0] for row in _TAKEN.iter_unpack(self._rows)]
        return super().readable_lengths

    @property
    def writable_lengths(self) -> list[int]:
        """How many bytes of each chain the device may write."""
        if self._chains is None:
            return [row[1] for row in _TAKEN.iter_unpack(self._rows)]
        return super().writable_lengths

    @property
    def readable_bytes(self) -> int:
        """How many bytes the device may read, in all chains together."""
        return sum(self.readable_lengths)

    @property
    def is_plain(self) -> bool:
        """Whether each chain is one descriptor."""
        return len(self._copies) == self.size * _DESCRIPTOR.size

    def frames(self, layout: Struct) -> list[Frame]:
        """Return each chain as a frame, most of them without having to make the chain."""
        queue, headers = self._queue, self._headers
        if queue._lean is not self or len(headers) != self.size * layout.size:
            return super().frames(layout)
        frames: list[Frame] = []
        nothing: list[memoryview] = []
        window = queue._window
        for index, row in enumerate(_TAKEN.iter_unpack(self._rows)):
            _, _, _, _, _, _, _, kind, data, status, length = row
            header = layout.unpack_from(headers, index * layout.size)
            if not kind:
                frame = Frame.of(self, index, layout)
            elif kind == DATA_IN:
                views = [window[data : data + length]]
                frame = Frame(self, index, header, nothing, 0, views, length, window, status)
            else:
                views = [window[data : data + length]] if length else nothing
                frame = Frame(self, index, header, views, length, nothing, 0, window, status)
            frames.append(frame)
        return frames

    def make_chains(self) -> list[DescriptorChain]:
        """Return the chains; they are made now, unless they exist."""
        if self._chains is None:
            chains = _chains_of(self._queue, self._rows, self._copies)
            self._keep(chains)
            return chains
        return self._chains

    def give_back(self, lengths: Sequence[int | None]) -> bool:
        """Leave it to the chains; :meth:`Queue.exchange` is what gives them back at once."""
        return False

    def __len__(self) -> int:
        return self.size


def _chains_of(
    queue: Queue, rows: bytes | memoryview, copies: bytes | memoryview
) -> list[DescriptorChain]:
    """Make the chains of ``struct taken`` and their descriptors."""
    found = list(_DESCRIPTOR.iter_unpack(copies))
    chains: list[DescriptorChain] = []
    start = 0
    for readable, writable, head, buffer_id, slots, number, reads, *_ in _TAKEN.iter_unpack(rows):
        end = start + number
        chains.append(
            checked_chain(
                queue, found[start:end], reads, readable, writable, head, buffer_id, slots
            )
        )
        start = end
    return chains


class DataPath:
    """What serves ordinary chains of a device without Python: one of the kinds of ``native.c``."""

    __slots__ = ("device",)

    def __init__(self, kind: int) -> None:
        self.device = ffi.new("struct device *")
        self.device.kind = kind


def block_path(fd: int, *, sectors: int, writable: bool) -> DataPath:
    """Return what reads and writes ``fd``, which is the disk byte for byte.

    ``writable`` says whether a write is done when it is written, with nothing to do after it.
    """
    path = DataPath(lib.BLOCK)
    path.device.fd, path.device.sectors, path.device.writable = fd, sectors, writable
    return path


def entropy_path(*, in_process: bool = True) -> DataPath:
    """Return what fills buffers from the kernel's random generator, as :class:`Entropy` does.

    With ``in_process`` it does without system calls, where the kernel offers that.
    """
    path = DataPath(lib.ENTROPY)
    path.device.in_process = in_process
    return path


class NativeQueue:
    """The rings of one queue as C sees them, until :meth:`close`.

    The positions stay the queue's: they are copied in before a call and out after it.
    """

    __slots__ = (
        *(
            "_bytes",
            "_log",
            "_nothing",
            "_owner",
            "_plain_first",
            "_regions",
            "_served",
            "_struct",
            "_turn",
        ),
        "last",
    )

    last: NativeChains
    """What the last turn took, of which C still has the rows."""

    def __init__(
        self,
        owner: Queue,
        areas: Sequence[memoryview],
        *,
        packed: bool,
        indirect: bool,
        event_idx: bool,
        in_order: bool,
    ) -> None:
        self._owner = owner
        self._struct = struct = ffi.gc(ffi.new("struct queue *"), lib.close_queue)
        self._served = ffi.new("struct served *")
        self._regions: list[memoryview] = []  # which keep the memory where it is
        self._log = TokenBucket(1, 10)
        self._plain_first = True
        self._turn: Any = None  # made when it is needed first, and seen through _bytes
        self._bytes = memoryview(b"")
        self._nothing = NativeChains(owner, 0, b"", b"", b"")
        self.last = self._nothing
        struct.descriptors, struct.driver, struct.device = map(_address_of, areas)
        struct.size, struct.packed = owner.size, packed
        struct.window_start, struct.window_end = owner._window_start, owner._window_end
        struct.indirect, struct.event_idx, struct.in_order = indirect, event_idx, in_order
        regions = owner.memory.regions[: lib.MAX_REGIONS]
        struct.regions = len(regions)
        for place, (start, length) in zip(struct.region, regions, strict=False):
            self._regions.append(owner.memory.view(start, length))
            host = _address_of(self._regions[-1])
            place.start, place.end, place.host = start, start + length, host

    def close(self) -> None:
        """Let go of guest memory, and of what the host holds for the queue."""
        lib.close_queue(self._struct)
        for view in self._regions:
            view.release()

    def take_plain(self, limit: int) -> NativeBatch:
        """Take up to ``limit`` chains of one descriptor each, as :meth:`Queue.pop_batch` does."""
        owner, struct = self._owner, self._struct
        limit = min(limit, owner.size)
        plain = ffi.new("struct plain[]", limit)
        struct.next_avail, struct.next_used = owner._next_avail, owner._next_used
        count = lib.take_plain(struct, plain, limit)
        owner._next_avail = struct.next_avail
        return NativeBatch(owner, plain, count)

    def take_batch(self, limit: int) -> ChainBatch:
        """Take up to ``limit`` ordinary chains, as :meth:`Queue.pop_batch` does.

        What the last batch was tells which kind to look for first.
        """
        if self._plain_first and (plain := self.take_plain(limit)):
            return plain
        batch, _ = self.turn((), 0, limit)
        if batch:
            self._plain_first = batch.is_plain
        return batch

    def turn(
        self,
        lengths: Sequence[int | None],
        entries: int,
        limit: int,
        wait_ns: int = 0,
        header_bytes: int = 0,
    ) -> tuple[NativeChains, int]:
        """Give back the last turn's batch, and take the next, as :meth:`Queue.exchange` does.

        ``lengths`` are as many as that has chains, or none when it is not to be given back.
        ``entries`` are those given back before since the driver's wish to be notified was looked
        at. Returns ``TELL`` and none if it has that wish, ``IDLE``, ``LEFT`` or ``MORE``; or
        ``WRONG``, having done nothing, if a length is none or has no room.
        """
        owner, view, given = self._owner, self._bytes or self._open_turn(), len(lengths)
        if given:
            try:
                _words(given).pack_into(view, _LENGTHS_AT, *lengths)
            except StructError:
                return self._nothing, WRONG
        avail, used, most = owner._next_avail, owner._next_used, limit if limit < CHAINS else CHAINS
        looked_for = header_bytes if header_bytes <= MAX_HEADER_BYTES else 0
        _TOLD.pack_into(view, 0, avail, used, given, entries, most, looked_for, wait_ns)
        end: int = lib.turn(self._struct, self._turn)
        if end == WRONG:
            return self._nothing, WRONG
        told = _TELLS.unpack_from(view)
        owner._next_avail, owner._next_used, size, number, bytes_read, bytes_written = told
        if given:
            owner.completed += given
            owner.bytes_read += bytes_read
            owner.bytes_written += bytes_written
        if not size:
            return self._nothing, end
        rows = bytes(view[_TAKEN_AT : _TAKEN_AT + size * _TAKEN.size])
        copies = bytes(view[_COPIES_AT : _COPIES_AT + number * _DESCRIPTOR.size])
        headers = bytes(view[_HEADERS_AT : _HEADERS_AT + size * looked_for])
        self.last = batch = NativeChains(owner, size, rows, copies, headers)
        return batch, end

    def _open_turn(self) -> memoryview:
        self._turn = ffi.new("struct turn *")
        self._bytes = view = memoryview(ffi.buffer(self._turn))
        return view

    def publish(self, plain: Any, lengths: Any, count: int) -> bool:
        """Give a batch back; returns whether the lengths fitted, for otherwise nothing is done."""
        owner, struct, served = self._owner, self._struct, self._served
        struct.next_used = owner._next_used
        if not lib.publish_plain(struct, plain, lengths, count, served):
            return False
        owner._next_used = struct.next_used
        self._count()
        return True

    def serve(self, path: DataPath, limit: int, wait_ns: int) -> tuple[int, int]:
        """Serve up to ``limit`` chains, as :meth:`Queue.serve_natively` does."""
        owner, struct, served = self._owner, self._struct, self._served
        struct.next_avail, struct.next_used = owner._next_avail, owner._next_used
        end: int = lib.serve(struct, path.device, limit, wait_ns, served)
        owner._next_avail, owner._next_used = struct.next_avail, struct.next_used
        chains, failed = served.chains, served.failed
        self._count()
        if failed and self._log.take(1):
            logger.warning("queue %d: the host could not do %d reads", owner.index, failed)
        if chains:
            owner.note_activity()
        return chains, end

    def wait_available(self, wait_ns: int) -> bool:
        """Wait for a chain on the processor, without the interpreter's lock."""
        struct = self._struct
        struct.next_avail = self._owner._next_avail
        return bool(lib.wait_available(struct, wait_ns))

    def _count(self) -> None:
        """Add what a call has counted, and clear it for the next one."""
        owner, served = self._owner, self._served
        owner.completed += served.chains
        owner.bytes_read += served.bytes_read
        owner.bytes_written += served.bytes_written
        owner._unsignalled += served.entries
        served.chains = served.bytes_read = served.bytes_written = 0
        served.entries = served.failed = 0


def _address_of(view: memoryview) -> Any:
    """Return where a view begins; whoever uses that keeps the view.

    The buffer that cffi makes is not kept: one that is in a cycle with its memoryview makes the
    garbage collector of CPython 3.11 crash.
    """
    with ffi.from_buffer("uint8_t[]", view) as buffer:
        return ffi.cast("uint8_t *", buffer)
