"""The answers of FUSE: structures of a session, with how long the guest may keep what they tell."""

from __future__ import annotations

import os
from typing import Final, Literal

from virtio.errors import ConfigurationError
from virtio.fs.filesystem import Attributes, Entry, Opened
from virtio.fs.protocol import (
    FOPEN_CACHE_DIR,
    FOPEN_DIRECT_IO,
    FOPEN_KEEP_CACHE,
    LITTLE,
    Layouts,
)
from virtio.named_tuple import NamedTuple

CacheMode = Literal["auto", "always", "none"]

_NS: Final = 1_000_000_000


class Cache(NamedTuple):
    """How long names and attributes hold, in seconds, and whether file data is kept in the guest.

    ``auto``: for a second, and data until the file is seen to be changed at an open: what the host
    changes is seen a second later at most. ``always``: for a day, whatever the host does, which is
    the fastest and right where nobody else changes the directory. ``none``: not at all; each read
    goes to the host, and files cannot be mapped for shared writing.
    """

    seconds: int
    keeps_data: bool
    asks_always: bool


CACHES: Final[dict[CacheMode, Cache]] = {
    "auto": Cache(1, keeps_data=False, asks_always=False),
    "always": Cache(86400, keeps_data=True, asks_always=False),
    "none": Cache(0, keeps_data=False, asks_always=True),
}


def cache_of(mode: str) -> Cache:
    """Return the policy of that name; raises :class:`ConfigurationError` for another."""
    for name, cache in CACHES.items():
        if name == mode:
            return cache
    raise ConfigurationError(f"cache {mode!r}: must be one of {', '.join(CACHES)}")


class Answers:
    """Packs answers in the layouts of the session, by a cache policy."""

    def __init__(self, cache: Cache) -> None:
        self.layouts: Layouts = LITTLE
        self._cache = cache

    def entry(self, entry: Entry) -> bytes:
        """Return ``struct fuse_entry_out``."""
        return self.layouts.entry_out.pack(*self.entry_fields(entry))

    def entry_fields(self, entry: Entry) -> tuple[int, ...]:
        """Return the fields of ``struct fuse_entry_out``."""
        seconds = self._cache.seconds
        return (entry.node, 0, seconds, seconds, 0, 0, *attr_fields(entry.attributes))

    def no_entry_fields(self, inode: int, mode: int) -> tuple[int, ...]:
        """Return the fields of an entry without a node: the guest has to look it up."""
        return (*(0,) * 6, inode, *(0,) * 8, mode, *(0,) * 6)

    def attributes(self, attributes: Attributes) -> bytes:
        """Return ``struct fuse_attr_out``."""
        return self.layouts.attr_out.pack(self._cache.seconds, 0, 0, *attr_fields(attributes))

    def opened(self, opened: Opened) -> bytes:
        """Return ``struct fuse_open_out`` for a file."""
        return self.layouts.open_out.pack(opened.handle, self._open_flags(opened), 0)

    def created(self, entry: Entry, handle: int) -> bytes:
        """Return what CREATE answers: an entry and an open file."""
        flags = self._open_flags(Opened(handle, unchanged=False))
        return self.layouts.create_out.pack(*self.entry_fields(entry), handle, flags, 0)

    def opened_directory(self, handle: int) -> bytes:
        """Return ``struct fuse_open_out`` for a directory."""
        flags = FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE if self._cache.keeps_data else 0
        return self.layouts.open_out.pack(handle, flags, 0)

    def _open_flags(self, opened: Opened) -> int:
        if self._cache.asks_always:
            return FOPEN_DIRECT_IO
        return FOPEN_KEEP_CACHE if self._cache.keeps_data or opened.unchanged else 0


def attr_fields(one: Attributes) -> tuple[int, ...]:
    """Return the fields of ``struct fuse_attr``."""
    atime, atime_ns = divmod(one.atime_ns, _NS)
    mtime, mtime_ns = divmod(one.mtime_ns, _NS)
    ctime, ctime_ns = divmod(one.ctime_ns, _NS)
    return (
        one.inode,
        one.size_bytes,
        one.blocks,
        *(atime & _U64, mtime & _U64, ctime & _U64),  # those before 1970 are negative
        *(atime_ns, mtime_ns, ctime_ns),
        *(one.mode, one.links, one.uid, one.gid, encoded_device(one.device)),
        *(one.block_bytes, 0),
    )


def encoded_device(device: int) -> int:
    """Return a device number as the protocol has it: ``new_encode_dev()``, 12 and 20 bits.

    >>> hex(encoded_device(os.makedev(0x123, 0x45678)))
    '0x45612378'
    """
    major, minor = os.major(device), os.minor(device)
    return (minor & 0xFF | major << 8 | (minor & ~0xFF) << 12) & 0xFFFF_FFFF


def decoded_device(number: int) -> int:
    """Return the device number that :func:`encoded_device` made this of."""
    return os.makedev(number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00)


_U64: Final = (1 << 64) - 1
