"""The packed virtqueue against a driver that behaves, and against one that does not."""

import struct
from random import Random

import pytest

from virtio.errors import DriverError
from virtio.memory import FlatMemory
from virtio.testing import PackedDriver, Segment, flat_memory
from virtio.virtqueue.packed import PackedRing
from virtio.virtqueue.queue import Queue
from virtio.virtqueue.state import QueueLayout

INDIRECT_DESC = 1 << 28
EVENT_IDX = 1 << 29
RING_PACKED = 1 << 34
IN_ORDER = 1 << 35
NEXT, WRITE, INDIRECT, AVAIL, USED = 1, 2, 4, 0x80, 0x8000
SIZES = [1, 2, 3, 7, 100, 256]


def make(size: int = 8, features: int = 0) -> tuple[PackedDriver, Queue]:
    memory = flat_memory((0, 1 << 20))
    driver = PackedDriver(
        memory,
        size,
        event_idx=bool(features & EVENT_IDX),
        indirect=bool(features & INDIRECT_DESC),
    )
    return driver, Queue(memory, QueueLayout(*driver.layout), RING_PACKED | features)


def serve(queue: Queue) -> int:
    """Complete every available chain with its full length; return how many there were."""
    chains = queue.pop_many(1 << 16)
    queue.add_used_many([(chain, chain.room) for chain in chains])
    return len(chains)


def breach(queue: Queue) -> str:
    """Return the item of the conformance list that the driver broke."""
    with pytest.raises(DriverError) as caught:
        queue.pop()
    return caught.value.item


# Layout and geometry


def test_queue_gives_the_packed_form_with_ring_packed() -> None:
    _, queue = make()
    assert type(queue._ring) is PackedRing


@pytest.mark.spec("PKD-01", "PKD-07", "PKD-10", "PKD-11")
def test_the_ring_is_exactly_as_specified() -> None:
    ram = bytearray(0x10000)
    struct.pack_into("<QIHH", ram, 0x8000, 0x9000, 5, 111, NEXT | AVAIL)
    struct.pack_into("<QIHH", ram, 0x8010, 0xA000, 6, 0xFFFF, WRITE | AVAIL)
    ram[0x9000:0x9005] = b"hello"
    queue = Queue(FlatMemory([(0, ram)]), QueueLayout(3, 0x8000, 0x104, 0x100), RING_PACKED)
    chain = queue.pop()
    assert chain is not None
    assert (chain.buffer_id, chain.slots, chain.read(9)) == (0xFFFF, 2, b"hello")
    queue.add_used(chain, chain.write(b"world!"))
    _, length, identifier, flags = struct.unpack_from("<QIHH", ram, 0x8000)
    assert (length, identifier, flags) == (6, 0xFFFF, USED | AVAIL | WRITE)
    assert ram[0xA000:0xA006] == b"world!"


@pytest.mark.spec("PKD-02")
@pytest.mark.parametrize("size", [0, -1, 32769, 65535])
def test_a_size_outside_1_to_32768_is_refused(size: int) -> None:
    with pytest.raises(DriverError, match="PKD-02"):
        Queue(flat_memory(), QueueLayout(size, 0x1000, 0x90000, 0x90010), RING_PACKED)


@pytest.mark.spec("PKD-02")
@pytest.mark.parametrize("size", [1, 3, 7, 100, 32767, 32768])
def test_every_size_from_1_to_32768_is_accepted(size: int) -> None:
    queue = Queue(flat_memory(), QueueLayout(size, 0x1000, 0x90000, 0x90010), RING_PACKED)
    assert queue.size == size


