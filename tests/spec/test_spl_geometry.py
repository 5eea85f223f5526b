"""The split virtqueue: where its parts may be, and what of them the device touches."""

import struct

import pytest

from tests.spec.conftest import RigMaker
from tests.spec.devices import Gadget
from tests.spec.rig import SPLIT, Rig
from tests.spec.rings import ECHO, EVENT_IDX, NEXT, WRITE, go_live, kick, split_ring
from virtio.memory import FlatMemory
from virtio.testing import SplitDriver, flat_memory
from virtio.virtqueue.queue import Queue
from virtio.virtqueue.state import QueueLayout, QueueState

TABLE, AVAIL, USED = 0x10000, 0x12000, 0x14000
FAR = 0x1_0000_0000


def negotiated(make_rig: RigMaker, memory: FlatMemory | None = None) -> Rig:
    rig = make_rig(Gadget(), memory)
    rig.negotiate(form=SPLIT)
    return rig


@pytest.mark.spec("SPL-01")
@pytest.mark.parametrize("base", [0, FAR], ids=["low", "above-4-GiB"])
def test_the_three_parts_may_be_anywhere_in_any_order(make_rig: RigMaker, base: int) -> None:
    ram = bytearray(0x20000)
    rig = negotiated(make_rig, FlatMemory([(base, ram), (base + FAR, bytearray(0x1000))]))
    table, avail, used = 0x18000, 0x10002, 0x4
    struct.pack_into("<QIHH", ram, table + 16 * 3, base + 0x9000, 5, NEXT, 1)
    struct.pack_into("<QIHH", ram, table + 16 * 1, base + 0xA000, 6, WRITE, 0)
    struct.pack_into("<HHHH", ram, avail, 0, 1, 3, 0)
    ram[0x9000:0x9005] = b"hello"
    assert rig.driver.set_up_queue(ECHO, 4, base + table, base + avail, base + used)
    rig.driver.go_live()
    rig.serve()
    assert ram[0xA000:0xA006] == b"hello\0"
    assert struct.unpack_from("<HII", ram, used + 2) == (1, 3, 5)


@pytest.mark.spec("SPL-01")
def test_the_parts_may_be_in_different_pieces_of_ram(make_rig: RigMaker) -> None:
    pieces = [bytearray(0x1000) for _ in range(3)]
    ends = [0x3_0000_0000, 0x10_0000, 0x2_0000_0000]
    rig = negotiated(make_rig, FlatMemory(list(zip(ends, pieces, strict=True))))
    struct.pack_into("<QIHH", pieces[0], 0, ends[0] + 0x800, 3, WRITE, 0)
    struct.pack_into("<HHH", pieces[1], 0, 0, 1, 0)
    assert rig.driver.set_up_queue(ECHO, 4, *ends)
    rig.driver.go_live()
    rig.serve()
    assert struct.unpack_from("<HII", pieces[2], 2) == (1, 0, 0)


@pytest.mark.spec("SPL-02")
@pytest.mark.parametrize("size", [0, 3, 255, 512, 65535, 0x1_0000, 0xFFFF_FFFF])
def test_a_size_that_is_no_power_of_two_up_to_the_largest_is_refused(
    make_rig: RigMaker, size: int
) -> None:
    rig = negotiated(make_rig)
    assert not rig.driver.set_up_queue(ECHO, size, TABLE, AVAIL, USED)
    rig.start()
    assert rig.request(ECHO, ((b"hello",), (5,))).data == b"hello"


@pytest.mark.spec("SPL-02")
@pytest.mark.parametrize("size", [1 << n for n in range(9)])
def test_every_power_of_two_up_to_the_largest_is_enabled(make_rig: RigMaker, size: int) -> None:
    rig = negotiated(make_rig)
    assert rig.driver.set_up_queue(ECHO, size, TABLE, AVAIL, USED)


@pytest.mark.spec("SPL-02")
def test_a_queue_of_32768_entries_works() -> None:
    memory = flat_memory((0, 2 << 20))
    driver, queue = SPLIT.pair(memory, 32768)
    assert isinstance(driver, SplitDriver)
    driver.write_descriptor(32767, 0x1FF000, 4, 0)
    for _ in range(32768):
        driver.expose(32767)
    queue.add_used_many([(chain, 0) for chain in queue])
    assert driver.used_idx == 32768
    assert driver.used_element(32767) == (32767, 0)


@pytest.mark.spec("SPL-03")
@pytest.mark.parametrize(("table", "avail", "used"), [(8, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 2)])
def test_a_part_off_its_alignment_is_refused(
    make_rig: RigMaker, table: int, avail: int, used: int
) -> None:
    rig = negotiated(make_rig)
    assert not rig.driver.set_up_queue(ECHO, 8, TABLE + table, AVAIL + avail, USED + used)


