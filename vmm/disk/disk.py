"""Disks of the host for the block device: what the user says of one, and the raw image itself."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Sequence
from typing import Final, Self, cast

from virtio.block import SECTOR_BYTES
from virtio.dataclass import dataclass
from virtio.errors import ConfigurationError
from virtio.log import Logger
from vmm.disk.held import HeldFile
from vmm.disk.overlay import BaseDisk, OverlayDisk
from vmm.host.fallocate import punch_hole, zero_range
from vmm.host.files import IOV_MAX, Mover, copy_data, move_all
from vmm.host.size import parse_size
from vmm.slots import Transport, check_transport

logger = Logger(__name__)

FLOCK: Final = struct.Struct("@hhqqi4x")
assert FLOCK.size == 32
PAGE_BYTES: Final = 4096
ZEROES: Final = bytes(65536)
ALLOWED_OPTIONS: Final = (
    "ro, volatile, serial=TEXT, block-size=BYTES, queues=NUMBER, limit=SIZE, transport=mmio|pci"
)


@dataclass(frozen=True, slots=True)
class DiskConfig:
    """A disk as the user asks for it.

    ``volatile`` keeps what the guest writes in memory, and leaves the file as it is; so does every
    disk of a machine that was restored from a snapshot. That takes memory up to the size of the
    disk, or up to ``limit`` bytes, after which writing fails. ``serial``, ``block_size`` (bytes)
    and ``queues`` are those of :class:`virtio.block.Block`. ``transport`` is None for that of most
    devices of the machine.
    """

    path: str
    read_only: bool = False
    volatile: bool = False
    serial: str = ""
    block_size: int = 512
    queues: int = 1
    limit: int | None = None
    transport: Transport | None = None

    def __post_init__(self) -> None:
        check_transport(f"disk {self.path}", self.transport)
        if self.limit is not None and self.limit < 0:
            raise ConfigurationError(f"disk {self.path}: limit is {self.limit}, must be 0 or more")

    @classmethod
    def parse(cls, text: str) -> DiskConfig:
        """Read ``FILE`` and options: ``,ro``, ``,volatile``, ``,limit=SIZE``, ``,serial=TEXT``,
        ``,block-size=BYTES``, ``,queues=NUMBER``, ``,transport=mmio|pci``.

        A comma in the file's name is doubled. Raises :class:`ConfigurationError`.

        >>> disk = DiskConfig.parse("root.img,ro,serial=root")
        >>> disk.path, disk.read_only, disk.serial
        ('root.img', True, 'root')
        """
        path, *options = (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))
        if not path:
            raise ConfigurationError(f"disk {text!r}: a file name comes first")
        chosen = dict(_option(option) for option in options)
        if len(chosen) < len(options):
            raise ConfigurationError(f"disk {text!r}: an option is given twice")
        return cls(
            path,
            read_only="ro" in chosen,
            volatile="volatile" in chosen,
            serial=chosen.get("serial", ""),
            block_size=_number("block-size", chosen.get("block-size", "512")),
            queues=_number("queues", chosen.get("queues", "1")),
            limit=parse_size(chosen["limit"]) if "limit" in chosen else None,
            transport=cast("Transport | None", chosen.get("transport")),
        )

    def open(self) -> RawDisk | OverlayDisk:
        """Open the image; the caller closes it. Raises :class:`ConfigurationError`."""
        if self.volatile:
            base = RawDisk.open(self.path, read_only=True)
            return OverlayDisk(base, read_only=self.read_only, limit_bytes=self.limit)
        return RawDisk.open(self.path, read_only=self.read_only)


def _option(option: str) -> tuple[str, str]:
    name, equals, value = option.partition("=")
    wants_value = name in ("serial", "block-size", "queues", "limit", "transport")
    if bool(equals) != wants_value or not (wants_value or name in ("ro", "volatile")):
        raise ConfigurationError(f"disk option {option!r}: must be one of {ALLOWED_OPTIONS}")
    return name, value


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ConfigurationError(f"disk option {name}={text}: must be a decimal number")
    return int(text)


class RawDisk(BaseDisk):
    """A raw image: a file, a block device or memory, byte for byte what the guest sees.

    It is a :class:`virtio.block.BlockBackend` and a context manager; it owns ``fd``, which is -1
    when it is closed. The image is used up to its last whole 512-byte sector. ``name`` stands in
    messages.
    """

    fd: int

    def __init__(self, fd: int, *, name: str, read_only: bool = False) -> None:
        self.name = name
        self.read_only = read_only
        self.can_unmap = not read_only
        self._can_zero_range = True
        self.fd = fd
        self.may_wait = not _is_memory(fd)
        self._file = HeldFile(fd)
        self.size_bytes = 0
        self.rescan()

    @classmethod
    def open(cls, path: str, *, read_only: bool = False) -> Self:
        """Open an image and lock it against other writers.

        Raises :class:`ConfigurationError` for a file that is missing, of the wrong kind, empty, in
        use elsewhere, or that may not be opened so.
        """
        with contextlib.ExitStack() as on_failure:
            fd = _open(path, read_only=read_only)
            on_failure.callback(os.close, fd)
            _lock(fd, path, exclusive=not read_only)
            disk = cls(fd, name=path, read_only=read_only)
            on_failure.pop_all()
        return disk

    @classmethod
    def of_file(cls, fd: int, *, name: str) -> Self:
        """Take an image that is open for reading, and lock it against writers; owns ``fd``."""
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(os.close, fd)
            _lock(fd, name, exclusive=False)
            disk = cls(fd, name=name, read_only=True)
            on_failure.pop_all()
        return disk

    @classmethod
    def scratch(cls, size_bytes: int) -> Self:
        """Make an empty disk in memory, which takes no memory until it is written."""
        fd = os.memfd_create("scratch-disk")
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(os.close, fd)
            os.ftruncate(fd, size_bytes)
            disk = cls(fd, name="scratch disk")
            on_failure.pop_all()
        return disk

    def rescan(self) -> int:
        """Look at the image's size again; returns the usable size in bytes."""
        size = os.lseek(self.fd, 0, os.SEEK_END)
        rest = size % SECTOR_BYTES
        if size == rest:
            raise ConfigurationError(f"disk {self.name}: {size} bytes, at least 512 are needed")
        if rest:
            logger.warning("disk %s: the last %d bytes are no sector: not used", self.name, rest)
        self.size_bytes = size - rest
        return self.size_bytes

    def readv(self, views: Sequence[memoryview], offset: int) -> None:
        """Fill the views; an image that was cut off meanwhile is an I/O error (``BLK-13``)."""
        with self._file as fd:
            self._move(os.preadv, fd, views, offset)

    def writev(self, views: Sequence[memoryview], offset: int) -> None:
        """Write the views; never past the size of the disk."""
        with self._file as fd:
            self._move(os.pwritev, fd, views, offset)

    def try_readv(self, views: Sequence[memoryview], offset: int) -> bool:
        """Fill the views if the host has all of it in memory, and its file system tells."""
        if not self.may_wait:
            self._move(os.preadv, self.fd, views, offset)
            return True
        length = self._checked_length(views, offset)
        if len(views) > IOV_MAX:
            return False
        try:
            return os.preadv(self.fd, views, offset, os.RWF_NOWAIT) == length
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return False
            raise

    def try_writev(self, views: Sequence[memoryview], offset: int) -> bool:
        """Write the views, to the host's page cache.

        Most file systems cannot tell whether that has to wait (``RWF_NOWAIT``, ext4 up to Linux
        6.18 at least). It does where a part of a page must be read first, which is found out here,
        and on a host that is far behind with its writing.
        """
        length = self._checked_length(views, offset)
        if self.may_wait and not self._has_edges(offset, offset + length):
            return False
        self._move(os.pwritev, self.fd, views, offset)
        return True

    def _has_edges(self, offset: int, end: int) -> bool:
        """Tell whether a range can be written without reading the rest of its outer pages."""
        return (offset % PAGE_BYTES == 0 or self._is_cached(offset)) and (
            end % PAGE_BYTES == 0 or self._is_cached(end - 1)
        )

    def _is_cached(self, offset: int) -> bool:
        try:
            return os.preadv(self.fd, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
        except OSError:
            return False

    def _move(self, mover: Mover, fd: int, views: Sequence[memoryview], offset: int) -> None:
        length = self._checked_length(views, offset)
        if len(views) > IOV_MAX or mover(fd, views, offset) != length:
            move_all(mover, fd, views, offset)  # from the start: it was no more than begun

    def _checked_length(self, views: Sequence[memoryview], offset: int) -> int:
        length = len(views[0]) if len(views) == 1 else sum(map(len, views))
        if not 0 <= offset <= self.size_bytes - length:
            raise self._outside(offset, length)
        return length

    def flush(self) -> None:
        """Return when everything written is on stable storage."""
        if not self.read_only:
            with self._file as fd:
                os.fdatasync(fd)

    def discard(self, offset: int, length: int) -> None:
        """Punch a hole; where the host cannot, the range stays as it is."""
        self._check_range(offset, length)
        with self._file as fd:
            self._unmap(fd, offset, length)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Zero a range by the cheapest means that the host has."""
        self._check_range(offset, length)
        with self._file as fd:
            if unmap and self._unmap(fd, offset, length):
                return
            if self._can_zero_range:
                self._can_zero_range = zero_range(fd, offset, length)
            if not self._can_zero_range:
                whole, rest = divmod(length, len(ZEROES))
                zeroes = [memoryview(ZEROES)] * whole + [memoryview(ZEROES)[:rest]]
                self._move(os.pwritev, fd, zeroes, offset)

    def _unmap(self, fd: int, offset: int, length: int) -> bool:
        if self.can_unmap:
            self.can_unmap = punch_hole(fd, offset, length)
        return self.can_unmap

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise self._outside(offset, length)

    def _outside(self, offset: int, length: int) -> OSError:
        return OSError(errno.EINVAL, f"{self.name}: {length} bytes at {offset} are outside")

    def frozen(self) -> RawDisk:
        """Return a read-only copy of this moment, while nobody writes; the caller closes it.

        The image itself serves where nobody can write it. Else its data is copied to a nameless
        file beside the host's temporary ones, shared with the image where the file system can.
        """
        if self.read_only:
            return self.share()
        import tempfile

        with tempfile.TemporaryFile(prefix="vmm-disk-") as file:
            copy_data(self.fd, file.fileno(), self.size_bytes)
            return RawDisk(os.dup(file.fileno()), name=self.name, read_only=True)

    def share(self) -> RawDisk:
        """Return another owner of the same image, which stays locked until the last one closes."""
        return RawDisk(os.dup(self.fd), name=self.name, read_only=self.read_only)

    def save(self, target: int) -> None:
        """Copy the data to an empty file."""
        copy_data(self.fd, target, self.size_bytes)

    def detach(self) -> int:
        """Return the file descriptor, which is the caller's from now on."""
        self.fd = -1
        return self._file.detach()

    def close(self) -> None:
        """Close the image, which ends its lock, when the last call of a thread has come back.

        Returns at once; harmless the second time.
        """
        self.fd = -1
        self._file.close()


def _is_memory(fd: int) -> bool:
    """Tell whether a file is in memory: only those know seals. fcntl(2) "File Sealing"."""
    try:
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return True


def _open(path: str, *, read_only: bool) -> int:
    mode = os.O_RDONLY if read_only else os.O_RDWR
    try:
        # O_NONBLOCK: opening a FIFO would wait for its other end; images do not mind it.
        fd = os.open(path, mode | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigurationError(f"disk {path}: {_reason(error, read_only=read_only)}") from error
    kind = os.fstat(fd).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
        os.close(fd)
        raise ConfigurationError(f"disk {path}: a regular file or a block device is needed")
    return fd


def _reason(error: OSError, *, read_only: bool) -> str:
    if error.errno == errno.EISDIR:
        return "a regular file or a block device is needed"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and not read_only:
        return f"cannot be written ({error.strerror}); add ',ro' to use it read-only"
    return str(error.strerror)


def _lock(fd: int, path: str, *, exclusive: bool) -> None:
    """Keep two machines from writing one image: one writer, or any number of readers."""
    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            hint = "" if exclusive else " for writing"
            raise ConfigurationError(f"disk {path}: in use by another machine{hint}") from error
        logger.warning("disk %s: cannot be locked: %s", path, error.strerror)
