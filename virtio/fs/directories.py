"""Operations on open directories: their entries, with or without the attributes of each."""

from __future__ import annotations

from typing import Final

from virtio.fs.answers import Answers
from virtio.fs.filesystem import DirectoryEntry, FileSystem
from virtio.fs.message import Message
from virtio.fs.protocol import padded
from virtio.fs.work import Answer

MAX_LISTING_BYTES: Final = 64 << 10
"""The most that one answer lists; the driver goes on from there."""

_OWN_NAMES: Final = (b".", b"..")


class Directories:
    """OPENDIR, READDIR, READDIRPLUS and RELEASEDIR."""

    def __init__(self, system: FileSystem, answers: Answers) -> None:
        self._system = system
        self._answers = answers

    def opendir(self, message: Message) -> Answer:
        """OPENDIR: a handle for a directory."""
        return self._answers.opened_directory(self._system.opendir(message.node))

    def releasedir(self, message: Message) -> Answer:
        """RELEASEDIR: a handle is closed."""
        handle, *_ = message.unpack(self._answers.layouts.release_in)
        self._system.release(handle, None)
        return b""

    def readdir(self, message: Message) -> Answer:
        """READDIR: as many entries as there is room for."""
        handle, offset, size, *_ = message.unpack(self._answers.layouts.read_in)
        layout = self._answers.layouts.dirent
        listing = bytearray()
        room = min(size, max(message.room, 0), MAX_LISTING_BYTES)
        for entry in self._system.readdir(handle, offset):
            if len(listing) + _bytes_of(layout.size, entry) > room:
                break
            fields = entry.inode, entry.offset, len(entry.name), entry.kind
            listing += padded(layout.pack(*fields) + entry.name)
        return bytes(listing)

    def readdirplus(self, message: Message) -> Answer:
        """READDIRPLUS: the same, and each entry is looked up.

        One that cannot be, such as one that was removed meanwhile, is listed without: the driver
        finds out when it asks.
        """
        handle, offset, size, *_ = message.unpack(self._answers.layouts.read_in)
        layout = self._answers.layouts.direntplus
        node = self._system.directory_of(handle)
        listing = bytearray()
        room = min(size, max(message.room, 0), MAX_LISTING_BYTES)
        for entry in self._system.readdir(handle, offset):
            if len(listing) + _bytes_of(layout.size, entry) > room:
                break
            fields = entry.inode, entry.offset, len(entry.name), entry.kind
            listing += padded(layout.pack(*self._found(node, entry), *fields) + entry.name)
        return bytes(listing)

    def _found(self, node: int, entry: DirectoryEntry) -> tuple[int, ...]:
        if entry.name not in _OWN_NAMES:
            try:
                return self._answers.entry_fields(self._system.lookup(node, entry.name))
            except OSError:
                pass
        return self._answers.no_entry_fields(entry.inode, entry.kind << 12)


def _bytes_of(header_bytes: int, entry: DirectoryEntry) -> int:
    return (header_bytes + len(entry.name) + 7) & ~7
