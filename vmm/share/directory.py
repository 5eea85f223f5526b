"""A directory of the host as a file system for guests, without a daemon and without root.

A guest acts as the user of this process. Files that it makes belong to that user; if that is root,
to whom the guest says. What the guest may do in its own system is for its kernel to decide, which
checks modes and owners (``default_permissions``) as they are on the host.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

from virtio.errors import ConfigurationError, HostError
from virtio.fs.filesystem import (
    Attributes,
    Caller,
    Changes,
    DirectoryEntry,
    Entry,
    FileSystem,
    Later,
    Lock,
    Opened,
    Space,
)
from vmm.host.fallocate import fallocate
from vmm.share import attributes
from vmm.share.attributes import attributes_of, change, space_of
from vmm.share.calls import renameat2, syncfs
from vmm.share.handles import Handles, OpenDirectory, OpenFile
from vmm.share.limits import Limits
from vmm.share.locks import LockFiles
from vmm.share.nodes import O_PATH_FLAGS, Node, Nodes
from vmm.share.saved import restore_handles, restore_nodes, state_of

# What of the guest's flags means something here. Not among them: O_APPEND, as each write says
# whether it appends; O_DIRECT, which asks for aligned memory; O_NOATIME, which asks for an owner.
KEPT_FLAGS: Final = os.O_ACCMODE | os.O_TRUNC | os.O_SYNC | os.O_DSYNC
OPEN_FLAGS: Final = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
RENAME_EXCHANGE: Final = 2
DESCRIPTORS: Final = "/proc/self/fd"

WHITEOUT: Final = os.makedev(0, 0)
"""The device of an overlay's whiteout, which no driver serves."""


