"""Guest RAM: one anonymous file, mapped once, seen by the guest as one or more regions.

The file is a memfd, so that another process can map it and a snapshot can save it.
"""

import mmap
import os
from collections.abc import Sequence

from virtio.errors import HostError
from virtio.memory import FlatMemory
from vmm.resource import Resource


class GuestRam(FlatMemory, Resource):
    """RAM of a guest at ``regions``, each ``(guest-physical address, length in bytes)``.

    Addresses and lengths are multiples of the page size. ``fd`` is the memfd, in which the regions
    stand one after the other. A context manager that unmaps and closes.
    """

    def __init__(self, regions: Sequence[tuple[int, int]]) -> None:
        """Map the RAM; pages are taken from the host when first touched.

        Raises :class:`HostError` when the host cannot map that much.
        """
        self.size_bytes = sum(length for _, length in regions)
        self.fd = os.memfd_create("guest-ram", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, self.size_bytes)
            self._mapping = mmap.mmap(self.fd, self.size_bytes)
        except OSError as error:
            os.close(self.fd)
            detail = f"{self.size_bytes} bytes of guest RAM"
            raise HostError("mmap", error.errno or 0, detail) from None
        whole, placed, offset = memoryview(self._mapping), [], 0
        for address, length in regions:
            placed.append((address, whole[offset : offset + length]))
            offset += length
        super().__init__(placed)
        for _, view in placed:
            view.release()
        whole.release()

    def close(self) -> None:
        """Unmap the RAM and close the memfd; every view of it must have been dropped."""
        self.release()
        self._mapping.close()
        os.close(self.fd)
