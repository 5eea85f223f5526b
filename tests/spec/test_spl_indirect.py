"""Indirect descriptors of the split virtqueue."""

import struct

import pytest

from tests.spec.conftest import RigMaker
from tests.spec.rig import Rig
from tests.spec.rings import (
    ECHO,
    INDIRECT,
    INDIRECT_DESC,
    NEXT,
    WRITE,
    break_ring,
    go_live,
    kick,
    split_ring,
)
from virtio.testing import SplitDriver, flat_memory

IN, OUT = 0x8000, 0x9000
END = 4 << 20


@pytest.fixture
def rig(make_rig: RigMaker) -> Rig:
    """The gadget live with INDIRECT_DESC, ``hello`` at ``IN``."""
    rig = go_live(make_rig, features=INDIRECT_DESC)
    rig.rings[ECHO].write_bytes(IN, b"hello")
    return rig


@pytest.fixture
def ring(rig: Rig) -> SplitDriver:
    """Its echo queue."""
    return split_ring(rig)


def point_to(
    ring: SplitDriver, table: int, entries: int, flags: int = INDIRECT, next: int = 0
) -> None:
    """Expose descriptor 0, which points to a table of so many entries."""
    ring.write_descriptor(0, table, 16 * entries, flags, next)
    ring.expose(0)


def echoed(rig: Rig, length: int = 5) -> bytes:
    """Serve, and return what came out, with its used length checked."""
    kick(rig)
    ring = split_ring(rig)
    assert (ring.used_idx, ring.used_element(0)[1]) == (1, length)
    return ring.read_bytes(OUT, length)


@pytest.mark.spec("SPL-24")
def test_an_indirect_descriptor_without_the_feature_breaks_the_ring(
    make_rig: RigMaker, caplog: pytest.LogCaptureFixture
) -> None:
    rig = go_live(make_rig)
    rig.rings[ECHO].add([b"hello"], [5], indirect=True)
    break_ring(rig, "SPL-24", caplog)


@pytest.mark.spec("SPL-25")
@pytest.mark.parametrize("extra", [0, WRITE])
def test_write_on_the_pointer_to_the_table_is_ignored(
    rig: Rig, ring: SplitDriver, extra: int
) -> None:
    table = ring.write_indirect_table([(IN, 5, NEXT, 1), (OUT, 5, WRITE, 0)])
    point_to(ring, table, 2, INDIRECT | extra)
    assert echoed(rig) == b"hello"


@pytest.mark.spec("SPL-25", "SPL-26")
def test_write_on_the_pointer_is_ignored_after_direct_descriptors(
    rig: Rig, ring: SplitDriver
) -> None:
    table = ring.write_indirect_table([(IN + 2, 3, NEXT, 1), (OUT, 5, WRITE, 0)])
    ring.write_descriptor(0, IN, 2, NEXT, 1)
    ring.write_descriptor(1, table, 32, INDIRECT | WRITE)
    ring.expose(0)
    assert echoed(rig) == b"hello"


@pytest.mark.spec("SPL-26")
@pytest.mark.parametrize("direct", range(5))
def test_direct_descriptors_may_precede_the_indirect_one(
    rig: Rig, ring: SplitDriver, direct: int
) -> None:
    for index in range(direct):
        ring.write_descriptor(index, IN + index, 1, NEXT, index + 1)
    table = ring.write_indirect_table(
        [(IN + direct, 5 - direct, NEXT, 1), (OUT, 2, WRITE | NEXT, 2), (OUT + 2, 3, WRITE, 0)]
    )
    ring.write_descriptor(direct, table, 48, INDIRECT)
    ring.expose(0)
    assert echoed(rig) == b"hello"


@pytest.mark.spec("SPL-26")
def test_a_writable_direct_descriptor_may_precede_a_table_of_writable_ones(
    rig: Rig, ring: SplitDriver
) -> None:
    table = ring.write_indirect_table([(OUT + 2, 3, WRITE, 0)])
    ring.write_descriptor(0, IN, 5, NEXT, 1)
    ring.write_descriptor(1, OUT, 2, NEXT | WRITE, 2)
    ring.write_descriptor(2, table, 16, INDIRECT)
    ring.expose(0)
    assert echoed(rig) == b"hello"


@pytest.mark.spec("SPL-27")
def test_indirect_together_with_next_breaks_the_ring(
    rig: Rig, ring: SplitDriver, caplog: pytest.LogCaptureFixture
) -> None:
    table = ring.write_indirect_table([(IN, 5, NEXT, 1), (OUT, 5, WRITE, 0)])
    ring.write_descriptor(1, OUT, 5, WRITE)
    point_to(ring, table, 2, INDIRECT | NEXT, 1)
    break_ring(rig, "SPL-27", caplog)


@pytest.mark.spec("SPL-28")
@pytest.mark.parametrize("flags", [INDIRECT, INDIRECT | NEXT, INDIRECT | WRITE])
@pytest.mark.parametrize("at", [0, 1])
def test_indirect_inside_a_table_breaks_the_ring(
    rig: Rig, ring: SplitDriver, caplog: pytest.LogCaptureFixture, flags: int, at: int
) -> None:
    inner = ring.write_indirect_table([(OUT, 5, WRITE, 0)])
    entries = [(IN, 5, NEXT, 1), (OUT, 5, WRITE, 0)]
    entries[at] = (inner, 16, flags, 1)
    point_to(ring, ring.write_indirect_table(entries), 2)
    break_ring(rig, "SPL-28", caplog)


