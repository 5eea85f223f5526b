"""The block device: a disk for the guest over any backend. VIRTIO 1.4 "Block Device"."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from virtio import engine
from virtio.block.backend import SECTOR_BYTES, BlockBackend
from virtio.block.ranges import (
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
    Range,
    RangeLimits,
    parse_ranges,
)
from virtio.block.request import (
    HEADER,
    VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_OK,
    VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_SECURE_ERASE,
    VIRTIO_BLK_T_WRITE_ZEROES,
    Refused,
    describe,
    io_error,
    unsupported,
)
from virtio.block.stability import Syncs
from virtio.block.transfer import STEP_BYTES, Transfer, Transfers
from virtio.device.calls import WaitingCalls
from virtio.device.declaration import DEFAULT_RING_FEATURES, Device, feature, field, queue
from virtio.errors import ConfigurationError, HostError
from virtio.log import Logger
from virtio.rate import TokenBucket
from virtio.saved import checked, shown
from virtio.virtqueue.request import Request

if TYPE_CHECKING:
    from virtio.device.lifecycle import Activation, EventLoop
    from virtio.native.data_path import DataPath
    from virtio.virtqueue.chain import ChainOwner, DescriptorChain

logger = Logger(__name__)

QUEUE_SIZE: Final = 256
SERIAL_BYTES: Final = 20
BLOCK_SIZES: Final = (512, 1024, 2048, 4096)
MAX_QUEUES: Final = 64
MAX_MIN_IO_SIZE: Final = 0x8000
SETTLE_SECONDS: Final = 1.0
"""How long saving the device waits for calls that change the disk."""

CHANGING: Final = frozenset(
    {
        *("capacity", "writeback", "write_zeroes_may_unmap"),
        *("physical_block_exp", "min_io_size", "discard_sector_alignment"),
    }
)
"""The configuration fields that a disk does not keep for its life: what changes, and what tells of
the medium, which is another one after a restore."""

Operation = Callable[[Request, int], int | None]
"""What serves one type of request, given its sector: returns how many bytes it wrote to the guest,
or ``None`` when the answer comes later. Raises :class:`Refused` and :class:`OSError`."""


def _writable(device: Block) -> bool:
    return not device.backend.read_only


class Block(Device):
    """A disk over a :class:`BlockBackend`: in place where that does not wait, else by threads.

    ``serial`` is what GET_ID answers, at most 20 ASCII characters; ``block_size`` the logical block
    in bytes (512-4096), by default the backend's; ``queues`` the number of request queues. A
    backend that is read-only makes a read-only disk. Raises :class:`ConfigurationError` for what
    cannot be.

    Writes are stable before they complete unless the driver took the duty to flush (``BLK-20``,
    ``BLK-21``). After a failed sync no later one succeeds, as what was lost stays lost; this
    outlives a reset (``BLK-25``). Host errors reach the driver as IOERR and the log, rate-limited.
    """

    device_id = 2

    VIRTIO_BLK_F_SEG_MAX = feature(2)
    VIRTIO_BLK_F_RO = feature(5, when=lambda device: device.backend.read_only)
    VIRTIO_BLK_F_BLK_SIZE = feature(6)
    VIRTIO_BLK_F_FLUSH = feature(9)
    VIRTIO_BLK_F_TOPOLOGY = feature(10)
    VIRTIO_BLK_F_CONFIG_WCE = feature(11, when=_writable)
    VIRTIO_BLK_F_MQ = feature(12, when=lambda device: device.num_queues > 1)
    VIRTIO_BLK_F_DISCARD = feature(13, when=lambda device: device.discards)
    VIRTIO_BLK_F_WRITE_ZEROES = feature(14, when=_writable)

    capacity = field("u64", 0x00)
    seg_max = field("u32", 0x0C, feature=VIRTIO_BLK_F_SEG_MAX, default=QUEUE_SIZE - 2)
    blk_size = field("u32", 0x14, feature=VIRTIO_BLK_F_BLK_SIZE)
    physical_block_exp = field("u8", 0x18, feature=VIRTIO_BLK_F_TOPOLOGY)
    min_io_size = field("u16", 0x1A, feature=VIRTIO_BLK_F_TOPOLOGY)
    writeback = field("u8", 0x20, feature=VIRTIO_BLK_F_CONFIG_WCE, default=1)
    num_queues = field("u16", 0x22, feature=VIRTIO_BLK_F_MQ, default=1)
    max_discard_sectors = field("u32", 0x24, feature=VIRTIO_BLK_F_DISCARD, default=1 << 22)
    max_discard_seg = field("u32", 0x28, feature=VIRTIO_BLK_F_DISCARD, default=16)
    discard_sector_alignment = field("u32", 0x2C, feature=VIRTIO_BLK_F_DISCARD, default=8)
    max_write_zeroes_sectors = field(
        "u32", 0x30, feature=VIRTIO_BLK_F_WRITE_ZEROES, default=1 << 14
    )
    max_write_zeroes_seg = field("u32", 0x34, feature=VIRTIO_BLK_F_WRITE_ZEROES, default=1)
    write_zeroes_may_unmap = field("u8", 0x38, feature=VIRTIO_BLK_F_WRITE_ZEROES)

    def __init__(
        self,
        backend: BlockBackend,
        *,
        serial: str = "",
        block_size: int | None = None,
        queues: int = 1,
        ring_features: int = DEFAULT_RING_FEATURES,
    ) -> None:
        super().__init__(ring_features=ring_features)
        self.backend = backend
        self.serial = _serial(serial)
        self.discards = backend.can_unmap and not backend.read_only
        self.capacity = backend.size_bytes // SECTOR_BYTES
        self.blk_size = size = _block_size(block_size, backend)
        self.min_io_size = min(max(1, backend.physical_block_size // size), MAX_MIN_IO_SIZE)
        self.physical_block_exp = self.min_io_size.bit_length() - 1
        self.discard_sector_alignment = max(1, backend.discard_alignment // SECTOR_BYTES)
        self.num_queues = _queue_count(queues)
        self.write_zeroes_may_unmap = int(backend.can_unmap)
        self._calls = WaitingCalls(self._choose)
        self._transfers = Transfers(backend, self._calls, self._check_range, self._moved)
        self._syncs = Syncs(backend, self._calls, self._answer)
        self._log = TokenBucket(1, 10)
        self._operations: dict[int, Operation] = {
            VIRTIO_BLK_T_IN: self._read,
            VIRTIO_BLK_T_OUT: self._write,
            VIRTIO_BLK_T_FLUSH: self._flush,
            VIRTIO_BLK_T_GET_ID: self._get_id,
            VIRTIO_BLK_T_DISCARD: self._discard,
            VIRTIO_BLK_T_WRITE_ZEROES: self._write_zeroes,
        }

    @queue(
        size=QUEUE_SIZE,
        count="num_queues",
        multiqueue=VIRTIO_BLK_F_MQ,
        burst=64,
        header=HEADER,
        native="_data_path",
    )
    def requestq(self, request: Request) -> int | None:
        """Serve one request; what takes long goes on beside other work."""
        if request.header is None:  # and perhaps no status byte either (BLK-04)
            return request.finish(VIRTIO_BLK_S_IOERR, 0)
        kind, _, sector = request.header
        try:
            operation = self._operations.get(kind) or self._refuse
            written = operation(request, sector)
        except (Refused, OSError) as error:
            return self._failed(request, error)
        return None if written is None else request.finish(VIRTIO_BLK_S_OK, written)

    def _failed(self, request: Request, error: Exception) -> int:
        if isinstance(error, Refused):
            logger.debug("block %s: %s: %s", self.serial, describe(request), str(error))
            return request.finish(error.status, 0)
        if self._log.take(1):
            # As text: a record that is kept would keep the request's memory too.
            logger.warning("block %s: %s failed: %s", self.serial, describe(request), str(error))
        return request.finish(VIRTIO_BLK_S_IOERR, 0)

    def _refuse(self, request: Request, sector: int) -> int | None:
        if request.header is not None and request.header[0] == VIRTIO_BLK_T_SECURE_ERASE:
            self._check_writable()
        raise unsupported("there is no such type")

    def _check_writable(self) -> None:
        if self.backend.read_only:
            raise io_error("the disk is read-only")

    # Data

    def _data_path(self) -> DataPath | None:
        """Return the native way to read and write, where the medium is a plain file."""
        fd, native = self.backend.fd, engine.data_paths()
        if fd is None or native is None:
            return None
        writable = not (self.backend.read_only or self.write_through or self._calls.changing)
        sectors = min(self.capacity, self.backend.size_bytes // SECTOR_BYTES)
        path: DataPath = native.block_path(
            fd, sectors=sectors, writable=writable, may_wait=self.backend.may_wait
        )
        return path

    def _read(self, request: Request, sector: int) -> int | None:
        length = request.data_in_bytes
        self._check_range(sector, length)
        transfers = self._transfers
        if self.turn_bytes + length > STEP_BYTES:
            transfers.put_off(request, sector, writes=False)
            return None
        if length and not self.backend.try_readv(request.data_in, sector * SECTOR_BYTES):
            transfers.wait(request, sector, writes=False)
            return None
        self.turn_bytes += length
        return length

    def _write(self, request: Request, sector: int) -> int | None:
        self._check_writable()
        length = request.data_out_bytes
        self._check_range(sector, length)
        transfers = self._transfers
        if self.turn_bytes + length > STEP_BYTES:
            transfers.put_off(request, sector, writes=True)
            return None
        if length and (
            self._calls.changing
            or not self.backend.try_writev(request.data_out, sector * SECTOR_BYTES)
        ):
            transfers.wait(request, sector, writes=True)
            return None
        self.turn_bytes += length
        return self._stabilize(request)

    def _check_range(self, sector: int, length: int) -> None:
        if length % SECTOR_BYTES:
            raise io_error(f"{length} bytes are no whole sectors")
        sectors = length // SECTOR_BYTES
        if sector + sectors > self.config_values["capacity"]:
            raise io_error(f"{sectors} sectors from {sector}, there are {self.capacity}")

    def _moved(self, transfer: Transfer, error: Exception | None) -> None:
        """Take up a transfer that has ended."""
        if transfer.writes:
            self._changed(transfer.request, error)
        else:
            self._answer((transfer.request,), error, transfer.request.data_in_bytes)

    def _changed(self, request: Request, error: Exception | None) -> None:
        """Take up a change of the disk that was made: it has to be stable, perhaps."""
        if error is None:
            try:
                if self._stabilize(request) is None:
                    return
            except OSError as lost:
                error = lost
        self._answer((request,), error)

    def _answer(
        self, requests: Sequence[Request], error: Exception | None, written: int = 0
    ) -> None:
        """Complete requests whose answer comes late, and tell the driver once.

        Raises ``error`` again after that, if the host is not the one to blame.
        """
        answers: dict[ChainOwner, list[tuple[DescriptorChain, int]]] = {}
        for request in requests:
            if error is None:
                length = request.finish(VIRTIO_BLK_S_OK, written)
            else:
                length = self._failed(request, error)
            answers.setdefault(request.chain.owner, []).append((request.chain, length))
        for owner, pairs in answers.items():
            # All at once: one by one, the driver would answer with a notification for each.
            owner.add_used_many(pairs)
            owner.notify()
        if not isinstance(error, Refused | OSError | None):
            raise error

    # Cache

    def negotiated(self, features: int) -> None:
        """Take the accepted set: without FLUSH the cache starts as write-through (``BLK-22``)."""
        super().negotiated(features)
        self.writeback = int(not self.VIRTIO_BLK_F_CONFIG_WCE or self.VIRTIO_BLK_F_FLUSH)

    @writeback.written
    def _writeback_written(self, value: int) -> bool:
        return value in (0, 1)

    @property
    def write_through(self) -> bool:
        """Whether a write must be stable before it completes."""
        if self.VIRTIO_BLK_F_CONFIG_WCE:
            return not self.writeback
        return not self.VIRTIO_BLK_F_FLUSH

    def _stabilize(self, request: Request) -> int | None:
        """Return 0 unless the request has to wait until all that was written is stable."""
        return 0 if not self.write_through or self._syncs.join(request) else None

    def _flush(self, request: Request, sector: int) -> int | None:
        return 0 if self._syncs.join(request) else None

    # Ranges

    def _discard(self, request: Request, sector: int) -> int | None:
        self._check_writable()
        if not self.VIRTIO_BLK_F_DISCARD:
            raise unsupported("DISCARD was not negotiated")
        limits = RangeLimits(self.max_discard_seg, self.max_discard_sectors, flags=0)
        ranges = self._ranges(request, limits)
        return self._change(request, partial(_discard_all, self.backend, ranges))

    def _write_zeroes(self, request: Request, sector: int) -> int | None:
        self._check_writable()
        if not self.VIRTIO_BLK_F_WRITE_ZEROES:
            raise unsupported("WRITE_ZEROES was not negotiated")
        limits = RangeLimits(
            self.max_write_zeroes_seg,
            self.max_write_zeroes_sectors,
            flags=VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
        )
        ranges = self._ranges(request, limits)
        return self._change(request, partial(_zero_all, self.backend, ranges))

    def _change(self, request: Request, change: Callable[[], None]) -> int | None:
        """Change the disk, which has no form that does not wait."""
        if self.backend.may_wait:
            then = partial(self._ranges_changed, request)
            queue_index = request.queue_index
            self._calls.make(lambda: change, then, queue=queue_index, changes=True)
            return None
        change()
        self.write_zeroes_may_unmap = int(self.backend.can_unmap)
        return self._stabilize(request)

    def _ranges_changed(self, request: Request, error: Exception | None) -> None:
        if error is None:
            self.write_zeroes_may_unmap = int(self.backend.can_unmap)
        self._changed(request, error)

    def _ranges(self, request: Request, limits: RangeLimits) -> list[Range]:
        """Return the ranges that are not empty, all of them checked."""
        ranges = parse_ranges(request, limits)
        for one in ranges:
            self._check_range(one.sector, one.sectors * SECTOR_BYTES)
        return [one for one in ranges if one.sectors]

    # The rest

    def _get_id(self, request: Request, sector: int) -> int:
        name = self.serial.encode("ascii").ljust(SERIAL_BYTES, b"\0")
        return request.write(name)

    def resize(self, sectors: int) -> None:
        """Give the disk a new capacity, in 512-byte sectors, and tell the driver (``BLK-38``)."""
        available = self.backend.size_bytes // SECTOR_BYTES
        if not 0 <= sectors <= available:
            raise ConfigurationError(f"disk of {sectors} sectors: 0 to {available} are allowed")
        self.capacity = sectors

    # Life

    def activate(self, activation: Activation) -> None:
        """Go live; what an activation before this one began comes to nothing."""
        self._connect(activation.loop)
        super().activate(activation)

    def disable_queue(self, index: int) -> None:
        """Let go of the requests of one queue, whatever the disk does with them."""
        self._transfers.forget(index)
        self._syncs.forget(index)
        self._calls.forget(index)
        super().disable_queue(index)
        self._choose()

    def reset(self) -> None:
        """Let go of all requests, whatever the disk does, and return to power-on (``BLK-42``)."""
        self._connect(None)
        super().reset()

    def _connect(self, loop: EventLoop | None) -> None:
        self._transfers.connect(loop)
        self._syncs.connect(loop)
        self._calls.connect(loop)

    def state(self) -> dict[str, Any]:
        """Return the configuration, and whether a sync failed.

        Requests under way are saved with their queues, and are served anew. Raises
        :class:`HostError` when a change of the disk is under way and does not end: what the disk
        holds cannot be told.
        """
        if not self._calls.settle(SETTLE_SECONDS):
            raise HostError(
                "saving a disk", errno.EBUSY, f"{self.backend.name} does not end a change of it"
            )
        return super().state() | {"sync_failed": self._syncs.failed}

    def restore(self, state: dict[str, Any]) -> None:
        """Take them over, for a disk with as many sectors at least.

        Raises :class:`ConfigurationError` for a disk that is not like the one saved.
        """
        sync_failed = checked(bool, "sync_failed", state["sync_failed"])
        own = {one.name: getattr(self, one.name) for one in self.fields}
        super().restore(state)
        for one in self.fields:
            mine, saved = own[one.name], getattr(self, one.name)
            if one.name not in CHANGING and mine != saved:
                raise ConfigurationError(f"saved disk: {one.name} is {saved}, must be {mine}")
        available = self.backend.size_bytes // SECTOR_BYTES
        if self.capacity > available:
            raise ConfigurationError(
                f"saved disk: capacity is {self.capacity} sectors, there are {available}"
            )
        if self.writeback > 1 or self.write_zeroes_may_unmap > 1:
            raise ConfigurationError("saved disk: writeback and may_unmap must be 0 or 1")
        self._syncs.failed |= sync_failed


def _discard_all(backend: BlockBackend, ranges: Iterable[Range]) -> None:
    for one in ranges:
        backend.discard(one.sector * SECTOR_BYTES, one.sectors * SECTOR_BYTES)


def _zero_all(backend: BlockBackend, ranges: Iterable[Range]) -> None:
    for one in ranges:
        offset, length = one.sector * SECTOR_BYTES, one.sectors * SECTOR_BYTES
        backend.write_zeroes(offset, length, unmap=one.unmap)


def _serial(serial: str) -> str:
    if len(serial) > SERIAL_BYTES or not serial.isascii() or not serial.isprintable():
        raise ConfigurationError(
            f"disk serial {shown(serial)}: at most {SERIAL_BYTES} printable ASCII characters are"
            " allowed"
        )
    return serial


def _block_size(chosen: int | None, backend: BlockBackend) -> int:
    block_size = backend.block_size if chosen is None else chosen
    if block_size not in BLOCK_SIZES:
        raise ConfigurationError(f"disk block size {block_size}: 512, 1024, 2048, 4096 are allowed")
    if block_size < backend.block_size:
        raise ConfigurationError(
            f"disk block size {block_size}: {backend.name} has blocks of {backend.block_size}"
        )
    if backend.size_bytes % block_size:
        raise ConfigurationError(
            f"disk block size {block_size}: the disk has {backend.size_bytes} bytes, which is no"
            " multiple"
        )
    return block_size


def _queue_count(queues: int) -> int:
    if not 1 <= queues <= MAX_QUEUES:
        raise ConfigurationError(f"disk with {queues} queues: 1 to {MAX_QUEUES} are allowed")
    return queues
