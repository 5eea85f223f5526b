"""One request of FUSE: its header, its body, and where the answer goes.

Lengths are the driver's word, so each is held against the buffers that came (``FS-04``).
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from virtio.fs.protocol import IN_HEADER_BYTES, OUT_HEADER_BYTES, Layouts
from virtio.scatter import cut

if TYPE_CHECKING:
    from virtio.virtqueue.chain import DescriptorChain

MAX_BODY_BYTES: Final = 256 << 10
"""How much of a request is copied; the data of a write is not."""

MAX_NAME_BYTES: Final = 255


class Message:
    """A request whose header was read; ``room`` is how many bytes an answer may have behind it.

    What the body lacks, or has too much of, raises ``OSError`` with EINVAL: the driver's answer.
    """

    __slots__ = ("_body", "chain", "gid", "length", "node", "opcode", "room", "uid", "unique")

    def __init__(self, chain: DescriptorChain, layouts: Layouts) -> None:
        self.chain = chain
        header = layouts.in_header.unpack(chain.read(IN_HEADER_BYTES))
        self.length, self.opcode, self.unique, self.node, self.uid, self.gid, *_ = header
        self.room = chain.writable_length - OUT_HEADER_BYTES
        self._body: bytes | None = None

    def check_length(self) -> None:
        """Raise unless the length in the header is one that the buffers can have."""
        if not IN_HEADER_BYTES <= self.length <= self.chain.readable_length:
            raise invalid(f"{self.length} bytes, {self.chain.readable_length} came")

    @property
    def body(self) -> bytes:
        """What stands behind the header."""
        if self._body is None:
            length = self.length - IN_HEADER_BYTES
            if length > MAX_BODY_BYTES:
                raise invalid(f"{length} bytes, at most {MAX_BODY_BYTES} are taken")
            self._body = self.chain.read(length, IN_HEADER_BYTES)
        return self._body

    def unpack(self, layout: Struct) -> tuple[Any, ...]:
        """Return the structure that the body begins with."""
        size = layout.size
        if self.length - IN_HEADER_BYTES < size:
            raise invalid(f"{self.length} bytes, {IN_HEADER_BYTES + size} are needed")
        return layout.unpack(self.chain.read(size, IN_HEADER_BYTES))

    def data(self, start: int, length: int) -> Sequence[memoryview]:
        """Return views of so many bytes of the body, from byte ``start`` of it on."""
        if start + length > self.length - IN_HEADER_BYTES:
            raise invalid(f"{length} bytes of data, {self.length} bytes came in all")
        rest = cut(self.chain.readable, IN_HEADER_BYTES + start)[1]
        return cut(rest, length)[0]

    def answer_views(self, length: int) -> Sequence[memoryview]:
        """Return views of what lies behind the answer's header, of at most so many bytes."""
        rest = cut(self.chain.writable, OUT_HEADER_BYTES)[1]
        return cut(rest, min(length, max(self.room, 0)))[0]

    def strings(self, start: int, count: int) -> list[bytes]:
        """Return ``count`` strings, each with a NUL behind it, from byte ``start`` of the body on.

        >>> b"old\\0new\\0".split(b"\\0", 2)
        [b'old', b'new', b'']
        """
        parts = self.body[start:].split(b"\0", count)
        if len(parts) <= count:
            raise invalid("a string has no end")
        return parts[:count]

    def names(self, start: int, count: int) -> list[bytes]:
        """Return strings that are each the name of an entry in a directory (``FS-06``)."""
        found = self.strings(start, count)
        for name in found:
            check_name(name)
        return found


def check_name(name: bytes) -> None:
    """Raise for what no entry can be named, or what leads out of its directory."""
    if len(name) > MAX_NAME_BYTES:
        raise OSError(errno.ENAMETOOLONG, f"a name of {len(name)} bytes")
    if not name or name in (b".", b"..") or b"/" in name:
        raise invalid(f"the name {name!r}")


def invalid(what: str) -> OSError:
    """Return the answer to a request that makes no sense."""
    return OSError(errno.EINVAL, what)
