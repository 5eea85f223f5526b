"""A small mutator: the same inputs from the same seeds, on every machine."""

from collections.abc import Callable, Iterator, Sequence
from random import Random

BOUNDARIES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, (1 << 64) - 1)

Mutation = Callable[[bytearray, Random], None]


def mutations(seeds: Sequence[bytes], count: int, random: Random) -> Iterator[bytes]:
    """Return ``count`` inputs, each a seed with one to six changes, or two seeds put together."""
    for _ in range(count):
        data = bytearray(random.choice(seeds))
        if random.random() < 0.1:
            other = random.choice(seeds)
            data[random.randrange(len(data) + 1) :] = other[random.randrange(len(other) + 1) :]
        for _ in range(random.randint(1, 6)):
            random.choice(MUTATIONS)(data, random)
        yield bytes(data)


def _flip_bit(data: bytearray, random: Random) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _set_byte(data: bytearray, random: Random) -> None:
    if data:
        data[random.randrange(len(data))] = random.randrange(256)


def _set_integer(data: bytearray, random: Random) -> None:
    width = random.choice((1, 2, 4, 8))
    value = random.choice(BOUNDARIES) + random.randint(-1, 1)
    at = random.randrange(len(data) + 1)
    data[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")


def _remove(data: bytearray, random: Random) -> None:
    at = random.randrange(len(data) + 1)
    del data[at : at + random.randint(1, 16)]


def _repeat(data: bytearray, random: Random) -> None:
    at = random.randrange(len(data) + 1)
    data[at:at] = data[at : at + random.randint(1, 16)]


def _cut(data: bytearray, random: Random) -> None:
    if random.random() < 0.3:
        del data[random.randrange(len(data) + 1) :]


MUTATIONS: tuple[Mutation, ...] = (_flip_bit, _set_byte, _set_integer, _remove, _repeat, _cut)
