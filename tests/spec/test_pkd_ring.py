"""The packed virtqueue: its ring, its wrap counters, and how buffers come and go in it."""

import struct
from random import Random

import pytest

from tests.spec.conftest import RigMaker
from tests.spec.devices import EVERY_RING, Gadget
from tests.spec.rig import PACKED, Rig
from tests.spec.rings import (
    AVAIL,
    ECHO,
    EVENT_IDX,
    NEXT,
    SLOW,
    USED,
    WRITE,
    break_ring,
    gadget_of,
    go_live,
    kick,
    packed_ring,
)
from virtio.memory import FlatMemory
from virtio.testing import PackedDriver, flat_memory
from virtio.virtqueue.queue import Queue
from virtio.virtqueue.state import QueueLayout, QueueState

RING, DRIVER, DEVICE = 0x10000, 0x12000, 0x14000
IN, OUT = 0x8000, 0x9000


def negotiated(make_rig: RigMaker, memory: FlatMemory | None = None) -> Rig:
    rig = make_rig(Gadget(ring_features=EVERY_RING), memory)
    rig.negotiate(form=PACKED)
    return rig


def live(make_rig: RigMaker, features: int = 0, size: int = 8) -> tuple[Rig, PackedDriver]:
    rig = go_live(make_rig, PACKED, features, size)
    rig.rings[ECHO].write_bytes(IN, b"hello")
    return rig, packed_ring(rig)


# Layout


@pytest.mark.spec("PKD-01", "PKD-03", "PKD-07", "PKD-10", "PKD-11")
def test_the_ring_is_exactly_as_specified(make_rig: RigMaker) -> None:
    ram = bytearray(0x20000)
    rig = negotiated(make_rig, FlatMemory([(0, ram)]))
    struct.pack_into("<QIHH", ram, 0x18000, IN, 5, 111, NEXT | AVAIL)
    struct.pack_into("<QIHH", ram, 0x18010, OUT, 6, 0xFFFE, WRITE | AVAIL)
    ram[IN : IN + 5] = b"hello"
    assert rig.driver.set_up_queue(ECHO, 4, 0x18000, 0x104, 0x100)
    rig.driver.go_live()
    rig.serve()
    assert struct.unpack_from("<IHH", ram, 0x18008) == (5, 0xFFFE, USED | AVAIL | WRITE)
    assert ram[OUT : OUT + 6] == b"hello\0"


@pytest.mark.spec("PKD-01")
@pytest.mark.parametrize("offered", [False, True])
def test_without_ring_packed_negotiated_the_queue_is_split(
    make_rig: RigMaker, offered: bool
) -> None:
    rig = make_rig(Gadget(ring_features=EVERY_RING & ~(0 if offered else 1 << 34)))
    rig.start()
    used = rig.request(ECHO, ((b"hello",), (5,)))
    assert used.data == b"hello"


@pytest.mark.spec("PKD-01")
def test_ring_packed_that_is_not_offered_is_not_accepted(make_rig: RigMaker) -> None:
    rig = make_rig(Gadget(ring_features=EVERY_RING & ~(1 << 34)))
    assert not rig.driver.negotiate(1 << 32 | 1 << 34)


@pytest.mark.spec("PKD-01")
@pytest.mark.parametrize(
    ("ring", "driver", "device"), [(8, 0, 0), (0, 1, 0), (0, 2, 0), (0, 0, 1), (0, 0, 2)]
)
def test_an_area_off_its_alignment_is_refused(
    make_rig: RigMaker, ring: int, driver: int, device: int
) -> None:
    rig = negotiated(make_rig)
    assert not rig.driver.set_up_queue(ECHO, 8, RING + ring, DRIVER + driver, DEVICE + device)


@pytest.mark.spec("PKD-01")
@pytest.mark.parametrize(("ring", "driver", "device"), [(16, 0, 0), (0, 4, 0), (0, 0, 4)])
def test_an_area_at_its_alignment_is_accepted(
    make_rig: RigMaker, ring: int, driver: int, device: int
) -> None:
    rig = negotiated(make_rig)
    assert rig.driver.set_up_queue(ECHO, 8, RING + ring, DRIVER + driver, DEVICE + device)


@pytest.mark.spec("PKD-01")
@pytest.mark.parametrize("part", range(3), ids=["ring", "driver", "device"])
@pytest.mark.parametrize("address", [0x40_0000, 0xD000_0000, (1 << 64) - 16, 1 << 63])
def test_an_area_not_inside_ram_is_refused(make_rig: RigMaker, part: int, address: int) -> None:
    rig = negotiated(make_rig)
    areas = [RING, DRIVER, DEVICE]
    areas[part] = address
    assert not rig.driver.set_up_queue(ECHO, 8, *areas)


