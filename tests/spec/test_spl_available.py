"""The split virtqueue against a driver whose available ring or descriptor table is wrong."""

import pytest

from tests.spec.conftest import RigMaker
from tests.spec.rings import (
    ECHO,
    INDIRECT_DESC,
    NEXT,
    SLOW,
    WRITE,
    break_ring,
    gadget_of,
    go_live,
    kick,
    split_ring,
)
from virtio.device.declaration import Device, queue
from virtio.testing import Segment
from virtio.virtqueue.chain import DescriptorChain


class Wide(Device):
    """A device with a large queue that returns everything."""

    device_id = 0x7E

    @queue(size=2048)
    def sink(self, chain: DescriptorChain) -> int:
        return 0


@pytest.mark.spec("SPL-10")
@pytest.mark.parametrize("ahead", [9, 10, 0x7FFF, 0x8000, 0xFFFF])
def test_an_index_more_than_the_size_ahead_breaks_the_ring(
    make_rig: RigMaker, caplog: pytest.LogCaptureFixture, ahead: int
) -> None:
    rig = go_live(make_rig)
    split_ring(rig).set_avail_idx(ahead)
    break_ring(rig, "SPL-10", caplog)


@pytest.mark.spec("SPL-10")
def test_an_index_that_goes_backwards_breaks_the_ring(
    make_rig: RigMaker, caplog: pytest.LogCaptureFixture
) -> None:
    rig = go_live(make_rig)
    ring = split_ring(rig)
    ring.add([b"a"])
    ring.add([b"b"])
    kick(rig)
    ring.set_avail_idx(1)
    break_ring(rig, "SPL-10", caplog)


@pytest.mark.spec("SPL-10")
def test_an_index_exactly_the_size_ahead_is_served(make_rig: RigMaker) -> None:
    rig = go_live(make_rig)
    ring = split_ring(rig)
    tokens = [ring.add([b"x"]) for _ in range(8)]
    kick(rig)
    assert [used.token for used in ring.collect()] == tokens


@pytest.mark.spec("SPL-10")
def test_no_more_chains_are_held_than_the_ring_has_entries(make_rig: RigMaker) -> None:
    rig = go_live(make_rig)
    ring = split_ring(rig, SLOW)
    ring.write_descriptor(0, 0x8000, 4, WRITE)
    for _ in range(100):
        ring.expose(0)
        kick(rig, SLOW)
    assert rig.driver.status & 0x40
    assert len(gadget_of(rig).held) == 8


@pytest.mark.spec("SPL-11")
@pytest.mark.parametrize("head", [8, 9, 0x7FFF, 0xFFFF])
def test_a_head_outside_the_table_breaks_the_ring(
    make_rig: RigMaker, caplog: pytest.LogCaptureFixture, head: int
) -> None:
    rig = go_live(make_rig)
    split_ring(rig).expose(head)
    break_ring(rig, "SPL-11", caplog)


@pytest.mark.spec("SPL-12")
@pytest.mark.parametrize("following", [8, 9, 0xFFFF])
def test_a_next_outside_the_table_breaks_the_ring(
    make_rig: RigMaker, caplog: pytest.LogCaptureFixture, following: int
) -> None:
    rig = go_live(make_rig)
    ring = split_ring(rig)
    ring.write_descriptor(0, 0x8000, 4, NEXT, 1)
    ring.write_descriptor(1, 0x8000, 4, NEXT, following)
    ring.expose(0)
    break_ring(rig, "SPL-12", caplog)


@pytest.mark.spec("SPL-12")
def test_next_means_nothing_without_its_flag(make_rig: RigMaker) -> None:
    rig = go_live(make_rig)
    ring = split_ring(rig)
    ring.write_descriptor(0, 0x8000, 4, 0, 0xFFFF)
    ring.expose(0)
    kick(rig)
    assert ring.used_idx == 1


@pytest.mark.spec("SPL-13")
@pytest.mark.parametrize("path", [[0], [0, 1], [5, 2, 7], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_a_loop_breaks_the_ring(
    make_rig: RigMaker, caplog: pytest.LogCaptureFixture, path: list[int]
) -> None:
    rig = go_live(make_rig)
    ring = split_ring(rig)
    for index, following in zip(path, path[1:] + path[:1], strict=True):
        ring.write_descriptor(index, 0x8000, 4, NEXT, following)
    ring.expose(path[0])
    break_ring(rig, "SPL-13", caplog)


@pytest.mark.spec("SPL-13")
def test_a_way_into_a_loop_breaks_the_ring(
    make_rig: RigMaker, caplog: pytest.LogCaptureFixture
) -> None:
    rig = go_live(make_rig)
    ring = split_ring(rig)
    for index, following in [(0, 1), (1, 2), (2, 3), (3, 2)]:
        ring.write_descriptor(index, 0x8000, 4, NEXT, following)
    ring.expose(0)
    break_ring(rig, "SPL-13", caplog)


@pytest.mark.spec("SPL-13")
def test_a_chain_of_every_entry_of_the_table_is_served(make_rig: RigMaker) -> None:
    rig = go_live(make_rig)
    used = rig.request(ECHO, ([b"a", b"b", b"c", b"d"], [1, 1, 1, 1]))
    assert (used.length, used.data) == (4, b"abcd")


@pytest.mark.spec("SPL-20")
def test_a_direct_chain_of_1024_descriptors_is_served_and_1025_break_the_ring(
    make_rig: RigMaker, caplog: pytest.LogCaptureFixture
) -> None:
    rig = make_rig(Wide())
    rig.start(size=2048)
    ring = split_ring(rig)
    ring.add_segments([Segment(0x8000, 1, False)] * 1024)
    kick(rig)
    assert len(ring.collect()) == 1
    ring.add_segments([Segment(0x8000, 1, False)] * 1025)
    kick(rig)
    assert rig.driver.status & 0x40
    assert ["SPL-20" in line for line in caplog.messages] == [True]


@pytest.mark.spec("SPL-21")
def test_undefined_descriptor_flags_are_ignored(make_rig: RigMaker) -> None:
    rig = go_live(make_rig, features=INDIRECT_DESC)
    ring = split_ring(rig)
    ring.write_bytes(0x8000, b"hello")
    table = ring.write_indirect_table([(0x9000, 5, 0xFFF8 | WRITE, 99)])
    ring.write_descriptor(2, 0x8000, 5, 0xFFF8 | NEXT, 5)
    ring.write_descriptor(5, table, 16, 0xFFF8 | 4, 99)
    ring.expose(2)
    kick(rig)
    assert ring.read_bytes(0x9000, 5) == b"hello"
    assert ring.used_element(0) == (2, 5)


@pytest.mark.spec("SPL-22")
def test_a_head_exposed_again_before_it_was_used_comes_back_twice(make_rig: RigMaker) -> None:
    rig = go_live(make_rig)
    ring = split_ring(rig, SLOW)
    ring.write_descriptor(3, 0x8000, 4, WRITE)
    ring.expose(3)
    ring.expose(3)
    kick(rig, SLOW)
    gadget_of(rig).finish()
    assert [ring.used_element(0), ring.used_element(1)] == [(3, 4), (3, 4)]
    assert (ring.used_idx, rig.driver.status) == (2, 0x0F)


@pytest.mark.spec("SPL-11", "SPL-13")
def test_a_reset_makes_a_broken_device_good_again(make_rig: RigMaker) -> None:
    rig = go_live(make_rig)
    split_ring(rig).expose(8)
    kick(rig)
    assert rig.driver.status & 0x40
    rig.start()
    assert rig.request(ECHO, ((b"hello",), (5,))).data == b"hello"
