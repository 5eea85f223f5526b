"""What the guest has open of a shared directory: files and directories by their handles."""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

from virtio.fs.filesystem import DirectoryEntry, Later
from vmm.share.calls import getdents
from vmm.share.nodes import Node, stale

Result = TypeVar("Result")


class OpenFile:
    """An open file or directory of a node; ``flags`` are what the guest opened it with.

    ``fd`` is -1 for one of a saved machine that is not there any more. Threads that work with the
    descriptor borrow it: closed meanwhile, it stays until they give it back, as its number would
    stand for another file at once.
    """

    def __init__(self, fd: int, node: Node, flags: int) -> None:
        self.fd = fd
        self.node = node
        self.flags = flags
        self._lock = threading.Lock()
        self._borrowers = 0
        self._is_closed = False

    def borrowed(self, call: Callable[[int], Result]) -> Later[Result]:
        """Return work that makes a call with the descriptor, which lives until it was made."""
        with self._lock:
            self._borrowers += 1

        def work() -> Result:
            try:
                return call(self.fd)
            finally:
                self._give_back()

        return work

    def _give_back(self) -> None:
        with self._lock:
            self._borrowers -= 1
            last = self._is_closed and not self._borrowers
        if last:
            os.close(self.fd)

    def close(self) -> None:
        """Close the file, as soon as no thread works with it."""
        if self.fd < 0:
            return
        with self._lock:
            self._is_closed = True
            free = not self._borrowers
        if free:
            os.close(self.fd)


class OpenDirectory(OpenFile):
    """An open directory, which is listed from any offset that it told."""

    def __init__(self, fd: int, node: Node, flags: int) -> None:
        super().__init__(fd, node, flags)
        self._entries: deque[DirectoryEntry] = deque()
        self._offset = 0

    def entries(self, offset: int) -> Iterator[DirectoryEntry]:
        """Yield entries from an offset on; what the caller does not take is there the next time."""
        if not offset or offset != self._offset:
            self._entries.clear()
            os.lseek(self.fd, offset, os.SEEK_SET)
            self._offset = offset
        while True:
            if not self._entries:
                self._entries.extend(getdents(self.fd))
            if not self._entries:
                return
            yield self._entries[0]
            self._offset = self._entries.popleft().offset


class Handles:
    """The open files and directories by number; at most ``most`` (EMFILE)."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._next = 1
        self._open: dict[int, OpenFile] = {}

    def __len__(self) -> int:
        return len(self._open)

    def check_room(self) -> None:
        """Raise EMFILE where no other file can be open."""
        if len(self._open) >= self._most:
            raise OSError(errno.EMFILE, f"the guest has {self._most} files open")

    def add(self, one: OpenFile) -> int:
        """Return the handle of what was opened."""
        handle = self._next
        self._next += 1
        self._open[handle] = one
        return handle

    def file(self, handle: int) -> OpenFile:
        """Return what is open; EBADF for no handle, ESTALE for one whose file is gone."""
        one = self._open.get(handle)
        if one is None:
            raise OSError(errno.EBADF, f"handle {handle}")
        if one.fd < 0:
            raise stale(f"handle {handle}")
        return one

    def directory(self, handle: int) -> OpenDirectory:
        """Return an open directory; ENOTDIR for a file."""
        one = self.file(handle)
        if not isinstance(one, OpenDirectory):
            raise OSError(errno.ENOTDIR, f"handle {handle}")
        return one

    def release(self, handle: int) -> Node | None:
        """Close a handle, and return its node; nothing happens for what is none."""
        one = self._open.pop(handle, None)
        if one is None:
            return None
        one.close()
        return one.node

    def clear(self) -> None:
        """Close all."""
        for handle in list(self._open):
            self.release(handle)

    def items(self) -> Iterator[tuple[int, OpenFile]]:
        """Return the handles with what is open."""
        return iter(self._open.items())

    def add_saved(self, handle: int, one: OpenFile) -> None:
        """Take what a saved machine had open under that handle."""
        self._open[handle] = one
        self._next = max(self._next, handle + 1)