@pytest.mark.spec("SPL-29")
@pytest.mark.parametrize("length", [0, 1, 8, 15, 17, 24, 0xFFFF_FFFF])
def test_a_table_of_a_bad_length_breaks_the_ring(
    rig: Rig, ring: SplitDriver, caplog: pytest.LogCaptureFixture, length: int
) -> None:
    ring.write_descriptor(0, IN, length, INDIRECT)
    ring.expose(0)
    break_ring(rig, "SPL-29", caplog)


@pytest.mark.spec("SPL-29")
@pytest.mark.parametrize(
    ("address", "entries"),
    [(END, 1), (END - 8, 1), (END - 16, 2), (0xD000_0000, 1), ((1 << 64) - 16, 2), (IN, 1 << 20)],
)
def test_a_table_not_inside_ram_breaks_the_ring(
    rig: Rig, ring: SplitDriver, caplog: pytest.LogCaptureFixture, address: int, entries: int
) -> None:
    point_to(ring, address, entries)
    break_ring(rig, "SPL-29", caplog)


@pytest.mark.spec("SPL-29")
@pytest.mark.parametrize("address", [0x20001, 0x20003, 0x20008, END - 32])
def test_a_table_may_be_at_any_address(rig: Rig, ring: SplitDriver, address: int) -> None:
    ring.write_indirect_table([(IN, 5, NEXT, 1), (OUT, 5, WRITE, 0)], address)
    point_to(ring, address, 2)
    assert echoed(rig) == b"hello"


@pytest.mark.spec("SPL-29", "SPL-15")
def test_a_table_may_span_adjacent_regions(make_rig: RigMaker) -> None:
    memory = flat_memory((0, END), (END, 0x1000))
    rig = go_live(make_rig, features=INDIRECT_DESC, memory=memory)
    ring = split_ring(rig)
    ring.write_bytes(IN, b"hello")
    table = struct.pack("<QIHHQIHH", IN, 5, NEXT, 1, OUT, 5, WRITE, 0)
    ring.write_bytes(END - 18, table[:18])
    ring.write_bytes(END, table[18:])
    point_to(ring, END - 18, 2)
    assert echoed(rig) == b"hello"


@pytest.mark.spec("SPL-30")
def test_the_table_starts_at_entry_0_and_follows_next(rig: Rig, ring: SplitDriver) -> None:
    bad = (0xD000_0000, 0xFFFF_FFFF, 0, 0)
    table = ring.write_indirect_table(
        [
            (IN, 1, NEXT, 5),
            (IN + 3, 2, NEXT, 4),
            bad,
            (OUT + 4, 1, WRITE, 2),
            (OUT, 4, NEXT | WRITE, 3),
            (IN + 1, 2, NEXT, 1),
        ]
    )
    point_to(ring, table, 6)
    assert echoed(rig) == b"hello"


@pytest.mark.spec("SPL-30", "SPL-12")
@pytest.mark.parametrize("following", [2, 3, 0xFFFF])
def test_a_next_outside_the_table_breaks_the_ring(
    rig: Rig, ring: SplitDriver, caplog: pytest.LogCaptureFixture, following: int
) -> None:
    table = ring.write_indirect_table(
        [(IN, 5, NEXT, following), (OUT, 5, WRITE, 0), (OUT, 5, WRITE, 0), (OUT, 5, WRITE, 0)]
    )
    point_to(ring, table, 2)
    break_ring(rig, "SPL-12", caplog)


@pytest.mark.spec("SPL-30", "SPL-13")
@pytest.mark.parametrize("path", [[0], [0, 1], [0, 3, 1]])
def test_a_loop_in_the_table_breaks_the_ring(
    rig: Rig, ring: SplitDriver, caplog: pytest.LogCaptureFixture, path: list[int]
) -> None:
    after = dict(zip(path, path[1:] + path[:1], strict=True))
    table = ring.write_indirect_table([(IN, 1, NEXT, after.get(i, 0)) for i in range(4)])
    point_to(ring, table, 4)
    break_ring(rig, "SPL-13", caplog)


@pytest.mark.spec("SPL-31")
@pytest.mark.parametrize("entries", [64, 1024])
def test_a_table_may_have_more_entries_than_the_queue(make_rig: RigMaker, entries: int) -> None:
    rig = go_live(make_rig, features=INDIRECT_DESC, size=16)
    used_length = entries // 2
    ring = rig.rings[ECHO]
    message = bytes(range(256)) * 2
    ring.add([message[i : i + 1] for i in range(used_length)], [1] * used_length, indirect=True)
    kick(rig)
    [used] = ring.collect()
    assert (used.length, used.data) == (used_length, message[:used_length])


@pytest.mark.spec("SPL-31", "SPL-20")
def test_direct_and_indirect_descriptors_count_together(
    rig: Rig, ring: SplitDriver, caplog: pytest.LogCaptureFixture
) -> None:
    entries = [(IN, 1, NEXT, i + 1) for i in range(1023)] + [(IN, 1, 0, 0)]
    table = ring.write_indirect_table(entries)
    ring.write_descriptor(0, IN, 1, NEXT, 1)
    ring.write_descriptor(1, table, 16 * 1024, INDIRECT)
    ring.expose(0)
    break_ring(rig, "SPL-20", caplog)