@pytest.mark.spec("PKD-01")
@pytest.mark.parametrize(
    ("areas", "item"),
    [
        ((0x1008, 0x2000, 0x3000), "SPL-03"),
        ((0x1000, 0x2002, 0x3000), "SPL-03"),
        ((0x1000, 0x2000, 0x3001), "SPL-03"),
        ((0xFFFF0, 0x2000, 0x3000), "SPL-04"),
        ((0x1000, 0x100000, 0x3000), "SPL-04"),
        ((0x1000, 0x2000, (1 << 64) - 4), "SPL-04"),
    ],
)
def test_areas_misaligned_or_outside_ram_are_refused(
    areas: tuple[int, int, int], item: str
) -> None:
    with pytest.raises(DriverError, match=item):
        Queue(flat_memory(), QueueLayout(8, *areas), RING_PACKED)


# Available descriptors


@pytest.mark.spec("PKD-02", "PKD-03", "PKD-06", "PKD-11")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("features", [0, EVENT_IDX | INDIRECT_DESC, IN_ORDER])
def test_buffers_come_back_once_each_over_many_laps(size: int, features: int) -> None:
    driver, queue = make(size, features)
    random = Random(size)
    sent = 0
    for _ in range(3000):
        room = size
        batch = []
        while room and random.random() < 0.6:
            count = random.randint(1, min(room, 3))
            batch.append(driver.add([b"q"] * (count - 1), [2]))
            room -= count
        sent += len(batch)
        assert serve(queue) == len(batch)
        assert [(used.token, used.length) for used in driver.collect()] == [(t, 2) for t in batch]
        assert queue.pop() is None
    assert sent > 1000


@pytest.mark.spec("PKD-04")
def test_a_zeroed_ring_is_empty() -> None:
    _, queue = make()
    assert (queue.pop(), queue.enable_notification()) == (None, False)


@pytest.mark.spec("PKD-04")
@pytest.mark.parametrize("flags", [0, USED, USED | AVAIL])
def test_flags_of_another_lap_are_not_available_in_the_first(flags: int) -> None:
    driver, queue = make()
    driver.write_descriptor(0, 0x8000, 4, 0, flags)
    assert queue.pop() is None


@pytest.mark.spec("PKD-04")
@pytest.mark.parametrize("flags", [0, AVAIL, USED | AVAIL])
def test_flags_of_another_lap_are_not_available_in_the_second(flags: int) -> None:
    driver, queue = make(2)
    driver.add([b"x"], [4])
    serve(queue)
    driver.write_descriptor(0, 0x8000, 4, 0, flags)
    assert queue.pop() is None
    driver.write_descriptor(0, 0x8000, 4, 0, USED)
    assert queue.pop() is not None


@pytest.mark.spec("PKD-11")
def test_a_list_may_cross_the_end_of_the_ring() -> None:
    driver, queue = make(4)
    driver.add([b"1", b"2", b"3"])
    serve(queue)
    driver.collect()
    token = driver.add([b"ab", b"cd", b"ef"], [8])
    chain = queue.pop()
    assert chain is not None
    assert (chain.head_index, chain.slots, chain.read(9)) == (3, 4, b"abcdef")
    chain.complete(0)
    assert [(used.token, used.length) for used in driver.collect()] == [(token, 0)]


@pytest.mark.spec("PKD-12")
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_a_list_without_an_end_is_an_error(size: int) -> None:
    driver, queue = make(size)
    for slot in range(size):
        driver.write_descriptor(slot, 0x8000, 4, 0, NEXT | AVAIL)
    assert breach(queue) == "PKD-12"


@pytest.mark.spec("PKD-12")
def test_a_list_that_runs_into_an_entry_not_available_is_an_error() -> None:
    driver, queue = make(8)
    driver.write_descriptor(0, 0x8000, 4, 0, NEXT | AVAIL)
    assert breach(queue) == "PKD-12"


@pytest.mark.spec("PKD-12")
def test_more_entries_than_the_ring_has_in_flight_are_an_error() -> None:
    driver, queue = make(2)
    for wrap_flags in (AVAIL, USED):
        for slot in range(2):
            driver.write_descriptor(slot, 0x8000, 4, 0, wrap_flags)
        chains = [queue.pop(), queue.pop()] if wrap_flags == AVAIL else []
        assert None not in chains
    assert breach(queue) == "PKD-12"