@pytest.mark.spec("SPL-03")
@pytest.mark.parametrize(("table", "avail", "used"), [(16, 0, 0), (0, 2, 0), (0, 0, 4)])
def test_a_part_at_its_alignment_is_accepted(
    make_rig: RigMaker, table: int, avail: int, used: int
) -> None:
    rig = negotiated(make_rig)
    assert rig.driver.set_up_queue(ECHO, 8, TABLE + table, AVAIL + avail, USED + used)


LENGTHS = (16 * 8, 6 + 2 * 8, 6 + 8 * 8)


@pytest.mark.spec("SPL-04")
@pytest.mark.parametrize("part", range(3), ids=["table", "avail", "used"])
@pytest.mark.parametrize(
    "address",
    [0x3F_FFF0, 0x40_0000, 0xD000_0000, (1 << 64) - 16, (1 << 63)],
    ids=["across-the-end", "at-the-end", "hole", "wraps", "far-away"],
)
def test_a_part_not_wholly_inside_ram_is_refused(
    make_rig: RigMaker, part: int, address: int
) -> None:
    rig = negotiated(make_rig)
    areas = [TABLE, AVAIL, USED]
    areas[part] = address
    assert not rig.driver.set_up_queue(ECHO, 8, *areas)


@pytest.mark.spec("SPL-04")
@pytest.mark.parametrize("part", range(3), ids=["table", "avail", "used"])
def test_a_part_may_be_the_last_bytes_of_ram(make_rig: RigMaker, part: int) -> None:
    rig = negotiated(make_rig)
    areas = [TABLE, AVAIL, USED]
    areas[part] = 0x40_0000 - LENGTHS[part] & ~0xF
    assert rig.driver.set_up_queue(ECHO, 8, *areas)


@pytest.mark.spec("SPL-05")
def test_without_event_idx_the_rings_end_before_the_event_fields(make_rig: RigMaker) -> None:
    avail, used = bytearray(4 + 2 * 8), bytearray(4 + 8 * 8)
    ram = bytearray(0x1000)
    rig = negotiated(make_rig, FlatMemory([(0, ram), (0x10000, avail), (0x20000, used)]))
    struct.pack_into("<QIHH", ram, 0, 0x800, 4, 0, 0)
    struct.pack_into("<HHH", avail, 0, 0, 1, 0)
    assert rig.driver.set_up_queue(ECHO, 8, 0, 0x10000, 0x20000)
    rig.driver.go_live()
    rig.serve()
    assert struct.unpack_from("<HH", used) == (0, 1)


@pytest.mark.spec("SPL-05", "SPL-06")
def test_100000_buffers_pass_8_entries_and_what_lies_after_the_rings_stays() -> None:
    driver, queue = SPLIT.pair(flat_memory())
    assert isinstance(driver, SplitDriver)
    driver.set_avail_event(0xBEEF)
    driver.set_used_event(0xCAFE)
    for head in range(8):
        driver.write_descriptor(head, 0x8000 + head, 1, 0)
    for first in range(0, 100_000, 5):
        heads = [number * 3 % 8 for number in range(first, first + 5)]
        for head in heads:
            driver.expose(head)
        queue.disable_notification()
        queue.add_used_many([(chain, 0) for chain in queue.pop_many(8)])
        queue.needs_notification()
        assert not queue.enable_notification()
        elements = [driver.used_element(number % 8) for number in range(first, first + 5)]
        assert elements == [(head, 0) for head in heads]
    assert driver.used_idx == 100_000 % 65536
    assert (driver.avail_event, driver.used_event) == (0xBEEF, 0xCAFE)


@pytest.mark.spec("SPL-06")
@pytest.mark.parametrize("start", [65532, 65534, 65535])
def test_both_indices_go_from_65535_to_0(start: int) -> None:
    memory = flat_memory()
    driver = SplitDriver(memory, 4, start=start)
    state = QueueState(0, QueueLayout(*driver.layout), 0, start, start, 0, (), None)
    queue = Queue.from_state(memory, state)
    tokens = [driver.add([b"x"]) for _ in range(4)]
    queue.add_used_many([(chain, 0) for chain in queue])
    assert driver.used_idx == (start + 4) % 65536
    assert [used.token for used in driver.collect()] == tokens


@pytest.mark.spec("SPL-07")
@pytest.mark.parametrize("features", [0, EVENT_IDX])
def test_descriptor_table_and_available_ring_are_never_written(
    make_rig: RigMaker, features: int
) -> None:
    rig = go_live(make_rig, features=features)
    ring = split_ring(rig)
    for number in range(1000):
        ring.add([b"abc"], [number % 5 + 1])
        before = ring.driver_owned()
        kick(rig)
        assert ring.driver_owned() == before
        ring.collect()


@pytest.mark.spec("SPL-07")
def test_a_ring_error_leaves_table_and_available_ring_alone(make_rig: RigMaker) -> None:
    rig = go_live(make_rig)
    ring = split_ring(rig)
    ring.write_descriptor(2, 0x8000, 4, NEXT, 2)
    ring.expose(2)
    before = ring.driver_owned()
    kick(rig)
    assert rig.driver.status & 0x40
    assert ring.driver_owned() == before
