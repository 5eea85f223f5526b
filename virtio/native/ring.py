"""The native side of a queue: the same rings in C, at the same positions.

Importing it raises ``ImportError`` where the C part was not built; :mod:`virtio.engine` chooses.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from os import strerror
from struct import Struct
from struct import error as StructError
from typing import TYPE_CHECKING, Any, Final

from virtio.engine import IDLE, LEFT, MORE, TELL, WRONG
from virtio.errors import InternalError
from virtio.native._native import ffi, lib
from virtio.native.batch import NativeBatch, NativeChains
from virtio.rate import TokenBucket
from virtio.virtqueue.batch import ChainBatch

if TYPE_CHECKING:
    from virtio.virtqueue.queue import Queue

logger = logging.getLogger(__name__)

CHAINS: Final = int(lib.CHAINS)
"""How many are taken in one call at most."""

_IMPOSSIBLE: Final = int(lib.IMPOSSIBLE)
_TELLS: Final = Struct("<IIIIQ")
_TAKEN_AT: Final = ffi.offsetof("struct turn", "taken")
assert _TELLS.size == ffi.offsetof("struct turn", "given")
assert (lib.IDLE, lib.LEFT, lib.TELL, lib.MORE, lib.WRONG) == (IDLE, LEFT, TELL, MORE, WRONG)


@cache
def _told(lengths: int) -> Struct:
    """Return the layout of what ``struct turn`` is told, with so many lengths."""
    return Struct(f"<II16xIIIIQ{lengths}I")


assert _told(CHAINS).size == _TAKEN_AT


class DataPath:
    """What serves ordinary chains of a device without Python: one of the kinds of ``serve.c``."""

    __slots__ = ("device", "source")

    def __init__(self, kind: int) -> None:
        self.source: RandomBytes | None = None  # kept as long as C may use it
        self.device = ffi.new("struct device *")
        self.device.kind = kind


def block_path(fd: int, *, sectors: int, writable: bool) -> DataPath:
    """Return what reads and writes ``fd``, which is the disk byte for byte.

    ``writable`` says whether a write is done when it is written, with nothing to do after it.
    """
    path = DataPath(lib.BLOCK)
    path.device.fd, path.device.sectors, path.device.writable = fd, sectors, writable
    return path


def entropy_path(source: RandomBytes) -> DataPath:
    """Return what fills buffers from that source, as :class:`Entropy` does."""
    path = DataPath(lib.ENTROPY)
    path.source = source
    path.device.generator = source.generator
    return path


class RandomBytes:
    """The kernel's random generator: called with a number, it returns so many bytes, or 64 KiB.

    With ``in_process`` it does so without system calls, where the kernel offers that. It serves one
    thread at a time.
    """

    __slots__ = ("_buffer", "_bytes", "generator")

    def __init__(self, *, in_process: bool = True) -> None:
        self.generator = ffi.gc(lib.open_generator(in_process), lib.close_generator)
        self._buffer = ffi.new("uint8_t[]", lib.RANDOM_BYTES)
        self._bytes = ffi.buffer(self._buffer)

    def __call__(self, count: int) -> bytes:
        """Return that many bytes. Raises :class:`OSError` where the host has none to give."""
        given = lib.random_bytes(self.generator, self._buffer, min(count, lib.RANDOM_BYTES))
        if given < 0:
            raise OSError(-given, strerror(-given))
        data: bytes = self._bytes[:given]
        return data


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
        self._bytes: Any = None
        self._nothing = NativeChains(owner, 0, b"")
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
        self.count()
        lib.close_queue(self._struct)
        for view in self._regions:
            view.release()

    def take_plain(self, limit: int) -> NativeBatch:
        """Take up to ``limit`` chains of one descriptor each, as :meth:`Queue.pop_batch` does."""
        owner, struct = self._owner, self._struct
        limit = min(limit, owner.size)
        plain = ffi.new("struct plain[]", limit)
        struct.next_avail, struct.next_used = owner._next_avail, owner._next_used
        if (count := lib.take_plain(struct, plain, limit)) < 0:
            raise self._refusal()
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
        ``WRONG``, having done nothing, if a length is none or has no room. What was given back is
        counted with the next batch that is empty, or by :meth:`count`.
        """
        owner, given, told = self._owner, len(lengths), self._bytes or self._open_turn()
        avail, used, most = owner._next_avail, owner._next_used, limit if limit < CHAINS else CHAINS
        try:
            _told(given).pack_into(
                told, 0, avail, used, given, entries, most, header_bytes, wait_ns, *lengths
            )
        except StructError:
            return self._nothing, WRONG
        end: int = lib.turn(self._struct, self._turn, self._served)
        if end >= WRONG:
            if end == _IMPOSSIBLE:
                raise self._refusal()
            return self._nothing, WRONG
        owner._next_avail, owner._next_used, size, stop, given_at = _TELLS.unpack_from(told)
        if given:
            owner._active_at = given_at
        if not size:
            self.count()
            return self._nothing, end
        self.last = batch = NativeChains(owner, size, told[_TAKEN_AT:stop], header_bytes)
        return batch, end

    def _open_turn(self) -> Any:
        self._turn = ffi.new("struct turn *")
        self._bytes = ffi.buffer(self._turn)
        return self._bytes

    def publish(self, plain: Any, lengths: Any, count: int) -> bool:
        """Give a batch back; returns whether the lengths fitted, for otherwise nothing is done."""
        owner, struct, served = self._owner, self._struct, self._served
        struct.next_avail, struct.next_used = owner._next_avail, owner._next_used
        if (published := lib.publish_plain(struct, plain, lengths, count, served)) <= 0:
            if published:
                raise self._refusal()
            return False
        owner._next_used = struct.next_used
        self.count()
        return True

    def serve(self, path: DataPath, limit: int, wait_ns: int) -> tuple[int, int]:
        """Serve up to ``limit`` chains, as :meth:`Queue.serve_natively` does."""
        owner, struct, served = self._owner, self._struct, self._served
        struct.next_avail, struct.next_used = owner._next_avail, owner._next_used
        end: int = lib.serve(struct, path.device, limit, wait_ns, served)
        if end == _IMPOSSIBLE:
            raise self._refusal()
        owner._next_avail, owner._next_used = struct.next_avail, struct.next_used
        chains, failed = served.chains, served.failed
        self.count()
        if failed and self._log.take(1):
            logger.warning("queue %d: the host could not do %d reads", owner.index, failed)
        if chains:
            owner.note_activity()
        return chains, end

    def wait_available(self, wait_ns: int) -> bool:
        """Wait for a chain on the processor, without the interpreter's lock."""
        owner, struct = self._owner, self._struct
        struct.next_avail, struct.next_used = owner._next_avail, owner._next_used
        if (available := lib.wait_available(struct, wait_ns)) < 0:
            raise self._refusal()
        return bool(available)

    def _refusal(self) -> InternalError:
        """Return the error for positions or counts that C does not index with."""
        owner = self._owner
        return InternalError(
            f"queue {owner.index} of {owner.size}: positions {owner._next_avail} (available) and "
            f"{owner._next_used} (used) cannot be, or more is given back than was taken"
        )

    def count(self) -> None:
        """Add what calls have counted, and clear it for the next ones."""
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