@pytest.mark.spec("SPL-20")
@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize(("count", "expected"), [(1024, "served"), (1025, "SPL-20")])
def test_chains_of_more_than_1024_descriptors_fail_cleanly(
    indirect: bool, count: int, expected: str
) -> None:
    driver, queue = make(2048, INDIRECT_DESC)
    driver.add_segments([Segment(0x80000, 1, False)] * count, indirect=indirect)
    try:
        outcome = ["served"] * serve(queue)
    except DriverError as error:
        outcome = [error.item]
    assert outcome == [expected]


@pytest.mark.spec("PKD-22", "SPL-17")
def test_readable_after_writable_is_an_error() -> None:
    driver, queue = make()
    driver.add_segments([Segment(0x8000, 4, True), Segment(0x9000, 4, False)])
    assert breach(queue) == "SPL-17"


@pytest.mark.spec("PKD-22", "SPL-15")
def test_a_segment_outside_ram_is_an_error() -> None:
    driver, queue = make()
    driver.add_segments([Segment(0xFFFFC, 8, True)])
    assert breach(queue) == "SPL-15"


@pytest.mark.spec("PKD-15")
def test_the_same_buffer_id_may_come_twice() -> None:
    driver, queue = make(4)
    for slot in range(2):
        driver.write_descriptor(slot, 0x8000, 4, 0xFFFF, WRITE | AVAIL)
    assert serve(queue) == 2
    assert [driver.read_descriptor(slot)[2] for slot in range(2)] == [0xFFFF, 0xFFFF]


# Indirect descriptors


@pytest.mark.spec("PKD-13")
def test_a_table_is_read_in_order_and_of_its_flags_only_write_counts() -> None:
    driver, queue = make(8, INDIRECT_DESC)
    driver.write_bytes(0x8000, b"ab")
    table = driver.write_indirect_table(
        [(0x8000, 1, 999, NEXT | INDIRECT), (0x8001, 1, 7, 0xFFFC), (0x9000, 4, 5, WRITE | 0x80)]
    )
    driver.write_descriptor(0, table, 48, 42, INDIRECT | WRITE | AVAIL)
    chain = queue.pop()
    assert chain is not None
    assert (chain.read(9), chain.writable_length) == (b"ab", 4)
    assert (chain.buffer_id, chain.slots) == (42, 1)


@pytest.mark.spec("PKD-14")
def test_indirect_without_the_feature_is_an_error() -> None:
    driver, queue = make(8)
    driver.add([b"x"], indirect=True)
    assert breach(queue) == "PKD-14"


@pytest.mark.spec("PKD-14")
def test_indirect_with_next_is_an_error() -> None:
    driver, queue = make(8, INDIRECT_DESC)
    driver.write_descriptor(1, 0x8000, 16, 0, AVAIL)
    driver.write_descriptor(0, 0x8000, 16, 0, INDIRECT | NEXT | AVAIL)
    assert breach(queue) == "PKD-14"


@pytest.mark.spec("PKD-14")
def test_indirect_at_the_end_of_a_list_is_an_error() -> None:
    driver, queue = make(8, INDIRECT_DESC)
    driver.write_descriptor(1, 0x8000, 16, 0, INDIRECT | AVAIL)
    driver.write_descriptor(0, 0x8000, 16, 0, NEXT | AVAIL)
    assert breach(queue) == "PKD-14"


@pytest.mark.spec("PKD-14")
@pytest.mark.parametrize("length", [0, 8, 24])
def test_a_bad_table_length_is_an_error(length: int) -> None:
    driver, queue = make(8, INDIRECT_DESC)
    driver.write_descriptor(0, 0x8000, length, 0, INDIRECT | AVAIL)
    assert breach(queue) == "PKD-14"


