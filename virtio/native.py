"""The native side of a queue: ``native.c`` over the same rings, at the same positions.

Importing it raises ``ImportError`` where the C part was not built; :mod:`virtio.engine` chooses.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, cast

from virtio._native import ffi, lib
from virtio.batch import ChainBatch
from virtio.chain import DescriptorChain, checked_chain
from virtio.engine import IDLE, LEFT, MORE, TELL
from virtio.rate import TokenBucket

if TYPE_CHECKING:
    from virtio.virtqueue import Queue

logger = logging.getLogger(__name__)

CHAINS: Final = 256
COPIES: Final = 2048
"""Room for the descriptors of one call: a chain has up to 1024, and most have a few."""

_PLAIN: Final = Struct("<QIHHH6x")
_DESCRIPTOR: Final = Struct("<QIH10x")  # the same without head and id
_TAKEN: Final = Struct("<QQIIIII4x")
_USED: Final = Struct("<III")
assert _PLAIN.size == _DESCRIPTOR.size == ffi.sizeof("struct plain")
assert _TAKEN.size == ffi.sizeof("struct taken")
assert _USED.size == ffi.sizeof("struct used")
_unpack_taken, _unpack_descriptors = _TAKEN.unpack_from, _DESCRIPTOR.iter_unpack
_pack_used = _USED.pack_into
assert (lib.IDLE, lib.LEFT, lib.TELL, lib.MORE) == (IDLE, LEFT, TELL, MORE)
assert array("I").itemsize == ffi.sizeof("uint32_t")


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
        if len(lengths) != self._count:
            return super().give_back(lengths)
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


class _Room:
    """Where chains are on their way to C and back: arrays of structures, and the same as bytes."""

    __slots__ = ("copies", "copies_bytes", "count", "taken", "taken_bytes", "used", "used_bytes")

    def __init__(self, size: int) -> None:
        self.used = ffi.new("struct used[]", size)
        self.taken = ffi.new("struct taken[]", CHAINS)
        self.copies = ffi.new("struct plain[]", COPIES)
        self.count = ffi.new("uint32_t *")
        self.used_bytes = memoryview(ffi.buffer(self.used))
        self.taken_bytes = memoryview(ffi.buffer(self.taken))
        self.copies_bytes = memoryview(ffi.buffer(self.copies))


class NativeQueue:
    """The rings of one queue as C sees them, until :meth:`close`.

    The positions stay the queue's: they are copied in before a call and out after it.
    """

    __slots__ = ("_log", "_owner", "_regions", "_room", "_served", "_struct")

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
        self._room: _Room | None = None  # made when it is needed first
        struct.descriptors, struct.driver, struct.device = map(_address_of, areas)
        struct.size, struct.packed = owner.size, packed
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

    def exchange(
        self, used: Sequence[tuple[int, int, int]], entries: int, limit: int, wait_ns: int
    ) -> tuple[list[DescriptorChain], int]:
        """Give chains back, and take up to ``limit`` ordinary ones, as :meth:`Queue.exchange` does.

        ``used`` has for each the buffer id, the bytes written and the number of slots.
        ``entries`` is how many slots were given back with these since the
        driver's wish to be notified was looked at. Returns ``TELL`` without taking any if it has
        that wish, and ``IDLE``, ``LEFT`` or ``MORE``.
        """
        owner, struct, room = self._owner, self._struct, self._room
        if room is None:
            room = self._room = _Room(owner.size)
        given = 0
        for buffer_id, length, slots in used:
            _pack_used(room.used_bytes, given * _USED.size, buffer_id, length, slots)
            given += 1
        struct.next_avail, struct.next_used = owner._next_avail, owner._next_used
        end: int = lib.exchange(
            *(struct, room.used, given, entries, wait_ns),
            *(room.taken, min(limit, CHAINS), room.copies, COPIES, room.count),
        )
        chains: list[DescriptorChain] = []
        if given:
            owner._next_used = struct.next_used
        if end == TELL:
            return chains, end
        owner._next_avail = struct.next_avail
        start = 0
        for row in range(0, room.count[0] * _TAKEN.size, _TAKEN.size):
            readable, writable, head, buffer_id, slots, number, reads = _unpack_taken(
                room.taken_bytes, row
            )
            stop = start + number * _DESCRIPTOR.size
            found = list(_unpack_descriptors(room.copies_bytes[start:stop]))
            chains.append(
                checked_chain(owner, found, reads, readable, writable, head, buffer_id, slots)
            )
            start = stop
        return chains, end

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
