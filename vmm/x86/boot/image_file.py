"""Files of the host that are put into guest memory: kernels and initial RAM disks.

Parts are read by offset straight into guest memory; a file that is shorter than it says is reported
as truncated, with the numbers.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from virtio.errors import ConfigurationError, HostError
from virtio.memory import GuestMemory
from vmm.memory import GuestRam

ZEROS = 1 << 16


class BootMemory(GuestMemory, Protocol):
    """Guest RAM that also tells where it is."""

    @property
    def regions(self) -> list[tuple[int, int]]:
        """The regions as ``(first address, length in bytes)``, in ascending order."""


class ImageFile:
    """An open file: its name for messages (``kernel /boot/vmlinuz``) and its size in bytes."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name
        self.size = os.fstat(fd).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes at ``offset``, fewer where the file ends."""
        with self._host_errors():
            return os.pread(self.fd, length, offset)

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill ``view`` with the bytes at ``offset``, without a copy.

        Raises :class:`ConfigurationError` when the file ends before the view is full.
        """
        done = 0
        while done < len(view):
            # Views are released at once: one kept by a traceback would keep guest RAM mapped.
            with view[done:] as rest, self._host_errors():
                count = os.preadv(self.fd, [rest], offset + done)
            if count == 0:
                raise ConfigurationError(f"{self.name}: truncated: it ends at byte {offset + done}")
            done += count

    def load(self, memory: GuestMemory, address: int, offset: int, length: int) -> None:
        """Put the ``length`` bytes at ``offset`` to ``address``, which lie inside one region.

        Raises :class:`ConfigurationError` when the file ends before that.
        """
        done = 0
        if isinstance(memory, GuestRam):
            done = memory.receive(self.fd, offset, address, length)
        with memory.view(address + done, length - done) as rest:
            self.read_into(rest, offset + done)

    def check_part(self, what: str, offset: int, length: int) -> None:
        """Raise :class:`ConfigurationError` unless the file has ``length`` bytes at ``offset``."""
        if offset + length > self.size:
            raise ConfigurationError(
                f"{self.name}: truncated: {what} ends at byte {offset + length}, "
                f"the file has {self.size}"
            )

    @contextmanager
    def _host_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise HostError("pread", error.errno or 0, self.name) from error


@contextmanager
def open_image(path: str | os.PathLike[str], what: str) -> Iterator[ImageFile]:
    """Open the regular, non-empty file ``path``; ``what`` (``kernel``, ``initrd``) names its use.

    Raises :class:`ConfigurationError` when there is no such file, it cannot be read, or is empty.
    """
    name = f"{what} {os.fspath(path)}"
    try:
        # Without O_NONBLOCK a FIFO would wait here for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"{name}: cannot be opened: {reason}") from error
    try:
        yield _checked(ImageFile(fd, name))
    finally:
        os.close(fd)


def _checked(image: ImageFile) -> ImageFile:
    mode = os.fstat(image.fd).st_mode
    if stat.S_ISDIR(mode):
        raise ConfigurationError(f"{image.name}: is a directory, not a file")
    if not stat.S_ISREG(mode):
        raise ConfigurationError(f"{image.name}: is not a regular file")
    if image.size == 0:
        raise ConfigurationError(f"{image.name}: is empty")
    return image


def clear(memory: GuestMemory, address: int, length: int) -> None:
    """Write ``length`` zero bytes at ``address``, which lie inside one region."""
    zeros = bytes(min(length, ZEROS))
    for start in range(0, length, ZEROS):
        part = zeros[: length - start]
        memory.view(address + start, len(part))[:] = part


def low_ram_end(memory: BootMemory) -> int:
    """Return the first address past the RAM that begins at address 0."""
    start, length = memory.regions[0]
    return start + length