@pytest.mark.spec("PKD-14", "SPL-29")
def test_a_table_outside_ram_is_an_error() -> None:
    driver, queue = make(8, INDIRECT_DESC)
    driver.write_descriptor(0, 0xFFFF8, 16, 0, INDIRECT | AVAIL)
    assert breach(queue) == "PKD-14"


@pytest.mark.spec("PKD-14")
def test_an_enormous_table_is_an_error() -> None:
    driver, queue = make(8, INDIRECT_DESC)
    driver.write_descriptor(0, 0x8000, 0xFFFFFFF0, 0, INDIRECT | AVAIL)
    assert breach(queue) == "SPL-20"


@pytest.mark.spec("PKD-13")
def test_an_indirect_chain_may_be_longer_than_the_queue() -> None:
    driver, queue = make(1, INDIRECT_DESC)
    token = driver.add([b"ab"] * 30, [4], indirect=True)
    assert serve(queue) == 1
    assert [(used.token, used.length) for used in driver.collect()] == [(token, 4)]


# Used descriptors


@pytest.mark.spec("PKD-09", "PKD-15", "SPL-36")
@pytest.mark.parametrize("seed", range(20))
def test_chains_may_be_completed_in_any_order(seed: int) -> None:
    driver, queue = make(7)
    random = Random(seed)
    for _ in range(30):
        tokens = [driver.add([], [4] * n) for n in random.choice([(1, 2, 3), (3, 1), (2, 5)])]
        chains = queue.pop_many(9)
        order = list(range(len(tokens)))
        random.shuffle(order)
        for i in order:
            queue.add_used(chains[i], i)
        assert [(used.token, used.length) for used in driver.collect()] == [
            (tokens[i], i) for i in order
        ]


@pytest.mark.spec("PKD-10")
@pytest.mark.parametrize(("length", "flags"), [(0, USED | AVAIL), (3, USED | AVAIL | WRITE)])
def test_the_write_flag_tells_whether_data_was_written(length: int, flags: int) -> None:
    driver, queue = make()
    driver.add([b"x"], [4])
    chain = queue.pop()
    assert chain is not None
    queue.add_used(chain, length)
    assert driver.flags(0) == flags


@pytest.mark.spec("PKD-16", "COM-20")
def test_with_in_order_completions_wait_for_their_turn() -> None:
    driver, queue = make(8, IN_ORDER)
    for _ in range(3):
        driver.add([], [4])
    first, second, third = queue.pop_many(3)
    queue.add_used_many([(third, 3), (second, 2)])
    assert driver.collect() == []
    queue.add_used(first, 1)
    assert [(used.token, used.length) for used in driver.collect()] == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.spec("PKD-21", "PKD-07")
