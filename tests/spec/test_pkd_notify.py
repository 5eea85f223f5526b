"""Event suppression of the packed virtqueue, in both directions."""

import itertools

import pytest

from tests.spec.conftest import RigMaker
from tests.spec.rig import PACKED, Rig
from tests.spec.rings import ECHO, EVENT_IDX, IN_ORDER, SLOW, gadget_of, go_live, kick, packed_ring
from virtio.testing import PackedDriver, flat_memory
from virtio.virtqueue.queue import Queue

ENABLE, DISABLE, DESC, RESERVED = 0, 1, 2, 3


def pair(size: int, features: int = EVENT_IDX) -> tuple[PackedDriver, Queue]:
    driver, queue = PACKED.pair(flat_memory(), size, features)
    assert isinstance(driver, PackedDriver)
    return driver, queue


def serve(driver: PackedDriver, queue: Queue, entries: int, lists_of: int = 1) -> None:
    """Have so many ring entries used, in lists of one length."""
    for _ in range(entries // lists_of):
        driver.add([b"x"] * lists_of)
    queue.add_used_many([(chain, 0) for chain in queue])
    driver.collect()


def interrupts(rig: Rig) -> int:
    before = rig.line.edges
    rig.request(ECHO, ((b"x",), ()))
    return rig.line.edges - before


# Notifying the driver


@pytest.mark.spec("PKD-17")
@pytest.mark.parametrize(
    ("features", "mode", "expected"),
    [
        (0, ENABLE, 1),
        (0, DISABLE, 0),
        (0, DESC, 1),
        (0, RESERVED, 1),
        (EVENT_IDX, ENABLE, 1),
        (EVENT_IDX, DISABLE, 0),
        (EVENT_IDX, DESC, 0),
        (EVENT_IDX, RESERVED, 1),
    ],
)
def test_the_drivers_suppression_is_obeyed(
    make_rig: RigMaker, features: int, mode: int, expected: int
) -> None:
    rig = go_live(make_rig, PACKED, features)
    # Entry 5 of the first lap, which mode 2 waits for, is not among those used here.
    packed_ring(rig).set_driver_event(5 | 1 << 15, mode)
    assert [interrupts(rig) for _ in range(3)] == [expected] * 3


@pytest.mark.spec("PKD-17")
def test_reserved_bits_beside_the_mode_are_ignored(make_rig: RigMaker) -> None:
    rig = go_live(make_rig, PACKED, EVENT_IDX)
    seen = []
    for mode in (0xFFFC | ENABLE, 0xFFFC | DISABLE):
        packed_ring(rig).set_driver_event(0, mode)
        seen.append(interrupts(rig))
    assert seen == [1, 0]


@pytest.mark.spec("PKD-18")
@pytest.mark.parametrize("size", [1, 5, 8])
def test_in_mode_2_the_driver_is_notified_when_its_entry_is_in_the_span(size: int) -> None:
    for start, count in itertools.product(range(2 * size), range(1, size + 1)):
        for event in range(2 * size):
            driver, queue = pair(size)
            for _ in range(start):
                serve(driver, queue, 1)
            queue.needs_notification()
            driver.set_driver_event(event % size | (event < size) << 15, DESC)
            serve(driver, queue, count)
            span = [(start + i) % (2 * size) for i in range(count)]
            assert queue.needs_notification() is (event in span), (start, count, event)


@pytest.mark.spec("PKD-18", "PKD-11")
def test_in_mode_2_the_entries_that_a_list_skips_are_in_the_span() -> None:
    for start, event in itertools.product(range(14), range(14)):
        driver, queue = pair(7)
        for _ in range(start):
            serve(driver, queue, 1)
        queue.needs_notification()
        driver.set_driver_event(event % 7 | (event < 7) << 15, DESC)
        serve(driver, queue, 3, lists_of=3)
        span = [(start + i) % 14 for i in range(3)]
        assert queue.needs_notification() is (event in span), (start, event)


@pytest.mark.spec("PKD-18")
def test_a_driver_that_sleeps_until_an_entry_is_used_is_woken_once(make_rig: RigMaker) -> None:
    rig = go_live(make_rig, PACKED, EVENT_IDX, size=3)
    seen = []
    for _ in range(10):
        rig.rings[ECHO].interrupt_after(2)
        seen += [interrupts(rig), interrupts(rig)]
    assert seen == [0, 1] * 10


@pytest.mark.spec("PKD-19")
@pytest.mark.parametrize("wrap", [0, 1])
@pytest.mark.parametrize("offset", [4, 5, 8, 0x7FFF])
def test_an_event_offset_outside_the_ring_never_matches(
    make_rig: RigMaker, offset: int, wrap: int
) -> None:
    rig = go_live(make_rig, PACKED, EVENT_IDX, size=4)
    packed_ring(rig).set_driver_event(offset | wrap << 15, DESC)
    assert [interrupts(rig) for _ in range(20)] == [0] * 20
    assert rig.driver.status == 0x0F


# Notified by the driver


@pytest.mark.spec("PKD-20")
def test_without_event_idx_the_device_asks_by_enable_and_disable_alone() -> None:
    driver, queue = pair(3, 0)
    seen = []
    for _ in range(10):
        queue.disable_notification()
        seen.append(driver.device_event)
        serve(driver, queue, 1)
        queue.enable_notification()
        seen.append(driver.device_event)
    assert seen == [(0, DISABLE), (0, ENABLE)] * 10


@pytest.mark.spec("PKD-20")
def test_with_event_idx_the_device_asks_for_the_entry_that_it_takes_next() -> None:
    driver, queue = pair(3)
    seen = []
    for _ in range(8):
        queue.disable_notification()
        assert driver.device_event[1] == DISABLE
        serve(driver, queue, 1)
        queue.enable_notification()
        seen.append(driver.device_event)
    # Offset and wrap counter: the first lap of three has 1, the second 0.
    offsets = [0x8001, 0x8002, 0, 1, 2, 0x8000, 0x8001, 0x8002]
    assert seen == [(offset, DESC) for offset in offsets]


@pytest.mark.spec("PKD-20")
@pytest.mark.parametrize("features", [0, EVENT_IDX])
def test_the_device_is_armed_from_the_start(make_rig: RigMaker, features: int) -> None:
    rig = go_live(make_rig, PACKED, features)
    rig.rings[ECHO].add([b"x"])
    assert rig.rings[ECHO].should_kick()


# With IN_ORDER


@pytest.mark.spec("PKD-16")
@pytest.mark.parametrize("batch", [1, 3, 7])
def test_a_driver_that_reads_only_the_last_of_a_batch_finds_all_of_it(
    make_rig: RigMaker, batch: int
) -> None:
    rig = go_live(make_rig, PACKED, IN_ORDER, size=7)
    ring = packed_ring(rig)
    slot, wrap = 0, 1
    for _ in range(20):
        for number in range(batch):
            at, lap = ring.after(slot, wrap, number)
            ring.write_descriptor(at, 0x8000, 1, number, ring.available_flags(lap))
        kick(rig)
        # The id in any entry tells that it and all buffers before it are used.
        last, lap = ring.after(slot, wrap, batch - 1)
        assert ring.read_descriptor(last)[2:] == (batch - 1, 0x8080 if lap else 0)
        slot, wrap = ring.after(slot, wrap, batch)


@pytest.mark.spec("PKD-21", "PKD-16")
def test_with_in_order_a_batch_that_was_held_up_appears_at_once(make_rig: RigMaker) -> None:
    rig = go_live(make_rig, PACKED, IN_ORDER)
    ring = rig.rings[SLOW]
    tokens = [ring.add([], [4]) for _ in range(4)]
    kick(rig, SLOW)
    first, *others = gadget_of(rig).held
    for chain in others:
        chain.complete(chain.write(b"done"))
    assert ring.collect() == []
    first.complete(first.write(b"done"))
    assert [(used.token, used.data) for used in ring.collect()] == [(t, b"done") for t in tokens]
