"""Guest memory by guest-virtual address, page by page: KVM api.rst "KVM_TRANSLATE".

KVM_TRANSLATE walks the page tables and checks no rights, which is why only instructions of the
guest's kernel are emulated: a user program could otherwise read what it must not.
"""

from typing import Final

from virtio.memory import GuestMemory, MemoryAccessError
from vmm.x86.emulation.cpu import CannotEmulate, Cpu

PAGE_BYTES: Final = 4096
_ADDRESS_MASK: Final = (1 << 64) - 1


class VirtualMemory:
    """The address space that a stopped vCPU has at this moment."""

    def __init__(self, cpu: Cpu, memory: GuestMemory) -> None:
        self._cpu = cpu
        self._memory = memory

    def read(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes; raises CannotEmulate when any is not mapped to guest RAM."""
        return b"".join(self.views(address, length))

    def read_integer(self, address: int, length: int) -> int:
        """Return ``length`` bytes as an unsigned little-endian integer."""
        return int.from_bytes(self.read(address, length), "little")

    def write(self, address: int, data: bytes) -> None:
        """Store ``data``, all of it or, with CannotEmulate, nothing."""
        for view in self.views(address, len(data)):
            view[:], data = data[: len(view)], data[len(view) :]

    def read_code(self, address: int, length: int) -> bytes:
        """Return up to ``length`` bytes, ending before the first page that is not mapped."""
        code = b""
        for start, count in _pages(address, length):
            try:
                code += self._view(start, count)
            except CannotEmulate:
                break
        return code

    def views(self, address: int, length: int) -> list[memoryview]:
        """Return writable views of the range, one per page, in order."""
        return [self._view(start, count) for start, count in _pages(address, length)]

    def _view(self, address: int, length: int) -> memoryview:
        physical = self._cpu.translate(address)
        if physical is None:
            raise CannotEmulate(f"virtual address {address:#x} is not mapped")
        try:
            return self._memory.view(physical, length)
        except MemoryAccessError:
            place = f"virtual address {address:#x}, physical {physical:#x},"
            raise CannotEmulate(f"{place} is not in guest RAM") from None


def _pages(address: int, length: int) -> list[tuple[int, int]]:
    """Return ``(address, length)`` of the parts that a range has in each page."""
    parts = []
    while length:
        count = min(length, PAGE_BYTES - address % PAGE_BYTES)
        parts.append((address & _ADDRESS_MASK, count))
        address, length = address + count, length - count
    return parts
