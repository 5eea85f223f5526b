"""Guest RAM: one file, mapped once, seen by the guest as one or more regions.

The file is a memfd of the machine's own, or that of a snapshot, of which each page is copied when
it is first written.
"""

import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from virtio.errors import HostError
from virtio.log import Logger
from virtio.memory import FlatMemory
from vmm.host.files import Extent, copy_extents, extents, without
from vmm.host.resource import Resource
from vmm.host.runs import Run, runs

_log = Logger(__name__)

PAGE_BYTES: Final = 4096

# A file that shrinks takes pages away from under those who map it.
_SIZE_STAYS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

# Linux Documentation/admin-guide/mm/pagemap.rst
_PAGEMAP_ENTRY_BYTES: Final = 8
_PAGEMAP_FILE_OR_SHARED: Final = 1 << 61
_PAGEMAP_SWAPPED: Final = 1 << 62
_PAGEMAP_PRESENT: Final = 1 << 63


class GuestRam(FlatMemory, Resource):
    """RAM of a guest at ``regions``, each ``(guest-physical address, length in bytes)``.

    Addresses and lengths are multiples of the page size; the regions stand one after the other in
    the file. With ``origin``, a file of that size, the RAM begins with its content and never
    changes it: any number of machines share the pages that none of them has written. A context
    manager that unmaps and closes.
    """

    def __init__(self, regions: Sequence[tuple[int, int]], origin: int | None = None) -> None:
        """Map the RAM; pages are taken from the host when first touched.

        Raises :class:`HostError` when the host cannot map that much.
        """
        self.size_bytes = sum(length for _, length in regions)
        self.is_copy = origin is not None
        self._fd = _memory_file("guest-ram") if origin is None else os.dup(origin)
        try:
            if origin is None:
                os.ftruncate(self._fd, self.size_bytes)
                fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, _SIZE_STAYS)
            flags = mmap.MAP_SHARED if origin is None else mmap.MAP_PRIVATE
            self._mapping = mmap.mmap(self._fd, self.size_bytes, flags)
            # What the guest has in memory is in no core file, and no program that we start has it.
            self._mapping.madvise(mmap.MADV_DONTDUMP)
            self._mapping.madvise(mmap.MADV_DONTFORK)
        except (OSError, ValueError) as error:
            os.close(self._fd)
            detail = f"{self.size_bytes} bytes of guest RAM"
            raise HostError("mmap", getattr(error, "errno", None) or 0, detail) from None
        whole, placed, offset = memoryview(self._mapping), [], 0
        for address, length in regions:
            placed.append((address, whole[offset : offset + length]))
            offset += length
        super().__init__(placed)
        self._given_back: bytearray | None = None
        for _, view in placed:
            view.release()
        whole.release()

    def receive(self, file: int, offset: int, address: int, length: int) -> int:
        """Copy ``length`` bytes at ``offset`` of a file to ``address``; return how many it copied.

        The host copies from file to file, which spares it a page fault for each page. It copies
        none where it cannot, or when the RAM is a copy, whose file must not change.
        """
        self.view(address, length).release()
        if self.is_copy:
            return 0
        os.lseek(self._fd, self.file_offset(address), os.SEEK_SET)
        done = 0
        with suppress(OSError):
            while moved := os.sendfile(self._fd, file, offset + done, length - done):
                done += moved
        return done

    def discard(self, address: int, length: int, *, zeroed: bool = False) -> bool:
        """Give whole pages back to the host; returns whether it took them, or a part.

        The RAM of a machine that was booted then reads as zeros there. That of a copy reads as the
        origin does, and takes no memory of its own; with ``zeroed`` only what reads as zeros then
        is given back. Raises :class:`MemoryAccessError` for a range that is not all RAM.
        """
        self.view(address, length).release()
        offset = self.file_offset(address)
        parts = [(offset, length)]
        if self.is_copy and zeroed:
            parts = _holes(self._fd, offset, length)
        # From the process alone, or from the file, too: madvise(2).
        advice = mmap.MADV_DONTNEED if self.is_copy else mmap.MADV_REMOVE
        try:
            for first, count in parts:
                self._mapping.madvise(advice, first, count)
                self._note_given_back(first, count)
        except OSError as error:  # such as EINVAL for memory that is locked: the host keeps it
            _log.info("guest RAM at %#x stays: %s", address, error)
            return False
        return bool(parts)

    def _note_given_back(self, offset: int, length: int) -> None:
        """Note which pages of a copy show what the origin has, and nobody asked for that."""
        if not self.is_copy:
            return
        if self._given_back is None:
            self._given_back = bytearray(self.size_bytes // PAGE_BYTES)
        first, count = offset // PAGE_BYTES, length // PAGE_BYTES
        self._given_back[first : first + count] = b"\1" * count

    def file_offset(self, address: int) -> int:
        """Return where the file has what is at a guest-physical address."""
        return sum(min(max(address - start, 0), length) for start, length in self.regions)

    @contextmanager
    def file(self, unused: Sequence[Extent] = ()) -> Iterator[int]:
        """Give a file with the present content of the RAM, to which nothing may write meanwhile.

        What it has in the parts ``unused`` of the file means nothing: see :meth:`copy`.
        """
        if not self.is_copy:
            yield self._fd
            return
        fd = self.copy(unused)
        try:
            yield fd
        finally:
            os.close(fd)

    def copy(self, unused: Sequence[Extent] = ()) -> int:
        """Return a new memfd with the present content of the RAM; the caller closes it.

        Nothing may write to the RAM meanwhile, and nothing can write to the copy. Holes stay holes,
        and so becomes what the guest gave back and what is ``unused``: ordered parts of the file,
        in whole pages.
        """
        target = _memory_file("guest-ram-copy")
        try:
            os.ftruncate(target, self.size_bytes)
            if self.is_copy:
                self._copy_pages(target, unused)
            else:
                copy_extents(self._fd, target, without(extents(self._fd, self.size_bytes), unused))
            fcntl.fcntl(target, fcntl.F_ADD_SEALS, _SIZE_STAYS | fcntl.F_SEAL_WRITE)
        except OSError as error:
            os.close(target)
            raise HostError("copying guest RAM", error.errno or 0) from None
        return target

    def written_pages(self) -> list[Run]:
        """Return the runs of pages that differ from the origin: ``(first page, count)`` each."""
        return runs(self._written())

    def _written(self) -> bytes:
        with memoryview(self._mapping) as whole:
            first = _address_of(whole) // PAGE_BYTES
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(first * _PAGEMAP_ENTRY_BYTES)
            entries = pagemap.read(self.size_bytes // PAGE_BYTES * _PAGEMAP_ENTRY_BYTES)
        return bytes(map(_is_private, memoryview(entries).cast("Q")))

    def _copy_pages(self, target: int, unused: Sequence[Extent]) -> None:
        """Copy the pages of the origin that nobody wrote, and those that somebody wrote."""
        written = self._written()
        own = [(page * PAGE_BYTES, count * PAGE_BYTES) for page, count in runs(written)]
        shared = without(without(extents(self._fd, self.size_bytes), own), unused)
        if self._given_back is not None:
            given = runs(self._given_back)
            shared = without(shared, [(at * PAGE_BYTES, n * PAGE_BYTES) for at, n in given])
        copy_extents(self._fd, target, shared)
        with memoryview(self._mapping) as whole:
            for offset, length in without(own, unused):
                with whole[offset : offset + length] as data:
                    os.pwrite(target, data, offset)

    def close(self) -> None:
        """Unmap the RAM and close the file; every view of it must have been dropped."""
        self.release()
        self._mapping.close()
        os.close(self._fd)


def _holes(fd: int, offset: int, length: int) -> list[Extent]:
    """Return the parts of a range of a file that are holes, in whole pages."""
    data = []
    for first, count in extents(fd, offset + length, offset):
        page = first // PAGE_BYTES * PAGE_BYTES
        data.append((page, -(-(first + count) // PAGE_BYTES) * PAGE_BYTES - page))
    return list(without([(offset, length)], data))


def _memory_file(name: str) -> int:
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _address_of(view: memoryview) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def _is_private(entry: int) -> bool:
    """Whether a page is the process's own, not the file's."""
    there = entry & (_PAGEMAP_PRESENT | _PAGEMAP_SWAPPED)
    return bool(there) and not entry & _PAGEMAP_FILE_OR_SHARED
