"""Guest RAM that is cheap to put back, and that notices who writes where nobody may."""

from collections.abc import Iterable

from virtio.memory import FlatMemory

GUARD_BYTES = 64
CANARY = b"\xc3" * GUARD_BYTES


class FuzzRam:
    """Guest memory of ``(address, length)`` regions, with canaries around each on the host.

    ``memory`` is what devices see. ``content`` is all of it with the canaries, and a guest address
    is found in it by :meth:`offset_of`.
    """

    def __init__(self, *regions: tuple[int, int]) -> None:
        self.content = bytearray(CANARY)
        self._places: list[tuple[int, int, int]] = []
        for address, length in regions:
            self._places.append((address, length, len(self.content)))
            self.content += bytes(length) + CANARY
        self._blank = bytes(self.content)
        whole = memoryview(self.content)
        self.memory = FlatMemory(
            [(address, whole[at : at + length]) for address, length, at in self._places]
        )

    def load(self, image: bytes) -> None:
        """Put all RAM back to zeros, and ``image`` at the start of the first region."""
        _, length, at = self._places[0]
        self.content[:] = self._blank
        image = image[:length]
        self.content[at : at + len(image)] = image

    def offset_of(self, address: int) -> int:
        """Return where the byte at a guest address is in ``content``."""
        for start, length, at in self._places:
            if start <= address < start + length:
                return at + address - start
        raise ValueError(f"{address:#x} is not in RAM")

    def snapshot(self) -> bytes:
        """Return a copy of everything, for :meth:`assert_kept`."""
        return bytes(self.content)

    def assert_kept(self, before: bytes, allowed: Iterable[tuple[int, int]] = ()) -> None:
        """Assert that nothing changed but what lies in ``allowed``: offsets, end exclusive."""
        now = bytearray(self.content)
        for start, end in allowed:
            now[start:end] = before[start:end]
        if now != before:
            places = [
                at for at, pair in enumerate(zip(now, before, strict=True)) if len({*pair}) > 1
            ]
            raise AssertionError(f"written where nobody may: content offsets {places[:8]}")

    def assert_canaries(self) -> None:
        """Assert that nothing outside RAM was written."""
        for _, length, at in self._places:
            assert self.content[at - GUARD_BYTES : at] == CANARY, "written below a region"
            assert self.content[at + length : at + length + GUARD_BYTES] == CANARY, "written above"
