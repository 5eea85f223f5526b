"""The nodes of a shared directory: what the guest knows by number, and how it is found again.

How a guest stays inside
------------------------
A node is found by its parent and one name, never by a path: each step opens that name below the
descriptor of the parent (O_PATH, O_NOFOLLOW), so that neither a symbolic link nor ``..`` is ever
followed by the host. What is found must be what was found before, by its device and inode number;
else the host has put something else there, and the answer is ESTALE.

How descriptors stay few
------------------------
A guest may know a million files, and the host allows some thousand descriptors. So a node has one
only while it is in use: of the others the least recently used are closed, and opened again by
parent and name. A node whose last known name the guest removes has to keep its descriptor, as a
program may have it open; of those, too, there is a limit, after which they answer ESTALE.

How memory stays bounded
------------------------
A node that the guest forgot, but below which it knows others, is needed to find these. It stays,
without its number being any good, and is the same node when it is looked up again: else each walk
to a file would leave another chain of parents behind. All nodes count for the limit.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

from virtio.fs.filesystem import ROOT
from vmm.share.limits import Limits

Key = tuple[int, int]
"""Device and inode number."""

O_PATH_FLAGS: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Node:
    """A file of any kind that the guest knows.

    ``parent`` and ``name`` are where it was seen last, None when that name is gone. ``key`` is
    None for one of a saved machine that has not been looked at yet. ``kind`` is its S_IFMT,
    ``children`` how many nodes have it for their parent.
    ``version`` is what its content was known by when it was last opened.
    """

    __slots__ = ("children", "fd", "key", "kind", "lookups", "name", "number", "parent", "version")

    def __init__(
        self, number: int, parent: Node | None, name: bytes, key: Key | None, kind: int
    ) -> None:
        self.number = number
        self.parent = parent
        self.name = name
        self.key = key
        self.kind = kind
        self.lookups = 0
        self.children = 0
        self.fd = -1
        self.version: tuple[int, int, int] | None = None

    def is_at(self, parent: Node, name: bytes) -> bool:
        """Whether this is where it was seen last."""
        return self.parent is parent and self.name == name


class Nodes:
    """All nodes of a share by their numbers; ``root`` is the first, and always open."""

    def __init__(self, root_fd: int, limits: Limits) -> None:
        self._limits = limits
        status = os.fstat(root_fd)
        self.root = Node(ROOT, None, b"", _key(status), stat.S_IFDIR)
        self.root.fd = root_fd
        self._next = ROOT + 1
        self._by_number: dict[int, Node] = {ROOT: self.root}
        self._by_key: dict[Key, Node] = {_key(status): self.root}
        self._cached: dict[Node, None] = {}  # open, the least recently used first
        self._pinned: set[Node] = set()  # open, without a name
        self._unseen: dict[tuple[Node, bytes], Node] = {}  # of a saved machine

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._by_number.values())

    @property
    def open_count(self) -> int:
        """How many nodes have a descriptor, beside the root."""
        return len(self._cached) + len(self._pinned)

    def get(self, number: int) -> Node:
        """Return a node that the guest names; ESTALE for one that it does not know."""
        node = self._by_number.get(number)
        if node is None or (node.lookups <= 0 and node is not self.root):
            raise stale(f"node {number}")
        return node

    # Coming and going

    def enter(self, parent: Node, name: bytes, status: os.stat_result) -> Node:
        """Count a lookup of what was found under a name, and return its node."""
        key, kind = _key(status), stat.S_IFMT(status.st_mode)
        node = self._by_key.get(key) or self._seen(parent, name, key, kind)
        if node is None or node.kind != kind:
            if len(self._by_number) >= self._limits.nodes:
                raise OSError(errno.ENFILE, f"the guest knows {self._limits.nodes} files")
            node = Node(self._next, None, b"", key, kind)
            self._next += 1
            self._by_number[node.number] = node
            self._by_key[key] = node
        if node is not self.root:
            if not node.is_at(parent, name):
                self._place(node, parent, name)
            self._unpin(node)
        node.lookups += 1
        return node

    def forget(self, number: int, count: int) -> None:
        """Take lookups back; of the last one the node goes, but never the root."""
        node = self._by_number.get(number)
        if node is None or node is self.root:
            return
        node.lookups = max(node.lookups - count, 0)
        self._retire(node)

    def clear(self) -> None:
        """Forget all nodes but the root; their numbers are not used again."""
        for node in self._by_number.values():
            self._close(node)
        root = self.root
        root.children = 0
        self._by_number = {ROOT: root}
        self._by_key = {root.key: root} if root.key is not None else {}
        self._unseen.clear()

    def _retire(self, node: Node | None) -> None:
        """Drop a node that nobody needs, and those above that are needed by no other."""
        while node is not None and node is not self.root:
            if node.lookups > 0 or node.children or node.number not in self._by_number:
                return
            above = node.parent
            if above is not None:
                self._unseen.pop((above, node.name), None)
                above.children -= 1
            del self._by_number[node.number]
            if node.key is not None and self._by_key.get(node.key) is node:
                del self._by_key[node.key]
            self._close(node)
            node = above

    def _place(self, node: Node, parent: Node | None, name: bytes) -> None:
        """Note where a node is now."""
        before = node.parent
        if parent is not None and node.children:
            self._cut_below(node, parent)
        node.parent, node.name = parent, name
        if parent is not None:
            parent.children += 1
        if before is not None:
            before.children -= 1
            self._retire(before)

    def _cut_below(self, node: Node, parent: Node) -> None:
        """See that no node comes to be below itself, as the host may have moved both.

        Of those above ``parent`` the one that was in ``node`` is not there any more.
        """
        at: Node | None = parent
        while at is not None and at.parent is not node:
            at = at.parent
        if at is not None:
            self.lose_name(at)

    # Descriptors

    def fd(self, node: Node) -> int:
        """Return a descriptor (O_PATH) of a node; it is good until the next call of this kind."""
        if node.fd >= 0:
            if node in self._cached:  # again the most recently used
                del self._cached[node]
                self._cached[node] = None
            return node.fd
        missing = []
        at: Node = node
        while at.fd < 0:
            missing.append(at)
            if at.parent is None:
                raise stale(f"node {at.number}")
            at = at.parent
        fd = at.fd
        for one in reversed(missing):
            fd = self._open(one, fd)
        while len(self._cached) > self._limits.cached:
            self._close(next(iter(self._cached)))
        return fd

    def _open(self, node: Node, parent_fd: int) -> int:
        try:
            fd = os.open(node.name, O_PATH_FLAGS, dir_fd=parent_fd)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise stale(f"node {node.number}") from None
            raise
        try:
            self._check(node, os.fstat(fd))
        except OSError:
            os.close(fd)
            raise
        node.fd = fd
        self._cached[node] = None
        return fd

    def status(self, node: Node) -> os.stat_result:
        """Return what stat(2) tells of a node, without opening it."""
        if node.fd >= 0:
            return os.fstat(node.fd)
        if node.parent is None:
            raise stale(f"node {node.number}")
        parent_fd = self.fd(node.parent)
        try:
            status = os.stat(node.name, dir_fd=parent_fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            raise stale(f"node {node.number}") from None
        self._check(node, status)
        return status

    def _check(self, node: Node, status: os.stat_result) -> None:
        """Raise ESTALE unless this is the node; one of a saved machine becomes what is there."""
        key = _key(status)
        if node.key is None and node.kind == stat.S_IFMT(status.st_mode):
            if key not in self._by_key and node.parent is not None:
                self._unseen.pop((node.parent, node.name), None)
                node.key = key
                self._by_key[key] = node
            return
        if node.key != key or node.kind != stat.S_IFMT(status.st_mode):
            raise stale(f"node {node.number}")

    def _close(self, node: Node) -> None:
        self._cached.pop(node, None)
        self._pinned.discard(node)
        if node.fd >= 0 and node is not self.root:
            fd, node.fd = node.fd, -1
            os.close(fd)

    # Names that change

    def at(self, parent: Node, name: bytes) -> Node | None:
        """Return the node under a name, if the guest knows it there."""
        if (node := self._unseen.get((parent, name))) is not None:
            return node
        try:
            status = os.stat(name, dir_fd=self.fd(parent), follow_symlinks=False)
        except OSError:
            return None
        node = self._by_key.get(_key(status))
        return node if node is not None and node.is_at(parent, name) else None

    def hold(self, node: Node | None) -> None:
        """Open a node whose name is about to go, so that it can be used after that."""
        if node is not None and node.fd < 0 and len(self._pinned) < self._limits.pinned:
            self.fd(node)

    def lose_name(self, node: Node | None) -> None:
        """Note that the name of a node is gone."""
        if node is None:
            return
        if node.parent is not None:
            self._unseen.pop((node.parent, node.name), None)
        self._place(node, None, b"")
        if node in self._cached:
            if len(self._pinned) >= self._limits.pinned:
                self._close(node)
            else:
                del self._cached[node]
                self._pinned.add(node)

    def move(self, node: Node | None, parent: Node, name: bytes) -> None:
        """Note that a node has another name."""
        if node is None:
            return
        if node.parent is not None and (node.parent, node.name) in self._unseen:
            del self._unseen[node.parent, node.name]
            self._unseen[parent, name] = node
        if not node.is_at(parent, name):
            self._place(node, parent, name)

    def _unpin(self, node: Node) -> None:
        if node in self._pinned:
            self._pinned.discard(node)
            self._cached[node] = None

    # Of a saved machine

    def add_saved(self, node: Node) -> None:
        """Take a node that is looked at when it is used; its parent comes later."""
        self._by_number[node.number] = node
        self._next = max(self._next, node.number + 1)

    def index_saved(self) -> None:
        """Have the nodes of a saved machine found by their names, once all parents are known."""
        for node in list(self):
            if node.key is None and node.parent is not None:
                self._unseen[node.parent, node.name] = node
        for node in list(self):
            self._retire(node)

    def place_saved(self, number: int, parent: int, name: bytes) -> None:
        """Say where a saved node is; the numbers are of nodes that were added."""
        self._place(self._by_number[number], self._by_number[parent], name)

    def _seen(self, parent: Node, name: bytes, key: Key, kind: int) -> Node | None:
        """Return the saved node under a name that now has been looked up."""
        node = self._unseen.get((parent, name))
        if node is None or node.kind != kind:
            return None
        del self._unseen[parent, name]
        node.key = key
        self._by_key[key] = node
        return node


def stale(what: str) -> OSError:
    """Return the error for what is not there any more."""
    return OSError(errno.ESTALE, f"{what} is not there any more")


def _key(status: os.stat_result) -> Key:
    return status.st_dev, status.st_ino