class HostDirectory(FileSystem):
    """Serves the directory at ``path``; nobody changes it without ``writable``.

    ``shared_locks`` has locks hold on the host and in other guests, too. Raises
    :class:`ConfigurationError` for what is not there, no directory, or must not be read.
    """

    def __init__(
        self,
        path: str,
        *,
        writable: bool = False,
        shared_locks: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self.path = path
        self.read_only = not writable
        self.shared_locks = shared_locks
        self.limits = limits or Limits()
        self._is_root = os.geteuid() == 0
        with ExitStack() as on_failure:
            self.root_fd = _open_root(path, writable=writable)
            on_failure.callback(os.close, self.root_fd)
            # By a descriptor, which also is good where no path is any more.
            try:
                self._descriptors = os.open(DESCRIPTORS, os.O_PATH | os.O_CLOEXEC)
            except OSError as error:
                raise HostError("open", error.errno or 0, f"share {path}: {DESCRIPTORS}") from None
            on_failure.pop_all()
        self._nodes = Nodes(self.root_fd, self.limits)
        self._handles = Handles(self.limits.handles)
        self._locks = LockFiles()

    def close(self) -> None:
        """Let go of everything."""
        self.restart()
        for fd in (self.root_fd, self._descriptors):
            if fd >= 0:
                os.close(fd)
        self.root_fd = self._descriptors = -1

    def restart(self) -> None:
        """Forget all nodes but the root, close all handles and drop all locks."""
        self._locks.clear()
        self._handles.clear()
        self._nodes.clear()

    # Names

    def lookup(self, parent: int, name: bytes) -> Entry:
        """Find a name in a directory."""
        return self._entry(self._nodes.get(parent), name)

    def forget(self, node: int, count: int) -> None:
        """Take so many lookups back."""
        self._nodes.forget(node, count)

    def _entry(self, parent: Node, name: bytes) -> Entry:
        status = os.stat(name, dir_fd=self._nodes.fd(parent), follow_symlinks=False)
        node = self._nodes.enter(parent, name, status)
        return Entry(node.number, attributes_of(status))

    def readlink(self, node: int) -> bytes:
        """Return what a symbolic link says."""
        one = self._nodes.get(node)
        if one.kind != stat.S_IFLNK:
            raise OSError(errno.EINVAL, "no symbolic link")
        return os.readlink(b"", dir_fd=self._nodes.fd(one))

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Entry:
        """Make a symbolic link."""
        return self._made(parent, name, caller, None, partial(os.symlink, target, name))

    def mknod(self, parent: int, name: bytes, mode: int, device: int, caller: Caller) -> Entry:
        """Make a file, FIFO, socket or whiteout.

        No other device: on the host it would be one of the host's, for whoever the guest lets.
        """
        kind = stat.S_IFMT(mode)
        if kind == stat.S_IFBLK or (kind == stat.S_IFCHR and device != WHITEOUT):
            raise PermissionError(errno.EPERM, "no devices are made in a share")
        make = partial(os.mknod, name, mode, device)
        return self._made(parent, name, caller, mode, make)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Entry:
        """Make a directory."""
        return self._made(parent, name, caller, mode, partial(os.mkdir, name, mode))

    def _made(
        self,
        parent: int,
        name: bytes,
        caller: Caller,
        mode: int | None,
        make: Callable[..., None],
    ) -> Entry:
        """Make an entry with the guest's owner and mode, whatever umask this process has."""
        folder = self._nodes.get(parent)
        directory = self._nodes.fd(folder)
        make(dir_fd=directory)
        fd = os.open(name, O_PATH_FLAGS, dir_fd=directory)
        try:
            self._settle(fd, directory, caller, mode)
        finally:
            os.close(fd)
        return self._entry(folder, name)

    def _settle(self, fd: int, directory: int, caller: Caller, mode: int | None) -> None:
        """Give a new file its owner and mode; a set-group-ID directory hands on its group."""
        before, above = os.fstat(fd), os.fstat(directory)
        inherits = bool(above.st_mode & stat.S_ISGID)
        if mode is not None and inherits and stat.S_ISDIR(before.st_mode):
            mode |= stat.S_ISGID
        uid, gid = before.st_uid, before.st_gid
        if self._is_root:
            uid, gid = caller.uid, gid if inherits else caller.gid
        if (uid, gid) != (before.st_uid, before.st_gid):
            changes = Changes(uid=uid, gid=gid, mode=mode)  # a new owner may cost the mode bits
        elif mode is not None and mode & 0o7777 != before.st_mode & 0o7777:
            changes = Changes(mode=mode)
        else:
            return
        change(str(fd), self._descriptors, before, changes)

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name that is no directory's."""
        self._remove(os.unlink, parent, name)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        self._remove(os.rmdir, parent, name)

    def _remove(self, call: Callable[..., None], parent: int, name: bytes) -> None:
        folder = self._nodes.get(parent)
        node = self._nodes.at(folder, name)
        self._nodes.hold(node)
        call(name, dir_fd=self._nodes.fd(folder))
        self._nodes.lose_name(node)

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> None:
        """Rename, with the flags of renameat2(2)."""
        nodes, old, new = self._nodes, self._nodes.get(parent), self._nodes.get(new_parent)
        moved, replaced = nodes.at(old, name), nodes.at(new, new_name)
        if not flags & RENAME_EXCHANGE:
            nodes.hold(replaced)
        with self._second(old) as old_fd:
            renameat2(old_fd, name, nodes.fd(new), new_name, flags)
        if flags & RENAME_EXCHANGE:
            nodes.move(replaced, old, name)
        elif replaced is not moved:
            nodes.lose_name(replaced)
        nodes.move(moved, new, new_name)

    def link(self, node: int, parent: int, name: bytes) -> Entry:
        """Give a node another name."""
        folder = self._nodes.get(parent)
        with self._second(self._nodes.get(node)) as fd:
            target = self._nodes.fd(folder)
            # By the link in /proc, which leads to the node itself, also to a symbolic link.
            os.link(str(fd), name, src_dir_fd=self._descriptors, dst_dir_fd=target)
        return self._entry(folder, name)

    def _second(self, node: Node) -> _Duplicate:
        """Return a descriptor that stays good while another node is opened."""
        return _Duplicate(self._nodes.fd(node))

    # Attributes

    def getattr(self, node: int, handle: int | None) -> Attributes:
        """Return the attributes of a node, by a handle of it where there is one."""
        if handle is not None:
            return attributes_of(os.fstat(self._handles.file(handle).fd))
        return attributes_of(self._nodes.status(self._nodes.get(node)))

    def setattr(self, node: int, handle: int | None, changes: Changes) -> Attributes:
        """Change attributes, and return all of them."""
        if handle is not None:
            fd = self._handles.file(handle).fd
        else:
            fd = self._nodes.fd(self._nodes.get(node))
        if changes.size_bytes is not None:
            self._resize(fd, changes.size_bytes, by_handle=handle is not None)
        change(str(fd), self._descriptors, os.fstat(fd), changes)
        return attributes_of(os.fstat(fd))

    def _resize(self, fd: int, size_bytes: int, *, by_handle: bool) -> None:
        if by_handle:
            os.ftruncate(fd, size_bytes)
            return
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "only files have a size that can be set")
        file = self._reopen(fd, os.O_WRONLY)
        try:
            os.ftruncate(file, size_bytes)
        finally:
            os.close(file)

    def statfs(self, node: int) -> Space:
        """Tell how much room there is where a node is."""
        return space_of(self._nodes.fd(self._nodes.get(node)))

    def setxattr(self, node: int, name: bytes, value: bytes, flags: int) -> None:
        """Set an extended attribute."""
        os.setxattr(self._own_path(node, name), name, value, flags)

    def getxattr(self, node: int, name: bytes) -> bytes:
        """Return an extended attribute."""
        return os.getxattr(self._own_path(node, name), name)

    def listxattr(self, node: int) -> bytes:
        """Return the names of extended attributes, each with a NUL behind it."""
        names = [os.fsencode(name) for name in os.listxattr(self._own_path(node, b""))]
        return b"".join(name + b"\0" for name in names if not _is_systems(name))

    def removexattr(self, node: int, name: bytes) -> None:
        """Remove an extended attribute."""
        os.removexattr(self._own_path(node, name), name)

    def _own_path(self, node: int, name: bytes) -> str:
        """Return a path of a node, for the calls that have no form with a descriptor for O_PATH."""
        if _is_systems(name):
            raise OSError(errno.EOPNOTSUPP, "access lists are not shared")
        return f"{DESCRIPTORS}/{self._nodes.fd(self._nodes.get(node))}"

    # Files

    def open(self, node: int, flags: int, *, drop_privileges: bool) -> Opened:
        """Open a file."""
        one = self._nodes.get(node)
        self._handles.check_room()
        fd = self._open_file(one, flags & KEPT_FLAGS)
        return self._opened(one, fd, flags, drop=drop_privileges and bool(flags & os.O_TRUNC))

    def _opened(self, node: Node, fd: int, flags: int, *, drop: bool) -> Opened:
        if drop:
            attributes.drop_privileges(fd)
        status = os.fstat(fd)
        version = status.st_size, status.st_mtime_ns, status.st_ctime_ns
        unchanged, node.version = node.version == version, version
        handle = self._handles.add(OpenFile(fd, node, flags & ~os.O_TRUNC))
        return Opened(handle, unchanged)

    def _open_file(self, node: Node, flags: int) -> int:
        """Open the file of a node, and nothing else than a file: that would act on the host."""
        if node.kind == stat.S_IFDIR:
            raise IsADirectoryError(errno.EISDIR, "a directory")
        if node.kind != stat.S_IFREG:
            raise OSError(errno.ENXIO, "no file: the guest's kernel serves it")
        if self.read_only and (flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC):
            raise OSError(errno.EROFS, "the directory is shared for reading only")
        return self._reopen(self._nodes.fd(node), flags)

    def _reopen(self, fd: int, flags: int) -> int:
        """Open what a descriptor with O_PATH stands for."""
        return os.open(str(fd), flags | OPEN_FLAGS, dir_fd=self._descriptors)

    def create(
        self, parent: int, name: bytes, flags: int, mode: int, caller: Caller
    ) -> tuple[Entry, int]:
        """Make a file, unless it is there, and open it."""
        self._handles.check_room()
        folder = self._nodes.get(parent)
        directory = self._nodes.fd(folder)
        make = flags & KEPT_FLAGS | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | OPEN_FLAGS
        try:
            fd = os.open(name, make, mode, dir_fd=directory)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            entry = self._entry(folder, name)
            return entry, self.open(entry.node, flags, drop_privileges=False).handle
        try:
            self._settle(fd, directory, caller, mode)
            status = os.fstat(fd)
            node = self._nodes.enter(folder, name, status)
        except OSError:
            os.close(fd)
            raise
        opened = self._opened(node, fd, flags, drop=False)
        return Entry(node.number, attributes_of(status)), opened.handle

    def release(self, handle: int, flock_owner: int | None) -> None:
        """Close a handle, and drop the flock(2) of that owner."""
        node = self._handles.release(handle)
        if node is not None and flock_owner is not None:
            self._locks.drop((node.number, flock_owner, True))

    def flush(self, handle: int, lock_owner: int) -> None:
        """Drop the locks of an owner, as close(2) does."""
        one = self._handles.file(handle)
        self._locks.drop((one.node.number, lock_owner, False))

    def try_read(self, handle: int, offset: int, views: Sequence[memoryview]) -> int | None:
        """Fill the views with what the host has in its memory; None where that is not all."""
        fd = self._handles.file(handle).fd
        wanted = sum(map(len, views))
        if not wanted:
            return 0
        try:
            got = os.preadv(fd, views, offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return None
            raise
        # Fewer is the end of the file, or of what is in memory.
        return got if got == wanted or offset + got >= os.fstat(fd).st_size else None

    def read(self, handle: int, offset: int, length: int) -> Later[bytes]:
        """Read, and wait for it."""
        return self._handles.file(handle).borrowed(lambda fd: _read_all(fd, offset, length))

    def write(
        self,
        handle: int,
        offset: int,
        views: Sequence[memoryview],
        *,
        from_cache: bool,
        drop_privileges: bool,
    ) -> int:
        """Write to the host's page cache; a file that is open for appending gets it at its end.

        What a page of the guest's held belongs where it was, whatever the file was opened for.
        """
        one = self._handles.file(handle)
        appends = one.flags & os.O_APPEND and not from_cache
        written = os.pwritev(one.fd, views, offset, os.RWF_APPEND if appends else 0) if views else 0
        if drop_privileges:
            attributes.drop_privileges(one.fd)
        return written

    def fsync(self, handle: int, *, data_only: bool) -> Later[None]:
        """Make a file or a directory stable."""
        return self._handles.file(handle).borrowed(os.fdatasync if data_only else os.fsync)

    def syncfs(self, node: int) -> Later[None]:
        """Make the file system of a node stable."""
        fd = self._reopen(self._nodes.fd(self._nodes.get(node)), os.O_RDONLY | os.O_DIRECTORY)
        borrowed = OpenFile(fd, self._nodes.root, 0)
        work = borrowed.borrowed(syncfs)
        borrowed.close()
        return work

    def fallocate(self, handle: int, mode: int, offset: int, length: int) -> Later[None]:
        """Change the storage of a range."""
        one = self._handles.file(handle)
        return one.borrowed(lambda fd: fallocate(fd, mode, offset, length))

    def lseek(self, handle: int, offset: int, whence: int) -> Later[int]:
        """Find data or a hole; nothing here uses the position of an open file."""
        return self._handles.file(handle).borrowed(lambda fd: os.lseek(fd, offset, whence))

    def copy_file_range(
        self, source: int, source_offset: int, target: int, target_offset: int, length: int
    ) -> Later[int]:
        """Copy between two open files."""
        both = self._handles.file(source), self._handles.file(target)

        def copy(source_fd: int, target_fd: int) -> int:
            return os.copy_file_range(source_fd, target_fd, length, source_offset, target_offset)

        outer = both[0]
        return outer.borrowed(lambda fd: both[1].borrowed(partial(copy, fd))())

    # Locks

    def getlk(self, handle: int, owner: int, lock: Lock) -> Lock:
        """Return a lock that is in the way, or one of kind F_UNLCK."""
        node = self._handles.file(handle).node
        return self._locks.get((node.number, owner, False), lock, lambda: self._lock_file(node))

    def setlk(self, handle: int, owner: int, lock: Lock, *, flock: bool) -> None:
        """Take or drop a lock; ``BlockingIOError`` says that another one is in the way."""
        node = self._handles.file(handle).node
        self._locks.set((node.number, owner, flock), lock, lambda: self._lock_file(node))

    def _lock_file(self, node: Node) -> int:
        fd = self._nodes.fd(node)
        if node.kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise OSError(errno.EINVAL, "only files and directories have locks")
        if not self.read_only and node.kind == stat.S_IFREG:
            try:
                return self._reopen(fd, os.O_RDWR)
            except PermissionError:
                pass
        return self._reopen(fd, os.O_RDONLY)

    # Directories

    def opendir(self, node: int) -> int:
        """Open a directory."""
        one = self._nodes.get(node)
        self._handles.check_room()
        fd = self._reopen(self._nodes.fd(one), os.O_RDONLY | os.O_DIRECTORY)
        return self._handles.add(OpenDirectory(fd, one, os.O_RDONLY))

    def readdir(self, handle: int, offset: int) -> Iterator[DirectoryEntry]:
        """Yield what is in a directory, from an offset on."""
        if offset >> 63:
            raise OSError(errno.EINVAL, f"offset {offset} of a directory")
        return self._handles.directory(handle).entries(offset)

    def directory_of(self, handle: int) -> int:
        """Return the node that a handle of a directory was opened for."""
        return self._handles.directory(handle).node.number

    # Saving

    def state(self) -> dict[str, Any]:
        """Return nodes by parent and name, and handles by node. Locks are not among it."""
        return state_of(self._nodes, self._handles)

    def restore(self, state: dict[str, Any]) -> None:
        """Take them over; what is not there any more answers ESTALE."""
        self.restart()
        restore_nodes(self._nodes, state, self.limits)
        restore_handles(self._nodes, self._handles, state, self._open_again, self.limits)

    def _open_again(self, node: Node, flags: int) -> int:
        if flags & os.O_DIRECTORY:
            return self._reopen(self._nodes.fd(node), os.O_RDONLY | os.O_DIRECTORY)
        return self._open_file(node, flags & KEPT_FLAGS & ~os.O_TRUNC)


class _Duplicate:
    """A second descriptor for the time of a ``with`` block."""

    def __init__(self, fd: int) -> None:
        self._fd = os.dup(fd)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)


def _open_root(path: str, *, writable: bool) -> int:
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except NotADirectoryError:
        raise ConfigurationError(f"share {path}: must be a directory") from None
    except OSError as error:
        raise ConfigurationError(f"share {path}: {error.strerror}") from None
    need = os.R_OK | os.X_OK | (os.W_OK if writable else 0)
    if not os.access(path, need):
        os.close(fd)
        what = "written" if writable else "read"
        raise ConfigurationError(f"share {path}: must not be {what} by this user")
    return fd


def _read_all(fd: int, offset: int, length: int) -> bytes:
    """Read up to the end of the file, or so many bytes."""
    data = bytearray()
    while len(data) < length:
        part = os.pread(fd, length - len(data), offset + len(data))
        if not part:
            break
        data += part
    return bytes(data)


def _is_systems(name: bytes) -> bool:
    """Whether an extended attribute is one by which the host decides on access."""
    return name.startswith(b"system.")