@pytest.mark.spec("PKD-01")
@pytest.mark.parametrize(("size", "fits"), [(8, True), (9, False)])
def test_a_ring_must_end_with_ram_or_before(make_rig: RigMaker, size: int, fits: bool) -> None:
    rig = negotiated(make_rig)
    assert rig.driver.set_up_queue(ECHO, size, 0x40_0000 - 128, DRIVER, DEVICE) is fits


# Sizes and laps


@pytest.mark.spec("PKD-02", "PKD-03", "PKD-04", "PKD-06")
@pytest.mark.parametrize("features", [0, EVENT_IDX])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 60, 64])
def test_a_queue_of_any_size_works_over_many_laps(
    make_rig: RigMaker, size: int, features: int
) -> None:
    rig, ring = live(make_rig, features, size)
    random = Random(size)
    for _ in range(300):
        tokens, left = [], size
        while left and random.random() < 0.8:
            segments = random.randint(1, min(left, 4))
            tokens.append(ring.add([b"x"] * (segments - 1), [segments - 1]))
            left -= segments
        kick(rig)
        used = ring.collect()
        assert [one.token for one in used] == tokens
        assert {one.data.strip(b"x") for one in used} <= {b""}


@pytest.mark.spec("PKD-02")
@pytest.mark.parametrize("size", [0, 257, 32768, 65535, 0xFFFF_FFFF])
def test_a_size_that_is_not_between_1_and_the_largest_is_refused(
    make_rig: RigMaker, size: int
) -> None:
    rig = negotiated(make_rig)
    assert not rig.driver.set_up_queue(ECHO, size, RING, DRIVER, DEVICE)


@pytest.mark.spec("PKD-02")
@pytest.mark.parametrize("size", [32767, 32768])
def test_the_largest_queues_work_across_their_end(size: int) -> None:
    memory = flat_memory()
    driver = PackedDriver(memory, size)
    state = QueueState(
        0, QueueLayout(*driver.layout), PACKED.features, size - 2, size - 2, 0, (), None
    )
    queue = Queue.from_state(memory, state)
    laps = [(size - 2, AVAIL), (size - 1, AVAIL), (0, USED), (1, USED)]
    for slot, flags in laps:
        driver.write_descriptor(slot, 0x1000, 0, slot & 0xFFFF, flags)
    queue.add_used_many([(chain, 0) for chain in queue])
    assert [driver.flags(slot) for slot, _ in laps] == [0x8080, 0x8080, 0, 0]


@pytest.mark.spec("PKD-03")
def test_wrap_counters_are_1_again_after_a_device_reset_in_the_second_lap(
    make_rig: RigMaker,
) -> None:
    rig, _ = live(make_rig, size=3)
    for _ in range(2):
        rig.request(ECHO, ((b"hello",), (5,)))
    rig.start(form=PACKED, size=3)
    assert rig.request(ECHO, ((b"hello",), (5,))).data == b"hello"


@pytest.mark.spec("PKD-03")
def test_wrap_counters_are_1_again_after_a_queue_reset_in_the_second_lap(
    make_rig: RigMaker,
) -> None:
    rig, _ = live(make_rig, features=1 << 40, size=3)
    for _ in range(2):
        rig.request(ECHO, ((b"hello",), (5,)))
    rig.driver.write(0x30, ECHO)
    rig.driver.write(0xC0, 1)
    rig.add_queue(ECHO, form=PACKED, size=3)
    assert rig.request(ECHO, ((b"hello",), (5,))).data == b"hello"


# What is available


@pytest.mark.spec("PKD-04")
def test_a_zeroed_ring_is_empty(make_rig: RigMaker) -> None:
    rig, ring = live(make_rig)
    before = bytes(rig.memory.view(ring.layout.descriptor_area, 128))
    kick(rig)
    assert bytes(rig.memory.view(ring.layout.descriptor_area, 128)) == before == bytes(128)
    assert (rig.line.edges, rig.driver.status) == (0, 0x0F)


@pytest.mark.spec("PKD-04")
@pytest.mark.parametrize("flags", [0, USED, USED | AVAIL, 0xFFFF & ~AVAIL, 0x7F])
def test_flags_of_the_other_lap_are_not_available(make_rig: RigMaker, flags: int) -> None:
    rig, ring = live(make_rig)
    ring.write_descriptor(0, OUT, 4, 0, flags)
    kick(rig)
    assert (ring.flags(0), rig.line.edges) == (flags, 0)


