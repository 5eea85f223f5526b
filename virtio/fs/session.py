"""A session of FUSE: from the driver's INIT on, the operations and what was agreed about them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from virtio.fs.answers import Answers, Cache
from virtio.fs.attributes import AttributeOperations
from virtio.fs.directories import Directories
from virtio.fs.files import MAX_WRITE_BYTES, Files
from virtio.fs.filesystem import FileSystem
from virtio.fs.locks import Locks
from virtio.fs.message import Message
from virtio.fs.names import Names
from virtio.fs.protocol import (
    BIG,
    FUSE_ASYNC_DIO,
    FUSE_ASYNC_READ,
    FUSE_ATOMIC_O_TRUNC,
    FUSE_AUTO_INVAL_DATA,
    FUSE_BATCH_FORGET,
    FUSE_BIG_WRITES,
    FUSE_CACHE_SYMLINKS,
    FUSE_COPY_FILE_RANGE,
    FUSE_CREATE,
    FUSE_DESTROY,
    FUSE_DO_READDIRPLUS,
    FUSE_FALLOCATE,
    FUSE_FLOCK_LOCKS,
    FUSE_FLUSH,
    FUSE_FORGET,
    FUSE_FSYNC,
    FUSE_FSYNCDIR,
    FUSE_GETATTR,
    FUSE_GETLK,
    FUSE_GETXATTR,
    FUSE_HANDLE_KILLPRIV_V2,
    FUSE_INIT,
    FUSE_INIT_BSWAP_RESERVED,
    FUSE_INTERRUPT,
    FUSE_KERNEL_MINOR_VERSION,
    FUSE_KERNEL_VERSION,
    FUSE_LINK,
    FUSE_LISTXATTR,
    FUSE_LOOKUP,
    FUSE_LSEEK,
    FUSE_MAX_PAGES,
    FUSE_MKDIR,
    FUSE_MKNOD,
    FUSE_OPEN,
    FUSE_OPENDIR,
    FUSE_PARALLEL_DIROPS,
    FUSE_POSIX_LOCKS,
    FUSE_READ,
    FUSE_READDIR,
    FUSE_READDIRPLUS,
    FUSE_READDIRPLUS_AUTO,
    FUSE_READLINK,
    FUSE_RELEASE,
    FUSE_RELEASEDIR,
    FUSE_REMOVEXATTR,
    FUSE_RENAME,
    FUSE_RENAME2,
    FUSE_RMDIR,
    FUSE_SETATTR,
    FUSE_SETLK,
    FUSE_SETLKW,
    FUSE_SETXATTR,
    FUSE_STATFS,
    FUSE_SYMLINK,
    FUSE_SYNCFS,
    FUSE_UNLINK,
    FUSE_WRITE,
    LITTLE,
)
from virtio.fs.work import Answer

if TYPE_CHECKING:
    from virtio.virtqueue.chain import DescriptorChain

OLDEST_MINOR: Final = 31
"""Linux 5.4, the first with a driver for virtio-fs."""

PAGE_BYTES: Final = 4096

OFFERED: Final = (
    FUSE_ASYNC_READ
    | FUSE_ATOMIC_O_TRUNC
    | FUSE_BIG_WRITES
    | FUSE_AUTO_INVAL_DATA
    | FUSE_DO_READDIRPLUS
    | FUSE_READDIRPLUS_AUTO
    | FUSE_ASYNC_DIO
    | FUSE_PARALLEL_DIROPS
    | FUSE_MAX_PAGES
    | FUSE_HANDLE_KILLPRIV_V2
)
"""What is agreed to if the driver asks for it. Not among it: WRITEBACK_CACHE, with which the guest
would go on writing to a file that the host has changed; DONT_MASK, as access lists are not shared;
SUBMOUNTS, so that a mounted file system below is part of the one directory."""

CHANGING: Final = frozenset(
    {
        *(FUSE_SETATTR, FUSE_SYMLINK, FUSE_MKNOD, FUSE_MKDIR, FUSE_UNLINK, FUSE_RMDIR),
        *(FUSE_RENAME, FUSE_RENAME2, FUSE_LINK, FUSE_CREATE, FUSE_WRITE, FUSE_SETXATTR),
        *(FUSE_REMOVEXATTR, FUSE_FALLOCATE, FUSE_COPY_FILE_RANGE),
    }
)
"""What a file system that is read-only refuses."""

UNANSWERED: Final = frozenset({FUSE_FORGET, FUSE_BATCH_FORGET, FUSE_INTERRUPT})
"""What the driver expects no answer to, whatever becomes of it."""


class Session:
    """Answers messages for a file system; ``answers`` packs them in the driver's byte order.

    Before INIT nothing else is answered, and a new INIT begins anew (``FS-04``).
    """

    def __init__(self, system: FileSystem, cache: Cache) -> None:
        self.answers = Answers(cache)
        self.begun = False
        self._system = system
        self._caches_symlinks = cache.keeps_data
        names, files = Names(system, self.answers), Files(system, self.answers)
        attributes = AttributeOperations(system, self.answers)
        directories, locks = Directories(system, self.answers), Locks(system, self.answers)
        self._operations: dict[int, Callable[[Message], Answer]] = {
            FUSE_LOOKUP: names.lookup,
            FUSE_FORGET: names.forget,
            FUSE_GETATTR: attributes.getattr,
            FUSE_SETATTR: attributes.setattr,
            FUSE_READLINK: names.readlink,
            FUSE_SYMLINK: names.symlink,
            FUSE_MKNOD: names.mknod,
            FUSE_MKDIR: names.mkdir,
            FUSE_UNLINK: names.unlink,
            FUSE_RMDIR: names.rmdir,
            FUSE_RENAME: names.rename,
            FUSE_LINK: names.link,
            FUSE_OPEN: files.open,
            FUSE_READ: files.read,
            FUSE_WRITE: files.write,
            FUSE_STATFS: attributes.statfs,
            FUSE_RELEASE: files.release,
            FUSE_FSYNC: files.fsync,
            FUSE_SETXATTR: attributes.setxattr,
            FUSE_GETXATTR: attributes.getxattr,
            FUSE_LISTXATTR: attributes.listxattr,
            FUSE_REMOVEXATTR: attributes.removexattr,
            FUSE_FLUSH: files.flush,
            FUSE_INIT: self._init,
            FUSE_OPENDIR: directories.opendir,
            FUSE_READDIR: directories.readdir,
            FUSE_RELEASEDIR: directories.releasedir,
            FUSE_FSYNCDIR: files.fsync,
            FUSE_GETLK: locks.getlk,
            FUSE_SETLK: locks.setlk,
            FUSE_SETLKW: locks.setlkw,
            FUSE_CREATE: names.create,
            FUSE_INTERRUPT: locks.interrupt,
            FUSE_DESTROY: self._destroy,
            FUSE_BATCH_FORGET: names.batch_forget,
            FUSE_FALLOCATE: files.fallocate,
            FUSE_READDIRPLUS: directories.readdirplus,
            FUSE_RENAME2: names.rename2,
            FUSE_LSEEK: files.lseek,
            FUSE_COPY_FILE_RANGE: files.copy_file_range,
            FUSE_SYNCFS: files.syncfs,
        }

    def read(self, chain: DescriptorChain) -> Message:
        """Return the message of a chain that is long enough for a header.

        INIT tells the byte order of all that come after it.
        """
        layouts = self.answers.layouts
        message = Message(chain, layouts)
        if message.opcode == FUSE_INIT_BSWAP_RESERVED:
            self.answers.layouts = BIG if layouts is LITTLE else LITTLE
            message = Message(chain, self.answers.layouts)
        return message

    def answer(self, message: Message) -> Answer:
        """Do what a message asks for; raises ``OSError`` for what is refused."""
        message.check_length()
        operation = self._operations.get(message.opcode)
        if operation is None:
            # Linux takes that for good, and does without from then on.
            raise OSError(errno.ENOSYS, f"operation {message.opcode}")
        if not self.begun and message.opcode != FUSE_INIT:
            raise OSError(errno.EIO, f"operation {message.opcode} before INIT")
        if message.opcode in CHANGING and self._system.read_only:
            raise OSError(errno.EROFS, "the directory is shared for reading only")
        return operation(message)

    def end(self) -> None:
        """Forget all that the session was about."""
        self.begun = False
        self.answers.layouts = LITTLE
        self._system.restart()

    def _init(self, message: Message) -> Answer:
        """INIT: the version and the abilities that both sides have."""
        layouts = self.answers.layouts
        major, minor, readahead, flags = message.unpack(layouts.init_in)
        self._system.restart()
        self.begun = False
        if major < FUSE_KERNEL_VERSION or (major == FUSE_KERNEL_VERSION and minor < OLDEST_MINOR):
            raise OSError(errno.EPROTO, f"FUSE {major}.{minor}: must be 7.{OLDEST_MINOR} or later")
        if major > FUSE_KERNEL_VERSION:
            # The driver then sends another INIT, with our version.
            return layouts.init_out.pack(FUSE_KERNEL_VERSION, FUSE_KERNEL_MINOR_VERSION, *(0,) * 9)
        self.begun = True
        offered = OFFERED
        if self._system.shared_locks:
            offered |= FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS
        if self._caches_symlinks:
            offered |= FUSE_CACHE_SYMLINKS
        return layouts.init_out.pack(
            FUSE_KERNEL_VERSION,
            FUSE_KERNEL_MINOR_VERSION,
            readahead,
            flags & offered,
            *(_MAX_BACKGROUND, _MAX_BACKGROUND * 3 // 4),
            MAX_WRITE_BYTES,
            1,  # nanosecond: what times are kept in
            *(MAX_WRITE_BYTES // PAGE_BYTES, 0, 0),
        )

    def _destroy(self, message: Message) -> Answer:
        """DESTROY: the directory is not mounted any more."""
        self.end()
        return b""


_MAX_BACKGROUND: Final = 64
