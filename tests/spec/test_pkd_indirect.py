"""Indirect descriptors of the packed virtqueue."""

import pytest

from tests.spec.conftest import RigMaker
from tests.spec.rig import PACKED, Rig
from tests.spec.rings import (
    AVAIL,
    ECHO,
    INDIRECT,
    INDIRECT_DESC,
    NEXT,
    USED,
    WRITE,
    break_ring,
    go_live,
    kick,
    packed_ring,
)
from virtio.testing import PackedDriver

IN, OUT = 0x8000, 0x9000
END = 4 << 20


@pytest.fixture
def rig(make_rig: RigMaker) -> Rig:
    """The gadget live with INDIRECT_DESC, ``hello`` at ``IN``."""
    rig = go_live(make_rig, PACKED, INDIRECT_DESC)
    rig.rings[ECHO].write_bytes(IN, b"hello")
    return rig


@pytest.fixture
def ring(rig: Rig) -> PackedDriver:
    """Its echo queue."""
    return packed_ring(rig)


@pytest.mark.spec("PKD-13")
@pytest.mark.parametrize("extra", [0, NEXT, INDIRECT, AVAIL, USED, 0xFFFF & ~WRITE])
def test_entries_follow_each_other_and_of_their_flags_only_write_counts(
    rig: Rig, ring: PackedDriver, extra: int
) -> None:
    table = ring.write_indirect_table(
        [
            (IN, 2, 0xFFFF, extra),
            (IN + 2, 3, 0, 0),
            (OUT, 1, 7, WRITE | extra),
            (OUT + 1, 4, 0, WRITE),
        ]
    )
    ring.write_descriptor(0, table, 64, 77, INDIRECT | AVAIL)
    kick(rig)
    assert ring.read_bytes(OUT, 5) == b"hello"
    assert ring.read_descriptor(0)[1:] == (5, 77, WRITE | AVAIL | USED)


@pytest.mark.spec("PKD-13")
@pytest.mark.parametrize("extra", [0, WRITE])
def test_write_on_the_ring_descriptor_is_ignored(rig: Rig, ring: PackedDriver, extra: int) -> None:
    table = ring.write_indirect_table([(IN, 5, 0, 0), (OUT, 5, 0, WRITE)])
    ring.write_descriptor(0, table, 32, 0, INDIRECT | AVAIL | extra)
    kick(rig)
    assert ring.read_bytes(OUT, 5) == b"hello"


@pytest.mark.spec("PKD-13")
def test_an_indirect_chain_takes_one_entry_of_the_ring(rig: Rig, ring: PackedDriver) -> None:
    table = ring.write_indirect_table([(IN, 5, 0, 0), (OUT, 5, 0, WRITE)])
    for slot in range(8):
        ring.write_descriptor(slot, table, 32, slot, INDIRECT | AVAIL)
    kick(rig)
    assert [ring.read_descriptor(slot)[2] for slot in range(8)] == list(range(8))
    assert {ring.flags(slot) for slot in range(8)} == {WRITE | AVAIL | USED}


@pytest.mark.spec("PKD-13", "PKD-22")
@pytest.mark.parametrize("entries", [64, 1024])
def test_a_table_may_have_more_entries_than_the_queue(
    rig: Rig, ring: PackedDriver, entries: int
) -> None:
    half = entries // 2
    message = bytes(range(256)) * 2
    ring.add([message[i : i + 1] for i in range(half)], [1] * half, indirect=True)
    kick(rig)
    [used] = ring.collect()
    assert (used.length, used.data) == (half, message[:half])


@pytest.mark.spec("PKD-14")
def test_indirect_without_the_feature_breaks_the_ring(
    make_rig: RigMaker, caplog: pytest.LogCaptureFixture
) -> None:
    rig = go_live(make_rig, PACKED)
    rig.rings[ECHO].add([b"hello"], [5], indirect=True)
    break_ring(rig, "PKD-14", caplog)


@pytest.mark.spec("PKD-14")
@pytest.mark.parametrize("at", [0, 1, 2])
def test_indirect_inside_a_list_breaks_the_ring(
    rig: Rig, ring: PackedDriver, caplog: pytest.LogCaptureFixture, at: int
) -> None:
    table = ring.write_indirect_table([(OUT, 5, 0, WRITE)])
    for slot in range(3):
        ring.write_descriptor(slot, IN, 1, 0, AVAIL | (NEXT if slot < 2 else 0))
    ring.write_descriptor(at, table, 16, 0, ring.flags(at) | INDIRECT)
    break_ring(rig, "PKD-14", caplog)


@pytest.mark.spec("PKD-14")
@pytest.mark.parametrize("length", [0, 1, 8, 15, 17, 24])
def test_a_table_of_a_bad_length_breaks_the_ring(
    rig: Rig, ring: PackedDriver, caplog: pytest.LogCaptureFixture, length: int
) -> None:
    ring.write_descriptor(0, IN, length, 0, INDIRECT | AVAIL)
    break_ring(rig, "PKD-14", caplog)


@pytest.mark.spec("PKD-14")
@pytest.mark.parametrize(
    ("address", "length"),
    [(END, 16), (END - 8, 16), (END - 16, 32), (0xD000_0000, 16), ((1 << 64) - 16, 32)],
)
def test_a_table_not_inside_ram_breaks_the_ring(
    rig: Rig, ring: PackedDriver, caplog: pytest.LogCaptureFixture, address: int, length: int
) -> None:
    ring.write_descriptor(0, address, length, 0, INDIRECT | AVAIL)
    break_ring(rig, "PKD-14", caplog)


@pytest.mark.spec("PKD-14", "PKD-22")
@pytest.mark.parametrize("length", [16 * 1025, 0xFFFF_FFF0, 0xFFFF_FFFF])
def test_an_enormous_table_breaks_the_ring(
    rig: Rig, ring: PackedDriver, caplog: pytest.LogCaptureFixture, length: int
) -> None:
    ring.write_descriptor(0, IN, length, 0, INDIRECT | AVAIL)
    break_ring(rig, "SPL-20", caplog)