@pytest.mark.spec("PKD-04")
@pytest.mark.parametrize("flags", [0, AVAIL, USED | AVAIL])
def test_flags_of_the_first_lap_are_not_available_in_the_second(
    make_rig: RigMaker, flags: int
) -> None:
    rig, ring = live(make_rig, size=1)
    rig.request(ECHO, ((b"x",), ()))
    edges = rig.line.edges
    ring.write_descriptor(0, OUT, 4, 0, flags)
    kick(rig)
    assert (ring.flags(0), rig.line.edges) == (flags, edges)


@pytest.mark.spec("PKD-04", "PKD-06")
def test_a_later_entry_waits_for_the_one_before_it(make_rig: RigMaker) -> None:
    rig, ring = live(make_rig)
    ring.write_descriptor(1, OUT, 4, 1, WRITE | AVAIL)
    kick(rig)
    assert ring.flags(1) == WRITE | AVAIL
    ring.write_descriptor(0, OUT, 4, 0, WRITE | AVAIL)
    kick(rig)
    assert [ring.read_descriptor(slot)[2:] for slot in (0, 1)] == [(0, AVAIL | USED), (1, 0x8080)]


@pytest.mark.spec("PKD-06")
def test_buffers_are_started_in_ring_order(make_rig: RigMaker) -> None:
    rig, _ = live(make_rig, size=7)
    order = []
    for first in range(0, 50, 5):
        for number in range(first, first + 5):
            rig.rings[SLOW].add([b"%03d" % number])
        kick(rig, SLOW)
        order += [chain.read(3) for chain in gadget_of(rig).held]
        gadget_of(rig).finish()
        rig.rings[SLOW].collect()
    assert order == [b"%03d" % number for number in range(50)]


@pytest.mark.spec("PKD-11")
@pytest.mark.parametrize("start", range(5))
def test_a_list_may_cross_the_end_of_the_ring(make_rig: RigMaker, start: int) -> None:
    rig, ring = live(make_rig, size=5)
    for _ in range(start):
        rig.request(ECHO, ((b"x",), ()))
    first = start % 5
    used = rig.request(ECHO, ((b"he", b"llo"), (2, 3)))
    _, length, _, flags = ring.read_descriptor(first)
    assert (used.data, length, flags & WRITE) == (b"hello", 5, WRITE)
    again = rig.request(ECHO, ((b"world",), (5,)))
    assert again.data == b"world"


@pytest.mark.spec("PKD-11")
def test_the_id_of_a_list_is_in_its_last_descriptor_and_one_entry_is_used(
    make_rig: RigMaker,
) -> None:
    rig, ring = live(make_rig)
    ring.write_descriptor(2, OUT, 4, 33, WRITE | AVAIL)
    ring.write_descriptor(1, IN, 2, 22, NEXT | AVAIL)
    ring.write_descriptor(0, IN, 2, 11, NEXT | AVAIL)
    ring.write_descriptor(3, OUT + 8, 4, 44, WRITE | AVAIL)
    kick(rig)
    assert ring.read_descriptor(0)[1:] == (4, 33, WRITE | AVAIL | USED)
    assert [ring.flags(slot) for slot in (1, 2)] == [NEXT | AVAIL, WRITE | AVAIL]
    assert ring.read_descriptor(3)[2:] == (44, AVAIL | USED)


