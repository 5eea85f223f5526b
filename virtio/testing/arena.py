"""Guest memory for tests: a flat piece of RAM, and an allocator that hands out parts of it."""

from virtio.memory import FlatMemory, GuestMemory


def flat_memory(*regions: tuple[int, int]) -> FlatMemory:
    """Return zeroed guest memory of ``(address, length in bytes)`` each; by default 1 MiB at 0."""
    return FlatMemory([(base, bytearray(size)) for base, size in regions or [(0, 1 << 20)]])


class Arena:
    """Hands out pieces of guest memory from ``base`` upwards, and takes them back for reuse."""

    def __init__(self, memory: GuestMemory, base: int) -> None:
        self.memory = memory
        self._next = base
        self._sizes: dict[int, int] = {}
        self._free: dict[int, list[int]] = {}

    def allocate(self, length: int, alignment: int = 16) -> int:
        """Return the guest-physical address of ``length`` bytes; their content is undefined.

        Raises :class:`~virtio.memory.MemoryAccessError` when guest memory is used up.
        """
        size = max(16, -(-length // 16) * 16)
        if self._free.get(size) and alignment <= 16:
            address = self._free[size].pop()
        else:
            address = -(-self._next // alignment) * alignment
            self.memory.view(address, size).release()
            self._next = address + size
        self._sizes[address] = size
        return address

    def free(self, address: int) -> None:
        """Take back what :meth:`allocate` returned."""
        size = self._sizes.pop(address)
        self._free.setdefault(size, []).append(address)
