"""The native side of a queue: ``native.c`` over the same rings, at the same positions.

Importing it raises ``ImportError`` where the C part was not built; :mod:`virtio.engine` chooses.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from struct import Struct
from struct import error as StructError
from typing import TYPE_CHECKING, Any, Final

from virtio._native import ffi, lib
from virtio.batch import ChainBatch
from virtio.engine import IDLE, LEFT, MORE, TELL, WRONG
from virtio.native_batch import DESCRIPTOR, TAKEN, NativeBatch, NativeChains
from virtio.rate import TokenBucket

if TYPE_CHECKING:
    from virtio.virtqueue import Queue

logger = logging.getLogger(__name__)

CHAINS: Final = int(lib.CHAINS)
"""How many are taken in one call at most."""

_TOLD: Final = Struct("<IIIIIIQ")
_TELLS: Final = Struct("<II24xIIQQ")
_LENGTHS_AT, _TAKEN_AT, _COPIES_AT, _HEADERS_AT = (
    ffi.offsetof("struct turn", name) for name in ("lengths", "taken", "copies", "headers")
)
assert _TOLD.size == ffi.offsetof("struct turn", "count")
assert _TELLS.size == _LENGTHS_AT
MAX_HEADER_BYTES: Final = int(lib.MAX_HEADER_BYTES)
assert (lib.IDLE, lib.LEFT, lib.TELL, lib.MORE, lib.WRONG) == (IDLE, LEFT, TELL, MORE, WRONG)


@cache
def _words(count: int) -> Struct:
    return Struct(f"<{count}I")


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
        rows = bytes(view[_TAKEN_AT : _TAKEN_AT + size * TAKEN.size])
        copies = bytes(view[_COPIES_AT : _COPIES_AT + number * DESCRIPTOR.size])
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