@pytest.mark.spec("PKD-12")
@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_list_without_an_end_breaks_the_ring(
    make_rig: RigMaker, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    rig, ring = live(make_rig, size=size)
    for slot in range(size):
        ring.write_descriptor(slot, IN, 1, 0, NEXT | AVAIL)
    break_ring(rig, "PKD-12", caplog)


@pytest.mark.spec("PKD-12")
@pytest.mark.parametrize("flags", [0, USED, AVAIL | USED])
def test_a_list_that_runs_into_an_entry_not_available_breaks_the_ring(
    make_rig: RigMaker, caplog: pytest.LogCaptureFixture, flags: int
) -> None:
    rig, ring = live(make_rig)
    ring.write_descriptor(0, IN, 1, 0, NEXT | AVAIL)
    ring.write_descriptor(1, IN, 1, 0, NEXT | AVAIL)
    ring.write_descriptor(2, IN, 1, 0, flags)
    break_ring(rig, "PKD-12", caplog)


@pytest.mark.spec("PKD-12")
def test_a_list_that_runs_into_a_chain_in_flight_breaks_the_ring(make_rig: RigMaker) -> None:
    rig, _ = live(make_rig)
    ring = packed_ring(rig, SLOW)
    for slot in range(4):
        ring.write_descriptor(slot, OUT, 4, slot, WRITE | AVAIL)
    kick(rig, SLOW)
    for slot in range(4, 8):
        ring.write_descriptor(slot, IN, 1, 7, NEXT | AVAIL)
    ring.write_descriptor(0, IN, 1, 7, USED)
    kick(rig, SLOW)
    assert len(gadget_of(rig).held) == 4
    assert rig.driver.status & 0x40


@pytest.mark.spec("PKD-12")
def test_a_list_of_the_whole_ring_is_served(make_rig: RigMaker) -> None:
    rig, _ = live(make_rig, size=5)
    assert rig.request(ECHO, ((b"a", b"b", b"c"), (1, 2))).data == b"abc"


# What comes back


@pytest.mark.spec("PKD-08")
def test_a_used_entry_is_left_alone(make_rig: RigMaker) -> None:
    rig, ring = live(make_rig)
    for slot in range(8):
        rig.request(ECHO, ((b"x",), ()))
        ring.write_bytes(ring.layout.descriptor_area + 16 * slot, b"\x11" * 14)
    kick(rig)
    entries = [ring.read_bytes(ring.layout.descriptor_area + 16 * n, 14) for n in range(8)]
    assert entries == [b"\x11" * 14] * 8
    assert {ring.flags(slot) for slot in range(8)} == {AVAIL | USED}


@pytest.mark.spec("PKD-09")
@pytest.mark.parametrize("seed", range(5))
def test_used_entries_follow_each_other_in_completion_order(make_rig: RigMaker, seed: int) -> None:
    rig, _ = live(make_rig)
    ring = packed_ring(rig, SLOW)
    for slot in range(8):
        ring.write_descriptor(slot, OUT, 9, 100 + slot, WRITE | AVAIL)
    kick(rig, SLOW)
    order = list(range(8))
    Random(seed).shuffle(order)
    chains = gadget_of(rig).held
    for place, number in enumerate(order):
        chains[number].complete(number + 1)
        entry = ring.read_descriptor(place)
        assert entry[1:] == (number + 1, 100 + number, WRITE | AVAIL | USED)


@pytest.mark.spec("PKD-09", "PKD-11")
def test_a_list_completed_early_takes_the_first_place_and_skips_its_own_length(
    make_rig: RigMaker,
) -> None:
    rig, _ = live(make_rig)
    ring = packed_ring(rig, SLOW)
    first = ring.add([b"1"], [4])
    second = ring.add([b"2", b"2"], [4])
    third = ring.add([], [4])
    kick(rig, SLOW)
    chains = gadget_of(rig).held
    returned = []
    for chain in (chains[1], chains[2], chains[0]):
        chain.complete(chain.write(b"done"))
        returned += [used.token for used in ring.collect()]
    assert returned == [second, third, first]
    assert [bool(ring.flags(slot) & USED) for slot in range(6)] == [1, 0, 0, 1, 1, 0]


@pytest.mark.spec("PKD-10")
@pytest.mark.parametrize(
    ("data", "space", "length"), [(b"", 0, 0), (b"", 4, 0), (b"hello", 0, 0), (b"hello", 3, 3)]
)
@pytest.mark.parametrize("lap", [0, 1])
def test_the_write_flag_is_there_exactly_when_something_was_written(
    make_rig: RigMaker, data: bytes, space: int, length: int, lap: int
) -> None:
    rig, ring = live(make_rig, size=2)
    for _ in range(lap):
        ring.add([b"x", b"x"])
        kick(rig)
        ring.collect()
    ring.add([data], [space])
    kick(rig)
    _, used_length, _, flags = ring.read_descriptor(0)
    assert (used_length, bool(flags & WRITE)) == (length, length > 0)


@pytest.mark.spec("PKD-15")
@pytest.mark.parametrize("identifiers", [[0xFFFF], [7, 7, 7], [0x8000, 0, 0xFFFF, 0]])
def test_any_id_is_echoed_also_the_same_several_times(
    make_rig: RigMaker, identifiers: list[int]
) -> None:
    rig, _ = live(make_rig)
    ring = packed_ring(rig, SLOW)
    for slot, identifier in enumerate(identifiers):
        ring.write_descriptor(slot, OUT, 4, identifier, WRITE | AVAIL)
    kick(rig, SLOW)
    gadget_of(rig).finish()
    echoed = [ring.read_descriptor(slot)[2] for slot in range(len(identifiers))]
    assert echoed == identifiers
    assert rig.driver.status == 0x0F
