"""A set of blocks of a disk that only grows, as large as what is in it, not as the disk.

A byte for each block, for bytes can be searched as fast as memory; 4096 of them at a time, made
when the first of these blocks comes: a disk of 15 TiB would have 3.9 GiB of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from vmm.host.runs import Run

BLOCK_BYTES: Final = 4096

_CHUNK: Final = 4096
_OUT: Final = b"\0"
_IN: Final = b"\1"
_FULL: Final = bytearray(_IN * _CHUNK)
"""Stands for every part that is whole; nobody changes it."""


class BlockSet:
    """Some of the blocks of a disk of ``size_bytes``, the last of which may be cut off."""

    def __init__(self, size_bytes: int, runs: Iterable[Run] = ()) -> None:
        """Begin with ``runs``. Raises :class:`ValueError` unless they are in order and inside."""
        self.blocks = -(-size_bytes // BLOCK_BYTES)
        self._chunks: dict[int, bytearray] = {}
        end = 0
        for first, count in runs:
            if first < end or count < 1 or first + count > self.blocks:
                raise ValueError(f"{count} blocks from {first} on, of {self.blocks}")
            end = first + count
            self.add(first, end)

    def __contains__(self, block: int) -> bool:
        chunk = self._chunks.get(block // _CHUNK)
        return chunk is not None and chunk[block % _CHUNK] == 1

    def add(self, first: int, end: int) -> None:
        """Add blocks, ``end`` excluded."""
        while first < end:
            number, start = divmod(first, _CHUNK)
            count = min(end - first, _CHUNK - start)
            chunk = self._chunks.get(number)
            if count == _CHUNK:
                self._chunks[number] = _FULL
            elif chunk is not _FULL:
                made = bytearray(_CHUNK) if chunk is None else chunk
                made[start : start + count] = _IN * count
                self._chunks[number] = made
            first += count

    def stretch(self, block: int, end: int) -> tuple[bool, int]:
        """Tell whether a block is in the set, and before which block, or ``end``, that changes.

        Another thread may add blocks meanwhile: each is looked at once, so that the answer is right
        for some moment of the call, and always one block at least.
        """
        number, start = divmod(block, _CHUNK)
        if start + end - block <= _CHUNK:  # in one part, as nearly always
            chunk = self._chunks.get(number)
            if chunk is None:
                return False, end
            inside = chunk[start] == 1
            found = chunk.find(_OUT if inside else _IN, start + 1, start + end - block)
            return inside, end if found < 0 else number * _CHUNK + found
        return self._long_stretch(block, end)

    def _long_stretch(self, block: int, end: int) -> tuple[bool, int]:
        inside = block in self
        other, without = (_OUT, False) if inside else (_IN, True)
        block += 1
        while block < end:
            number, start = divmod(block, _CHUNK)
            chunk = self._chunks.get(number)
            if chunk is not None:
                found = chunk.find(other, start, min(_CHUNK, start + end - block))
                if found >= 0:
                    return inside, number * _CHUNK + found
            elif not without:
                return inside, block
            block = (number + 1) * _CHUNK
        return inside, end

    def runs(self) -> list[Run]:
        """Return all of them, in order."""
        found: list[Run] = []
        for number in sorted(self._chunks):
            first, last = number * _CHUNK, min((number + 1) * _CHUNK, self.blocks)
            while first < last:
                inside, end = self.stretch(first, last)
                if inside and found and sum(found[-1]) == first:
                    found[-1] = found[-1][0], end - found[-1][0]
                elif inside:
                    found.append((first, end - first))
                first = end
        return found
