"""The saved state of a share: nodes by parent and name, and handles by node.

It comes from a file that anybody may have written, and names nothing outside the directory: each
name is one component, looked up below its parent as the guest's own are.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Annotated, Any, Final

from virtio.errors import ConfigurationError
from virtio.fs.filesystem import ROOT
from virtio.fs.message import check_name
from virtio.saved import U32, U64, Length, checked
from vmm.share.handles import Handles, OpenDirectory, OpenFile
from vmm.share.limits import Limits
from vmm.share.nodes import Node, Nodes

_NODE: Final = tuple[U64, U64, Annotated[bytes, Length(255)], U32, U64]
"""Number, parent's number or 0, name, kind, lookups: none for what is only above others."""
_HANDLE: Final = tuple[U64, U64, U32, bool]
"""Handle, node's number, flags of open(2), whether it is a directory's."""
_KINDS: Final = frozenset(
    {
        *(stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO),
        *(stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK),
    }
)

Opener = Callable[[Node, int], int]
"""Opens a file of a node with flags and returns its descriptor."""


def state_of(nodes: Nodes, handles: Handles) -> dict[str, Any]:
    """Return nodes and handles as plain values; a node without a name has parent 0."""
    known = {node.number: node for node in nodes}
    saved_nodes = [
        (node.number, _parent_number(node, known), node.name, node.kind, node.lookups)
        for node in nodes
        if node is not nodes.root
    ]
    saved_handles = [
        (handle, one.node.number, one.flags, isinstance(one, OpenDirectory))
        for handle, one in handles.items()
        if one.node.number in known
    ]
    return {"nodes": saved_nodes, "handles": saved_handles}


def _parent_number(node: Node, known: dict[int, Node]) -> int:
    parent = node.parent
    return parent.number if parent is not None and known.get(parent.number) is parent else 0


def restore_nodes(nodes: Nodes, state: dict[str, Any], limits: Limits) -> None:
    """Take over nodes; each is looked at when it is used."""
    saved = [_checked_node(one) for one in _list(state, "nodes", limits.nodes)]
    parents: dict[int, int] = {}
    for number, parent, _, kind, lookups in saved:
        if number <= ROOT or number in parents:
            raise ConfigurationError(f"saved share: node {number} is there twice, or no number")
        parents[number] = parent
        node = Node(number, None, b"", None, kind)
        node.lookups = lookups
        nodes.add_saved(node)
    _check_tree(parents)
    for number, parent, name, *_ in saved:
        if parent:
            nodes.place_saved(number, parent, name)
    nodes.index_saved()


def restore_handles(
    nodes: Nodes, handles: Handles, state: dict[str, Any], opener: Opener, limits: Limits
) -> None:
    """Open again what was open; what is not there any more is a handle that answers ESTALE."""
    known = {node.number: node for node in nodes}
    seen: set[int] = set()
    for one in _list(state, "handles", limits.handles):
        fields = checked(_HANDLE, "handle of a share", _tuple(one))
        handle, number, flags, is_directory = fields
        if number not in known or handle in seen or not handle or handle >> 63:
            raise ConfigurationError(f"saved share: handle {handle} is there twice, or of no node")
        seen.add(handle)
        node = known[number]
        try:
            fd = opener(node, os.O_RDONLY | os.O_DIRECTORY if is_directory else flags)
        except OSError:
            fd = -1
        kind = OpenDirectory if is_directory else OpenFile
        handles.add_saved(handle, kind(fd, node, flags))


def _checked_node(one: Any) -> tuple[int, int, bytes, int, int]:
    fields = checked(_NODE, "node of a share", _tuple(one))
    number, parent, name, kind, lookups = fields
    if kind not in _KINDS or number >> 63:
        raise ConfigurationError(f"saved share: node {number} cannot be of kind {kind:#o}")
    if parent:
        try:
            check_name(name)
        except OSError as error:
            raise ConfigurationError(f"saved share: node {number}: {error.strerror}") from None
    return number, parent, name, kind, lookups


def _check_tree(parents: dict[int, int]) -> None:
    """Raise unless each node leads to the root, or to one without a name."""
    good = {0, ROOT}
    for number in parents:
        way: list[int] = []
        at = number
        while at not in good:
            if at not in parents or len(way) > len(parents):
                raise ConfigurationError(f"saved share: node {number} is below none, or itself")
            way.append(at)
            at = parents[at]
        good.update(way)


def _list(state: dict[str, Any], name: str, most: int) -> list[Any]:
    found = state.get(name)
    if not isinstance(found, list) or len(found) > most:
        raise ConfigurationError(f"saved share: {name} must be a list of at most {most} items")
    return found


def _tuple(one: Any) -> Any:
    return tuple(one) if isinstance(one, list) else one
