"""The native ring: C over the rings in guest memory, for all that is ordinary.

Importing it raises ``ImportError`` where the C part was not built; :mod:`virtio.engine` chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from struct import Struct
from struct import error as StructError
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final

from virtio.errors import InternalError
from virtio.features import VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED
from virtio.native._native import ffi, lib
from virtio.native.batch import NativeBatch, PlainBatch
from virtio.native.data_path import DataPath
from virtio.virtqueue.batch import ChainBatch
from virtio.virtqueue.ring import IDLE, LEFT, MORE, TELL, WRONG, Ring

if TYPE_CHECKING:
    from virtio.native.records import Records
    from virtio.virtqueue.watched import RingWatcher

CHAINS: Final = int(lib.CHAINS)
"""How many are taken in one call at most."""

_IMPOSSIBLE: Final = int(lib.IMPOSSIBLE)

_ANSWER: Final = Struct("<IIIIQQQ")
_TAKEN_AT: Final = ffi.offsetof("struct exchange", "taken")
assert _ANSWER.size == ffi.offsetof("struct exchange", "given")
assert (lib.IDLE, lib.LEFT, lib.TELL, lib.MORE, lib.WRONG) == (IDLE, LEFT, TELL, MORE, WRONG)


@cache
def _wish(lengths: int) -> Struct:
    """Return the layout of what ``struct exchange`` is given, with so many lengths."""
    return Struct(f"<II32xIIIIQ{lengths}I")


assert _wish(CHAINS).size == _TAKEN_AT


class NativeRing:
    """The same rings as those of ``twin``, which keeps all positions and counts.

    They are copied in before a call of C and out after it. What C finds not to be ordinary it
    leaves in the ring, for the twin to take.
    """

    __slots__ = (
        "_bytes",
        "_exchange",
        "_plain_first",
        "_records",
        "_regions",
        "_served",
        "_struct",
        "decline_notification",
        "last",
        "twin",
    )

    last: NativeBatch | None
    """The batch that was taken last, of which C still has the rows."""

    def __init__(self, twin: Ring, features: int) -> None:
        self.twin = twin
        self._struct = struct = ffi.new("struct queue *")
        self._served = ffi.new("struct served *")
        self._regions: list[memoryview] = []  # which keep the memory where it is
        self._plain_first = True
        self._exchange: Any = None  # made when it is needed first, and seen through _bytes
        self._bytes: Any = None
        self.last = None
        self._records: Records | None = None
        # Bound here, as most other calls are of functions in C: no step of Python's own between.
        self.decline_notification = partial(lib.decline_notification, struct)
        window = twin.window
        struct.descriptors, struct.driver, struct.device = map(_address_of, twin.areas)
        struct.size, struct.packed = twin.size, features >> VIRTIO_F_RING_PACKED & 1
        struct.window_start, struct.window_end = window.start, window.end
        struct.indirect, struct.event_idx = twin.indirect, twin.event_idx
        struct.in_order = features >> VIRTIO_F_IN_ORDER & 1
        regions = window.memory.regions[: lib.MAX_REGIONS]
        struct.regions = len(regions)
        for place, (start, length) in zip(struct.region, regions, strict=False):
            self._regions.append(window.memory.view(start, length))
            host = _address_of(self._regions[-1])
            place.start, place.end, place.host = start, start + length, host

    def watch(self, watcher: RingWatcher | None) -> None:
        """Have C record what it does with chains, for ``watcher``, or nothing any more."""
        if watcher is None:
            self._struct.records = ffi.NULL
            self._records = None
            return
        from virtio.native.records import Records

        self._records = watcher.native(Records)
        self._struct.records = self._records.pointer

    def close(self) -> None:
        """Let go of guest memory."""
        for view in self._regions:
            view.release()

    def take_batch(self, limit: int, header_bytes: int = -1) -> ChainBatch:
        """Take up to ``limit`` chains; see :meth:`Ring.take_batch`.

        The last batch tells which kind of chain to look for first.
        """
        if self._plain_first and header_bytes < 0:
            plain = self._take_plain(limit)
            if plain.size or not lib.has_available(self._struct):
                return plain
        batch, end = self.exchange((), limit, 0, max(header_bytes, 0))
        if batch is None:
            return self.twin.take_batch(limit) if end == LEFT else ChainBatch(self.twin.owner, [])
        if header_bytes < 0:
            self._plain_first = batch.is_plain
        return batch

    def _take_plain(self, limit: int) -> PlainBatch:
        twin, struct = self.twin, self._struct
        limit = min(limit, twin.size)
        plain = ffi.new("struct plain[]", limit)
        struct.next_avail, struct.next_used = twin.next_avail, twin.next_used
        if (count := lib.take_plain(struct, plain, limit)) < 0:
            raise self._refusal()
        twin.next_avail = struct.next_avail
        return PlainBatch(twin.owner, plain, count)

    def give_back_batch(self, batch: ChainBatch, lengths: Sequence[int | None]) -> bool:
        """Give a batch of plain chains back whole; see :meth:`Ring.give_back_batch`."""
        if not isinstance(batch, PlainBatch):
            return False
        twin, struct, served = self.twin, self._struct, self._served
        column = batch.column(lengths)
        if column is None:
            return False
        struct.next_avail, struct.next_used = twin.next_avail, twin.next_used
        published = lib.publish_plain(struct, batch.plain, column, len(batch), served)
        if published < 0:
            raise self._refusal()
        if not published:
            return False
        twin.next_used = struct.next_used
        self._count()
        return True

    def exchange(
        self,
        lengths: Sequence[int | None],
        limit: int,
        wait_ns: int = 0,
        header_bytes: int = 0,
    ) -> tuple[NativeBatch | None, int]:
        """Give back the last batch, and take the next; see :meth:`Queue.exchange`.

        ``lengths`` are as many as that has chains, or none when it is not to be given back. Returns
        the next batch, and why there is none: ``TELL``, so that the driver is notified first;
        ``IDLE``; ``LEFT``; or ``WRONG``, having done nothing, if a length is none or has no room.
        """
        twin, given, shared = self.twin, len(lengths), self._bytes or self._open_exchange()
        try:
            _wish(given).pack_into(
                shared,
                0,
                twin.next_avail,
                twin.next_used,
                given,
                twin.unsignalled if given else 0,
                limit if limit < CHAINS else CHAINS,
                header_bytes,
                wait_ns,
                *lengths,
            )
        except StructError:
            return None, WRONG
        end: int = lib.exchange(self._struct, self._exchange)
        if end >= WRONG:
            if end == _IMPOSSIBLE:
                raise self._refusal()
            return None, WRONG
        twin.next_avail, twin.next_used, size, stop, at, read, written = _ANSWER.unpack_from(shared)
        if given:
            twin.active_at = at
            twin.unsignalled = 0
            twin.completed += given
            twin.bytes_read += read
            twin.bytes_written += written
        if not size:
            return None, end
        self.last = batch = NativeBatch(twin.owner, size, shared[_TAKEN_AT:stop], header_bytes)
        return batch, end

    def _open_exchange(self) -> Any:
        self._exchange = ffi.new("struct exchange *")
        self._bytes = ffi.buffer(self._exchange)
        return self._bytes

    def serve(self, path: DataPath, limit: int, wait_ns: int) -> tuple[int, int]:
        """Serve up to ``limit`` chains; see :meth:`Queue.serve_natively`."""
        twin, struct, served = self.twin, self._struct, self._served
        struct.next_avail, struct.next_used = twin.next_avail, twin.next_used
        end: int = lib.serve(struct, path.device, limit, wait_ns, served)
        if end == _IMPOSSIBLE:
            raise self._refusal()
        twin.next_avail, twin.next_used = struct.next_avail, struct.next_used
        if chains := served.chains:
            self._count()
            twin.active_at = monotonic_ns()
        return chains, end

    def request_notification(self) -> bool:
        """Ask for a notification; see :meth:`Ring.request_notification`."""
        twin, struct = self.twin, self._struct
        struct.next_avail, struct.next_used = twin.next_avail, twin.next_used
        if (available := lib.request_notification(struct)) < 0:
            raise self._refusal()
        return bool(available)

    def wait_available(self, wait_ns: int) -> bool:
        """Wait for a chain on the processor, without the interpreter's lock."""
        twin, struct = self.twin, self._struct
        struct.next_avail, struct.next_used = twin.next_avail, twin.next_used
        if (available := lib.wait_available(struct, wait_ns)) < 0:
            raise self._refusal()
        return bool(available)

    def _refusal(self) -> InternalError:
        """Return the error for positions or counts that C does not index with."""
        twin = self.twin
        return InternalError(
            f"queue {twin.owner.index} of {twin.size}: positions {twin.next_avail} (available) and "
            f"{twin.next_used} (used) cannot be, or more is given back than was taken"
        )

    def _count(self) -> None:
        """Add what calls have counted, and clear it for the next ones."""
        twin, served = self.twin, self._served
        twin.completed += served.chains
        twin.bytes_read += served.bytes_read
        twin.bytes_written += served.bytes_written
        twin.unsignalled += served.entries
        served.chains = served.bytes_read = served.bytes_written = 0
        served.entries = 0


def _address_of(view: memoryview) -> Any:
    """Return where a view begins; whoever uses that keeps the view.

    The buffer that cffi makes is not kept: one that is in a cycle with its memoryview makes the
    garbage collector of CPython 3.11 crash.
    """
    with ffi.from_buffer("uint8_t[]", view) as buffer:
        return ffi.cast("uint8_t *", buffer)
