"""What a file system must do to be shared with a guest; :mod:`vmm.share` has the host's directory.

The calls are those of FUSE, with nodes and handles as numbers. A call that cannot be done raises
``OSError``, whose number is the guest's answer.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from virtio.named_tuple import NamedTuple

Result = TypeVar("Result")

Later = Callable[[], Result]
"""Work that may wait, to be called once, by a thread; it touches nothing that the guest changes."""

ROOT: Final = 1
"""The number of the node at the root: FUSE_ROOT_ID."""


class Caller(NamedTuple):
    """Who asks, in the guest's numbers."""

    uid: int
    gid: int


class Attributes(NamedTuple):
    """What stat(2) tells: ``blocks`` of 512 bytes, times in nanoseconds."""

    inode: int
    size_bytes: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    links: int
    uid: int
    gid: int
    device: int
    block_bytes: int


class Entry(NamedTuple):
    """A node that was looked up once more, and its attributes."""

    node: int
    attributes: Attributes


class Opened(NamedTuple):
    """A handle of a file; ``unchanged`` if its content is what it was at the open before."""

    handle: int
    unchanged: bool


class Changes(NamedTuple):
    """What SETATTR changes; None for what stays. A time is in nanoseconds, -1 for now.

    ``drop_privileges`` clears set-user-ID, and set-group-ID where it means that.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size_bytes: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    drop_privileges: bool = False


class DirectoryEntry(NamedTuple):
    """A name in a directory; ``offset`` is where the next one is, ``kind`` that of ``d_type``."""

    name: bytes
    inode: int
    kind: int
    offset: int


class Lock(NamedTuple):
    """A lock of fcntl(2), both ends included; ``kind`` is F_RDLCK (0), F_WRLCK (1), F_UNLCK (2)."""

    start: int
    end: int
    kind: int
    process: int


class Space(NamedTuple):
    """What statfs(2) tells; ``blocks`` are of ``fragment_bytes``."""

    blocks: int
    free: int
    available: int
    files: int
    free_files: int
    block_bytes: int
    name_bytes: int
    fragment_bytes: int


class FileSystem(ABC):
    """A tree of nodes, from number 1 on, and handles of what is open in it.

    All calls come one at a time, under the device's work lock, and must not wait for long; what
    may do that is returned as :data:`Later`. Names are one component, checked: 1 to 255 bytes, no
    slash, no NUL, not ``.`` or ``..``. Each entry that a call returns counts as one lookup of its
    node, which lives until all are forgotten.

    ``read_only`` says that nothing can be changed, and is checked before the call. ``shared_locks``
    says that locks hold beyond the guest; otherwise its kernel keeps them.
    """

    read_only = True
    shared_locks = False

    @abstractmethod
    def restart(self) -> None:
        """Forget all nodes but the root, close all handles and drop all locks."""

    # Names

    @abstractmethod
    def lookup(self, parent: int, name: bytes) -> Entry:
        """Find a name in a directory."""

    @abstractmethod
    def forget(self, node: int, count: int) -> None:
        """Take so many lookups back; of a number that is none, nothing happens."""

    def readlink(self, node: int) -> bytes:
        """Return what a symbolic link says."""
        raise _unsupported()

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Entry:
        """Make a symbolic link."""
        raise _unsupported()

    def mknod(self, parent: int, name: bytes, mode: int, device: int, caller: Caller) -> Entry:
        """Make a file that is no directory."""
        raise _unsupported()

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Entry:
        """Make a directory."""
        raise _unsupported()

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name that is no directory's."""
        raise _unsupported()

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        raise _unsupported()

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> None:
        """Rename, with the flags of renameat2(2)."""
        raise _unsupported()

    def link(self, node: int, parent: int, name: bytes) -> Entry:
        """Give a node another name."""
        raise _unsupported()

    # Attributes

    @abstractmethod
    def getattr(self, node: int, handle: int | None) -> Attributes:
        """Return the attributes of a node, by a handle of it where there is one."""

    def setattr(self, node: int, handle: int | None, changes: Changes) -> Attributes:
        """Change attributes, and return all of them."""
        raise _unsupported()

    @abstractmethod
    def statfs(self, node: int) -> Space:
        """Tell how much room there is."""

    def setxattr(self, node: int, name: bytes, value: bytes, flags: int) -> None:
        """Set an extended attribute."""
        raise _unsupported()

    def getxattr(self, node: int, name: bytes) -> bytes:
        """Return an extended attribute."""
        raise _unsupported()

    def listxattr(self, node: int) -> bytes:
        """Return the names of extended attributes, each with a NUL behind it."""
        raise _unsupported()

    def removexattr(self, node: int, name: bytes) -> None:
        """Remove an extended attribute."""
        raise _unsupported()

    # Files

    @abstractmethod
    def open(self, node: int, flags: int, *, drop_privileges: bool) -> Opened:
        """Open a file with the flags of open(2), O_TRUNC included."""

    def create(
        self, parent: int, name: bytes, flags: int, mode: int, caller: Caller
    ) -> tuple[Entry, int]:
        """Make a file, unless it is there, and open it."""
        raise _unsupported()

    @abstractmethod
    def release(self, handle: int, flock_owner: int | None) -> None:
        """Close a handle, and drop the flock(2) of that owner."""

    @abstractmethod
    def try_read(self, handle: int, offset: int, views: Sequence[memoryview]) -> int | None:
        """Fill the views with what can be read at once; None when it would have to be waited for.

        Returns how many bytes that is: fewer only at the end of the file.
        """

    @abstractmethod
    def read(self, handle: int, offset: int, length: int) -> Later[bytes]:
        """Read, and wait for it."""

    def write(
        self,
        handle: int,
        offset: int,
        views: Sequence[memoryview],
        *,
        from_cache: bool,
        drop_privileges: bool,
    ) -> int:
        """Write, and return how many bytes; ``from_cache`` what a page of the guest's held."""
        raise _unsupported()

    def flush(self, handle: int, lock_owner: int) -> None:  # noqa: B027 - without locks, nothing
        """Hear of a close(2), which drops the locks of their owner."""

    def fsync(self, handle: int, *, data_only: bool) -> Later[None]:
        """Make a file or a directory stable."""
        raise _unsupported()

    def syncfs(self, node: int) -> Later[None]:
        """Make everything stable."""
        raise _unsupported()

    def fallocate(self, handle: int, mode: int, offset: int, length: int) -> Later[None]:
        """Change the storage of a range, with the modes of fallocate(2)."""
        raise _unsupported()

    def lseek(self, handle: int, offset: int, whence: int) -> Later[int]:
        """Find data or a hole."""
        raise _unsupported()

    def copy_file_range(
        self, source: int, source_offset: int, target: int, target_offset: int, length: int
    ) -> Later[int]:
        """Copy between two open files; return how many bytes."""
        raise _unsupported()

    # Locks, with ``shared_locks``

    def getlk(self, handle: int, owner: int, lock: Lock) -> Lock:
        """Return a lock that is in the way, or one of kind F_UNLCK."""
        raise _unsupported()

    def setlk(self, handle: int, owner: int, lock: Lock, *, flock: bool) -> None:
        """Take or drop a lock; ``BlockingIOError`` says that another one is in the way."""
        raise _unsupported()

    # Directories

    @abstractmethod
    def opendir(self, node: int) -> int:
        """Open a directory and return its handle."""

    @abstractmethod
    def readdir(self, handle: int, offset: int) -> Iterator[DirectoryEntry]:
        """Yield what is in a directory, from an offset on; 0 is the beginning, as it is by then."""

    @abstractmethod
    def directory_of(self, handle: int) -> int:
        """Return the node that a handle of a directory was opened for."""

    # Saving

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return nodes and handles as plain values."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` returned; what is not there any more answers ESTALE.

        Raises :class:`ConfigurationError` for what cannot be a state.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing
        """Let go of everything."""


def _unsupported() -> OSError:
    return OSError(errno.EOPNOTSUPP, "not supported by this file system")
