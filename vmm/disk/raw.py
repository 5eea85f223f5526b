"""The raw image: a file of the host, byte for byte what the guest sees.

A block device of the host is one, too: see ``block_device.py``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from typing import Final, Self

from virtio.block import SECTOR_BYTES
from virtio.errors import ConfigurationError
from virtio.log import Logger
from vmm.disk.held import HeldFile
from vmm.disk.lock import lock_image
from vmm.disk.overlay import BaseDisk
from vmm.host.fallocate import punch_hole, zero_range
from vmm.host.files import IOV_MAX, Mover, copy_data, move_all

logger = Logger(__name__)

PAGE_BYTES: Final = 4096
ZEROES: Final = bytes(65536)


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
    def open(cls, path: str, *, read_only: bool = False, lock: bool = True) -> Self:
        """Open an image and lock it against other writers, unless ``lock`` says otherwise.

        Raises :class:`ConfigurationError` for a file that is missing, of the wrong kind, empty, in
        use elsewhere, or that may not be opened so.
        """
        with contextlib.ExitStack() as on_failure:
            fd = _open(path, read_only=read_only)
            on_failure.callback(os.close, fd)
            if lock:
                cls._lock(fd, path, writes=not read_only)
            disk = cls(fd, name=path, read_only=read_only)
            on_failure.pop_all()
        return disk

    @staticmethod
    def _lock(fd: int, path: str, *, writes: bool) -> None:
        lock_image(fd, path, writes=writes)

    @classmethod
    def of_file(cls, fd: int, *, name: str) -> Self:
        """Take an image that is open for reading, and lock it against writers; owns ``fd``."""
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(os.close, fd)
            lock_image(fd, name, writes=False)
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

    @property
    def files(self) -> tuple[int, ...]:
        """The image."""
        return (self.fd,)

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
                self._write_zeroes(fd, offset, length)

    def _write_zeroes(self, fd: int, offset: int, length: int) -> None:
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

    def share(self) -> Self:
        """Return another owner of the same image, which stays locked until the last one closes."""
        return type(self)(os.dup(self.fd), name=self.name, read_only=self.read_only)

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
