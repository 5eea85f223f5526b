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
from virtio.memory import FlatMemory
from vmm.host.files import copy_data
from vmm.host.resource import Resource
from vmm.host.runs import Run, runs

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
        os.lseek(self._fd, self._file_offset(address), os.SEEK_SET)
        done = 0
        with suppress(OSError):
            while moved := os.sendfile(self._fd, file, offset + done, length - done):
                done += moved
        return done

    def _file_offset(self, address: int) -> int:
        return sum(min(max(address - start, 0), length) for start, length in self.regions)

    @contextmanager
    def file(self) -> Iterator[int]:
        """Give a file with the present content of the RAM, to which nothing may write meanwhile."""
        if not self.is_copy:
            yield self._fd
            return
        fd = self.copy()
        try:
            yield fd
        finally:
            os.close(fd)

    def copy(self) -> int:
        """Return a new memfd with the present content of the RAM; the caller closes it.

        Nothing may write to the RAM meanwhile, and nothing can write to the copy. Holes stay holes.
        """
        target = _memory_file("guest-ram-copy")
        try:
            copy_data(self._fd, target, self.size_bytes)
            if self.is_copy:
                self._copy_written_pages(target)
            fcntl.fcntl(target, fcntl.F_ADD_SEALS, _SIZE_STAYS | fcntl.F_SEAL_WRITE)
        except OSError as error:
            os.close(target)
            raise HostError("copying guest RAM", error.errno or 0) from None
        return target

    def written_pages(self) -> list[Run]:
        """Return the runs of pages that differ from the origin: ``(first page, count)`` each."""
        with memoryview(self._mapping) as whole:
            first = _address_of(whole) // PAGE_BYTES
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(first * _PAGEMAP_ENTRY_BYTES)
            entries = pagemap.read(self.size_bytes // PAGE_BYTES * _PAGEMAP_ENTRY_BYTES)
        return runs(bytes(map(_is_private, memoryview(entries).cast("Q"))))

    def _copy_written_pages(self, target: int) -> None:
        with memoryview(self._mapping) as whole:
            for page, count in self.written_pages():
                offset, length = page * PAGE_BYTES, count * PAGE_BYTES
                with whole[offset : offset + length] as data:
                    os.pwrite(target, data, offset)

    def close(self) -> None:
        """Unmap the RAM and close the file; every view of it must have been dropped."""
        self.release()
        self._mapping.close()
        os.close(self._fd)


def _memory_file(name: str) -> int:
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _address_of(view: memoryview) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def _is_private(entry: int) -> bool:
    """Whether a page is the process's own, not the file's."""
    there = entry & (_PAGEMAP_PRESENT | _PAGEMAP_SWAPPED)
    return bool(there) and not entry & _PAGEMAP_FILE_OR_SHARED
