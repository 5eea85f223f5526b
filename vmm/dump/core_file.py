"""Writes a core file: ELF with a note for each processor and a segment for each region of RAM.

System V ABI "Program Header"; Linux admin-guide/kdump/kdump.rst, whose ``/proc/vmcore`` has the
same form. Holes of the memory stay holes of the file.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from vmm.host.files import extents, write_all

PAGE_BYTES: Final = 4096

_EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR: Final = struct.Struct("<IIQQQQQQ")
_NHDR: Final = struct.Struct("<III")
_IDENT: Final = b"\x7fELF\x02\x01\x01"
_ET_CORE, _PT_LOAD, _PT_NOTE, _READ_WRITE_EXECUTE = 4, 1, 4, 7


class Note(NamedTuple):
    """A note: its owner's name, its type there, and what it holds."""

    name: bytes
    type: int
    data: bytes


class Segment(NamedTuple):
    """A part of RAM that a debugger finds at ``virtual``: ``offset`` is that in the memory file."""

    virtual: int
    physical: int
    length: int
    offset: int


def write_core(
    target: int, memory: int, machine: int, notes: Sequence[Note], segments: Sequence[Segment]
) -> None:
    """Write a core file to ``target``, an empty file, of ``memory``, an open file as well.

    ``machine`` is ELF's number of the architecture. Several segments may show the same part.
    Raises ``ConfigurationError`` when the file cannot be written.
    """
    packed = b"".join(map(_packed, notes))
    count = 1 + len(segments)
    at = _EHDR.size + count * _PHDR.size
    start = -(-(at + len(packed)) // PAGE_BYTES) * PAGE_BYTES
    headers = [_PHDR.pack(_PT_NOTE, 0, at, 0, 0, len(packed), len(packed), 4)]
    for one in segments:
        place = (start + one.offset, one.virtual, one.physical, one.length, one.length)
        headers.append(_PHDR.pack(_PT_LOAD, _READ_WRITE_EXECUTE, *place, PAGE_BYTES))
    head = _EHDR.pack(
        _IDENT, _ET_CORE, machine, 1, 0, _EHDR.size, 0, 0, _EHDR.size, _PHDR.size, count, 0, 0, 0
    )
    size = os.fstat(memory).st_size
    try:
        write_all(target, b"".join((head, *headers, packed)))
        os.ftruncate(target, start + size)
        for offset, length in extents(memory, size):
            _copy(memory, target, offset, start + offset, length)
    except OSError as error:
        raise ConfigurationError(f"core file: cannot be written: {error.strerror}") from None


@contextmanager
def new_core(path: Path) -> Iterator[int]:
    """Give a new file that is there under ``path`` when all is written, or not at all.

    Only its owner can read it, for the guest's secrets are in it. Raises ``ConfigurationError``
    when it cannot be made, or something is there already.
    """
    unfinished = path.parent / f".unfinished-{os.urandom(8).hex()}"
    try:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "exists; choose a new name")
        fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"core file {path}: {error.strerror}") from None
    try:
        yield fd
        unfinished.rename(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def _packed(note: Note) -> bytes:
    name = note.name + b"\0"
    parts = (_NHDR.pack(len(name), len(note.data), note.type), _aligned(name), _aligned(note.data))
    return b"".join(parts)


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _copy(source: int, target: int, offset: int, to: int, length: int) -> None:
    os.lseek(target, to, os.SEEK_SET)
    end = offset + length
    while offset < end:
        moved = os.sendfile(target, source, offset, end - offset)
        if not moved:
            raise OSError(errno.EIO, "the guest's memory ends too early")
        offset += moved
