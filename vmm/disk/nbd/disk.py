"""A disk on an NBD server."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from typing import Final

from virtio.block import SECTOR_BYTES
from virtio.errors import ConfigurationError
from virtio.log import Logger
from virtio.scatter import cut
from vmm.disk.nbd.connection import Command
from vmm.disk.nbd.server import NbdServer
from vmm.disk.overlay import BaseDisk
from vmm.disk.raw import RawDisk

logger = Logger(__name__)

MOST_BLOCK_BYTES: Final = 4096
_RANGE_BYTES: Final = 1 << 30
"""The most that one trim or zero asks for: 32 bits are what the protocol has."""
_COPY_BYTES: Final = 1 << 20


class NbdDisk(BaseDisk):
    """A :class:`virtio.block.BlockBackend` on a server, of which it is one owner.

    Raises :class:`ConfigurationError` for an export that cannot be a disk, or not so.
    """

    def __init__(self, server: NbdServer, *, read_only: bool = False) -> None:
        export = server.export
        self._server: NbdServer | None = server
        self.name = server.name
        self.read_only = read_only
        self.size_bytes = export.size_bytes - export.size_bytes % SECTOR_BYTES
        self.block_size = max(SECTOR_BYTES, export.block_size)
        self.can_unmap = export.trims and not read_only
        if not self.size_bytes:
            raise ConfigurationError(
                f"disk {self.name}: {export.size_bytes} bytes, at least 512 are needed"
            )
        if export.read_only and not read_only:
            raise ConfigurationError(
                f"disk {self.name}: the export is read-only; add ',ro' to use it read-only"
            )
        if self.block_size > MOST_BLOCK_BYTES:
            raise ConfigurationError(
                f"disk {self.name}: its blocks have {self.block_size} bytes, {MOST_BLOCK_BYTES} at"
                " most are possible"
            )

    @property
    def sockets(self) -> int:
        """One, the connection to the server."""
        return 1

    def readv(self, views: Sequence[memoryview], offset: int) -> None:
        """Fill the views; waits for the server, or fails, by the policy of the disk."""
        self._read(views, offset, patient=True)

    def _read(self, views: Sequence[memoryview], offset: int, *, patient: bool) -> None:
        server, left = self._checked(offset, sum(map(len, views)))
        while left:
            part, views = cut(views, min(left, server.export.most_bytes))
            length = sum(map(len, part))
            # Memory of its own: the server may yet write there when nobody waits for it any more.
            memory = (ctypes.c_char * length)()
            server.call(Command("read", memory, offset=offset, length=length), patient=patient)
            done = 0
            with memoryview(memory).cast("B") as data:
                for view in part:
                    view[:] = data[done : done + len(view)]
                    done += len(view)
            offset += length
            left -= length

    def writev(self, views: Sequence[memoryview], offset: int) -> None:
        """Write the views."""
        server, left = self._checked(offset, sum(map(len, views)))
        while left:
            part, views = cut(views, min(left, server.export.most_bytes))
            data = b"".join(part)
            server.call(Command("write", data, offset=offset, length=len(data)))
            offset += len(data)
            left -= len(data)

    def flush(self) -> None:
        """Return when the server has made all that was written stable; one that cannot has."""
        server, _ = self._checked(0, 0)
        if server.export.flushes and not self.read_only:
            server.call(Command("flush"))

    def discard(self, offset: int, length: int) -> None:
        """Tell the server that nobody needs a range."""
        server, _ = self._checked(offset, length)
        if not self.can_unmap:
            return
        size = self.block_size
        start, end = -(-offset // size) * size, (offset + length) // size * size
        while start < end:
            part = min(end - start, _RANGE_BYTES)
            server.call(Command("trim", offset=start, length=part))
            start += part

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Zero a range, by the server if it can."""
        server, _ = self._checked(offset, length)
        while length:
            if server.export.zeroes:
                part = min(length, _RANGE_BYTES)
                server.call(Command("zero", offset=offset, length=part, flag=not unmap))
            else:
                part = min(length, server.export.most_bytes)
                self.writev([memoryview(bytes(part))], offset)
            offset += part
            length -= part

    def _checked(self, offset: int, length: int) -> tuple[NbdServer, int]:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise OSError(errno.EINVAL, f"{self.name}: {length} bytes at {offset} are outside")
        if self._server is None:
            raise OSError(errno.EBADF, "the disk is closed")
        return self._server, length

    def frozen(self) -> BaseDisk:
        """Return a read-only copy of this moment, while nobody writes; the caller closes it.

        The export itself serves where the machine does not write it.
        """
        if self.read_only:
            return self.share()
        import tempfile

        with tempfile.TemporaryFile(prefix="vmm-disk-") as file:
            self.save(file.fileno())
            return RawDisk(os.dup(file.fileno()), name=self.name, read_only=True)

    def share(self) -> NbdDisk:
        """Return another owner of the same connection, which only reads."""
        server, _ = self._checked(0, 0)
        return NbdDisk(server.own(), read_only=True)

    def save(self, target: int) -> None:
        """Copy the data to an empty file, without the zeros; a lost server makes it fail."""
        os.ftruncate(target, self.size_bytes)
        for offset in range(0, self.size_bytes, _COPY_BYTES):
            data = bytearray(min(_COPY_BYTES, self.size_bytes - offset))
            self._read([memoryview(data)], offset, patient=False)
            if any(data):
                os.pwrite(target, data, offset)

    def close(self) -> None:
        """Leave the server; harmless the second time."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