def test_in_a_batch_the_flags_of_the_first_entry_are_stored_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver, queue = make(4)
    for _ in range(3):
        driver.add([], [4])
    chains = queue.pop_many(4)
    stores: list[tuple[int, int]] = []

    class Recorder:
        def __setitem__(self, index: int, value: int) -> None:
            stores.append((index // 8, index % 8))

    monkeypatch.setattr(queue._ring, "_words16", Recorder())
    queue.add_used_many([(chain, 4) for chain in chains])
    assert stores == [(0, 6), (1, 6), (1, 7), (2, 6), (2, 7), (0, 7)]


@pytest.mark.spec("PKD-08", "SPL-38")
def test_a_used_entry_is_left_alone() -> None:
    driver, queue = make(8)
    driver.add([], [4])
    serve(queue)
    before = driver.read_descriptor(0)
    driver.add([], [4])
    serve(queue)
    queue.enable_notification()
    assert driver.read_descriptor(0) == before


# Notifying the driver


@pytest.mark.spec("PKD-17")
@pytest.mark.parametrize(
    ("features", "flags", "expected"),
    [
        (0, 0, True),
        (0, 1, False),
        (0, 2, True),
        (0, 3, True),
        (EVENT_IDX, 0, True),
        (EVENT_IDX, 1, False),
        (EVENT_IDX, 2, False),
        (EVENT_IDX, 3, True),
        (0, 0xFFFD, False),
        (EVENT_IDX, 0xFFFE, False),
    ],
)
def test_the_drivers_suppression_is_obeyed(features: int, flags: int, expected: bool) -> None:
    driver, queue = make(8, features)
    driver.set_driver_event(5 | 0x8000, flags)
    driver.add([b"x"])
    serve(queue)
    assert queue.needs_notification() is expected


@pytest.mark.spec("PKD-18")
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("laps", range(10))
def test_at_one_descriptor_the_driver_is_notified_iff_it_is_in_the_span(
    size: int, laps: int
) -> None:
    for batch in range(1, size + 1):
        for offset in range(size):
            for wrap in (0, 1):
                driver, queue = make(size, EVENT_IDX)
                for _ in range(laps):
                    driver.add([b"x"])
                    serve(queue)
                    driver.collect()
                queue.needs_notification()
                driver.set_driver_event(offset | wrap << 15, 2)
                for _ in range(batch):
                    driver.add([b"x"])
                serve(queue)
                span = [((laps + i) % size, 1 - (laps + i) // size % 2) for i in range(batch)]
                assert queue.needs_notification() is ((offset, wrap) in span)


@pytest.mark.spec("PKD-18", "PKD-11")
@pytest.mark.parametrize(("offset", "expected"), [(0, True), (1, True), (2, True), (3, False)])
def test_the_span_includes_the_entries_skipped_after_a_list(offset: int, expected: bool) -> None:
    driver, queue = make(8, EVENT_IDX)
    driver.set_driver_event(offset | 0x8000, 2)
    driver.add([b"x"] * 3)
    serve(queue)
    assert queue.needs_notification() is expected


@pytest.mark.spec("PKD-19")
@pytest.mark.parametrize("event", [4, 5, 7, 0x7FFF, 0x8004, 0x8005, 0xFFFF])
def test_an_event_offset_past_the_ring_never_matches(event: int) -> None:
    driver, queue = make(4, EVENT_IDX)
    driver.set_driver_event(event, 2)
    notified = []
    for _ in range(40):
        driver.add([b"x"])
        serve(queue)
        driver.collect()
        notified.append(queue.needs_notification())
    assert not any(notified)


# Notified by the driver


@pytest.mark.spec("PKD-20")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("features", [0, EVENT_IDX])
def test_a_driver_that_kicks_only_when_asked_is_always_served(size: int, features: int) -> None:
    driver, queue = make(size, features)
    queue.enable_notification()
    for token in range(2000):
        driver.add([b"x"])
        assert driver.should_kick()
        queue.disable_notification()
        serve(queue)
        assert not queue.enable_notification()
        assert [used.token for used in driver.collect()] == [token]


@pytest.mark.spec("PKD-20")
def test_without_event_idx_only_enable_and_disable_are_written() -> None:
    driver, queue = make(8)
    driver.add([b"x"])
    serve(queue)
    queue.disable_notification()
    disabled = driver.device_event
    queue.enable_notification()
    assert (disabled, driver.device_event) == ((0, 1), (0, 0))


@pytest.mark.spec("PKD-20")
def test_with_event_idx_the_next_expected_entry_and_wrap_are_written() -> None:
    driver, queue = make(2, EVENT_IDX)
    written = []
    for _ in range(5):
        queue.enable_notification()
        written.append(driver.device_event)
        driver.add([b"x"])
        serve(queue)
        driver.collect()
    assert written == [(0x8000, 2), (0x8001, 2), (0, 2), (1, 2), (0x8000, 2)]


@pytest.mark.spec("PKD-20")
@pytest.mark.parametrize("features", [0, EVENT_IDX])
def test_enabling_tells_of_buffers_that_came_meanwhile(features: int) -> None:
    driver, queue = make(8, features)
    empty = queue.enable_notification()
    driver.add([b"x"])
    assert (empty, queue.enable_notification()) == (False, True)
