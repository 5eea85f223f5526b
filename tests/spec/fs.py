"""A file system for the tests of its device: one file in memory, with calls that can be held up."""

import errno
import stat
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from virtio.fs import FileSystem
from virtio.fs.filesystem import Attributes, DirectoryEntry, Entry, Later, Opened, Space

CONTENT = b"content of the file"


class OneFile(FileSystem):
    """A root with one ``file``. Reads wait for ``held`` if it is not set; ``calls`` notes all."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.held = threading.Event()
        self.held.set()

    def restart(self) -> None:
        self.calls.append("restart")

    def _attributes(self, node: int) -> Attributes:
        mode = stat.S_IFDIR | 0o755 if node == 1 else stat.S_IFREG | 0o644
        return Attributes(node, len(CONTENT), 1, 0, 0, 0, mode, 1, 0, 0, 0, 4096)

    def lookup(self, parent: int, name: bytes) -> Entry:
        if (parent, name) != (1, b"file"):
            raise FileNotFoundError(errno.ENOENT, "no such file")
        return Entry(2, self._attributes(2))

    def forget(self, node: int, count: int) -> None:
        self.calls.append(f"forget {node} {count}")

    def getattr(self, node: int, handle: int | None) -> Attributes:
        return self._attributes(node)

    def statfs(self, node: int) -> Space:
        return Space(1, 0, 0, 1, 0, 4096, 255, 4096)

    def open(self, node: int, flags: int, *, drop_privileges: bool) -> Opened:
        return Opened(7, unchanged=True)

    def release(self, handle: int, flock_owner: int | None) -> None:
        self.calls.append(f"release {handle}")

    def try_read(self, handle: int, offset: int, views: Sequence[memoryview]) -> int | None:
        if not self.held.is_set():
            return None
        data = CONTENT[offset : offset + sum(map(len, views))]
        at = 0
        for view in views:
            part = data[at : at + len(view)]
            view[: len(part)] = part
            at += len(part)
        return len(data)

    def read(self, handle: int, offset: int, length: int) -> Later[bytes]:
        def work() -> bytes:
            assert self.held.wait(30)
            return CONTENT[offset : offset + length]

        return work

    def opendir(self, node: int) -> int:
        return 8

    def readdir(self, handle: int, offset: int) -> Iterator[DirectoryEntry]:
        yield from [DirectoryEntry(b"file", 2, 8, 1)][offset:]

    def directory_of(self, handle: int) -> int:
        return 1

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        self.calls.append("restore")
