"""The split virtqueue against a driver that behaves, and against one that does not."""

import struct
import threading
from random import Random
from unittest.mock import MagicMock

import pytest

from virtio.errors import DriverError
from virtio.memory import FlatMemory
from virtio.testing import Segment, SplitDriver, flat_memory
from virtio.virtqueue.queue import Queue
from virtio.virtqueue.split import SplitRing
from virtio.virtqueue.state import QueueLayout, QueueState

INDIRECT_DESC = 1 << 28
EVENT_IDX = 1 << 29
IN_ORDER = 1 << 35
NEXT, WRITE, INDIRECT = 1, 2, 4


def make(size: int = 8, features: int = 0) -> tuple[SplitDriver, Queue]:
    memory = flat_memory((0, 1 << 20))
    driver = SplitDriver(
        memory,
        size,
        event_idx=bool(features & EVENT_IDX),
        indirect=bool(features & INDIRECT_DESC),
    )
    return driver, Queue(memory, QueueLayout(*driver.layout), features)


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


def test_queue_gives_the_split_form_without_ring_packed() -> None:
    _, queue = make()
    assert type(queue._ring) is SplitRing


@pytest.mark.spec("SPL-01", "SPL-35")
def test_the_ring_is_exactly_as_specified_with_parts_in_any_order() -> None:
    ram = bytearray(0x20000)
    table, avail, used = 0x18000, 0x10002, 0x4
    struct.pack_into("<QIHH", ram, table + 16 * 3, 0x9000, 5, NEXT, 1)
    struct.pack_into("<QIHH", ram, table + 16 * 1, 0xA000, 6, WRITE, 0)
    struct.pack_into("<HHHH", ram, avail, 0, 1, 3, 0)
    ram[0x9000:0x9005] = b"hello"
    queue = Queue(FlatMemory([(0, ram)]), QueueLayout(4, table, avail, used))
    chain = queue.pop()
    assert chain is not None
    assert (chain.head_index, chain.read(9), chain.writable_length) == (3, b"hello", 6)
    chain.write(b"world!")
    queue.add_used(chain, 6)
    assert ram[0xA000:0xA006] == b"world!"
    assert struct.unpack_from("<HHII", ram, used) == (0, 1, 3, 6)


@pytest.mark.spec("SPL-02")
@pytest.mark.parametrize("size", [0, -1, 3, 6, 255, 32769, 65535, 65536])
def test_a_size_that_is_no_power_of_two_is_refused(size: int) -> None:
    with pytest.raises(DriverError, match="SPL-02"):
        Queue(flat_memory((0, 1 << 21)), QueueLayout(size, 0x1000, 0x100000, 0x140000))


@pytest.mark.spec("SPL-02")
@pytest.mark.parametrize("size", [1, 2, 32768])
def test_every_power_of_two_up_to_32768_is_accepted(size: int) -> None:
    queue = Queue(flat_memory((0, 1 << 21)), QueueLayout(size, 0x1000, 0x100000, 0x140000))
    assert queue.size == size


@pytest.mark.spec("SPL-03")
@pytest.mark.parametrize("areas", [(0x1008, 0x2000, 0x3000), (0x1000, 0x2001, 0x3000)])
def test_a_misaligned_table_or_available_ring_is_refused(areas: tuple[int, int, int]) -> None:
    with pytest.raises(DriverError, match="SPL-03"):
        Queue(flat_memory(), QueueLayout(8, *areas))


@pytest.mark.spec("SPL-03")
def test_a_misaligned_used_ring_is_refused() -> None:
    with pytest.raises(DriverError, match=r"SPL-03: queue 5: used ring at 0x3002 .* 4 bytes"):
        Queue(flat_memory(), QueueLayout(8, 0x1000, 0x2000, 0x3002), index=5)


@pytest.mark.spec("SPL-04")
@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("address", [0xFFFF0, 0x100000, 0x7FFF_FFFF_0000, (1 << 64) - 16])
def test_a_part_outside_ram_is_refused(part: int, address: int) -> None:
    areas = [0x1000, 0x2000, 0x3000]
    areas[part] = address
    with pytest.raises(DriverError, match="SPL-04"):
        Queue(flat_memory(), QueueLayout(8, *areas))


@pytest.mark.spec("SPL-04", "SPL-05")
@pytest.mark.parametrize("features", [0, EVENT_IDX])
def test_rings_may_end_with_ram_but_for_the_event_fields_when_negotiated(features: int) -> None:
    memory = flat_memory((0, 0x1000), (0x10000, 4 + 2 * 8), (0x20000, 4 + 8 * 8))
    layout = QueueLayout(8, 0, 0x10000, 0x20000)
    refused = []
    try:
        Queue(memory, layout, features)
    except DriverError as error:
        refused.append(error.item)
    assert refused == ["SPL-04"] * (features >> 29)


@pytest.mark.spec("SPL-05", "SPL-07", "SPL-42")
def test_nothing_but_used_ring_and_buffers_is_written() -> None:
    driver, queue = make(8)
    driver.set_avail_event(0xBEEF)
    driver.set_used_event(0xCAFE)
    for _ in range(5000):
        driver.add([b"abc"], [16])
        before = driver.driver_owned()
        queue.disable_notification()
        flags_off = driver.used_flags
        serve(queue)
        queue.needs_notification()
        queue.enable_notification()
        assert (flags_off, driver.used_flags) == (1, 0)
        assert driver.driver_owned() == before
        driver.collect()
    assert (driver.avail_event, driver.used_event) == (0xBEEF, 0xCAFE)


# Available ring


@pytest.mark.spec("SPL-06", "SPL-36", "SPL-45")
@pytest.mark.parametrize("features", [0, EVENT_IDX | INDIRECT_DESC, IN_ORDER])
def test_70000_buffers_come_back_once_each_across_the_wrap(features: int) -> None:
    driver, queue = make(8, features)
    random = Random(features)
    sent = returned = 0
    while returned < 70_000:
        for _ in range(random.randrange(1, 5)):
            driver.add([b"q"], [2])
            sent += 1
        served = serve(queue)
        used = driver.collect()
        assert [item.token for item in used] == list(range(returned, sent))
        assert served == len(used)
        returned = sent
        assert queue.pop() is None
    assert driver.used_idx == returned % 65536


@pytest.mark.spec("SPL-06")
def test_an_index_wraps_from_65535_to_0() -> None:
    memory = flat_memory()
    driver = SplitDriver(memory, 4, start=65534)
    state = QueueState(0, QueueLayout(*driver.layout), 0, 65534, 65534, 0, (), None)
    queue = Queue.from_state(memory, state)
    for _ in range(4):
        driver.add([b"x"])
    assert serve(queue) == 4
    assert (driver.used_idx, len(driver.collect())) == (2, 4)


@pytest.mark.spec("SPL-10")
@pytest.mark.parametrize("idx", [9, 100, 32768, 65535])
def test_an_index_more_than_the_size_ahead_is_an_error(idx: int) -> None:
    driver, queue = make(8)
    driver.set_avail_idx(idx)
    assert breach(queue) == "SPL-10"


@pytest.mark.spec("SPL-10")
def test_an_index_exactly_the_size_ahead_is_fine() -> None:
    driver, queue = make(8)
    for _ in range(8):
        driver.add([b"x"])
    assert len(queue.pop_many(100)) == 8


@pytest.mark.spec("SPL-10")
def test_an_index_that_goes_backwards_is_an_error() -> None:
    driver, queue = make(8)
    driver.add([b"x"])
    queue.pop()
    driver.set_avail_idx(0)
    assert breach(queue) == "SPL-10"


@pytest.mark.spec("SPL-10", "SPL-22")
def test_more_chains_in_flight_than_entries_is_an_error_so_that_memory_stays_bounded() -> None:
    driver, queue = make(4)
    for _ in range(4):
        driver.add([b"x"])
    assert len(queue.pop_many(100)) == 4
    driver.expose(0)
    assert breach(queue) == "SPL-10"


@pytest.mark.spec("SPL-11")
@pytest.mark.parametrize("head", [8, 9, 0xFFFF])
def test_a_head_outside_the_table_is_an_error(head: int) -> None:
    driver, queue = make(8)
    driver.expose(head)
    assert breach(queue) == "SPL-11"


@pytest.mark.spec("SPL-12")
@pytest.mark.parametrize("following", [8, 0xFFFF])
def test_a_next_outside_the_table_is_an_error(following: int) -> None:
    driver, queue = make(8)
    driver.write_descriptor(0, 0x8000, 4, NEXT, following)
    driver.expose(0)
    assert breach(queue) == "SPL-12"


@pytest.mark.spec("SPL-13")
@pytest.mark.parametrize("ring", [[0], [0, 1], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_a_loop_is_an_error(ring: list[int]) -> None:
    driver, queue = make(8)
    for index, following in zip(ring, ring[1:] + ring[:1], strict=True):
        driver.write_descriptor(index, 0x8000, 4, NEXT, following)
    driver.expose(0)
    assert breach(queue) == "SPL-13"


@pytest.mark.spec("SPL-13")
def test_a_chain_of_the_whole_table_is_fine() -> None:
    driver, queue = make(8)
    driver.add([b"x"] * 4, [1] * 4)
    assert serve(queue) == 1


@pytest.mark.spec("SPL-20")
@pytest.mark.parametrize(("count", "outcome"), [(1024, "served"), (1025, "SPL-20")])
def test_chains_of_more_than_1024_descriptors_fail_cleanly(count: int, outcome: str) -> None:
    driver, queue = make(2048)
    driver.add_segments([Segment(0x80000, 1, False)] * count)
    result = []
    try:
        result = ["served"] * serve(queue)
    except DriverError as error:
        result = [error.item]
    assert result == [outcome]


@pytest.mark.spec("SPL-21")
def test_undefined_descriptor_flags_are_ignored() -> None:
    driver, queue = make(8)
    driver.write_descriptor(2, 0x8000, 4, 0xFFF8 | NEXT, 5)
    driver.write_descriptor(5, 0x9000, 4, 0xFFF8 | WRITE, 99)
    driver.expose(2)
    chain = queue.pop()
    assert chain is not None
    assert (chain.readable_length, chain.writable_length) == (4, 4)


@pytest.mark.spec("SPL-22")
def test_a_head_exposed_twice_is_completed_twice() -> None:
    driver, queue = make(8)
    driver.write_descriptor(0, 0x8000, 4, WRITE)
    driver.expose(0)
    driver.expose(0)
    assert serve(queue) == 2
    assert [driver.used_element(0), driver.used_element(1)] == [(0, 4), (0, 4)]


@pytest.mark.spec("SPL-23")
def test_pop_many_takes_no_more_than_its_limit() -> None:
    driver, queue = make(8)
    for _ in range(8):
        driver.add([b"x"])
    assert [len(queue.pop_many(3)) for _ in range(4)] == [3, 3, 2, 0]


def test_iteration_takes_what_becomes_available_meanwhile() -> None:
    driver, queue = make(8)
    driver.add([b"0"])
    chains = queue.iter()
    first = next(chains).read(1)
    driver.add([b"1"])
    assert (first, [chain.read(1) for chain in chains]) == (b"0", [b"1"])


@pytest.mark.spec("SPL-09")
def test_a_driver_that_rewrites_descriptors_gets_one_of_its_versions_never_a_mix() -> None:
    driver, queue = make(2)
    versions = [(0x8000, 16), (0x9000, 32)]
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            for address, length in versions:
                driver.write_descriptor(0, address, length, WRITE)

    driver.write_descriptor(0, *versions[0], WRITE)
    thread = threading.Thread(target=rewrite)
    thread.start()
    try:
        for _ in range(3000):
            driver.expose(0)
            chain = queue.pop()
            assert chain is not None
            ((address, length, _),) = chain.descriptors
            assert (address, length) in versions
            assert [len(view) for view in chain.writable] == [length]
            queue.add_used(chain, 0)
    finally:
        stop.set()
        thread.join()


def test_a_bad_chain_does_not_lose_the_good_ones_before_it() -> None:
    driver, queue = make(8)
    driver.add([b"good"])
    driver.expose(99)
    chains = queue.pop_many(8)
    queue.add_used_many([(chain, 0) for chain in chains])
    assert [used.token for used in driver.collect()] == [0]
    assert breach(queue) == "SPL-11"


def test_a_broken_queue_stays_broken_and_writes_nothing() -> None:
    driver, queue = make(8)
    driver.add([b"good"])
    chain = queue.pop()
    assert chain is not None
    driver.expose(99)
    assert breach(queue) == "SPL-11"
    driver.write_avail_slot(1, 0)
    assert breach(queue) == "SPL-11"
    queue.add_used(chain, 0)
    queue.disable_notification()
    assert (queue.enable_notification(), queue.needs_notification()) == (False, False)
    assert (driver.used_idx, driver.used_flags) == (0, 0)


# Indirect descriptors


@pytest.mark.spec("SPL-24")
def test_indirect_without_the_feature_is_an_error() -> None:
    driver, queue = make(8)
    driver.add([b"x"], indirect=True)
    assert breach(queue) == "SPL-24"


@pytest.mark.spec("SPL-25")
@pytest.mark.parametrize("extra", [0, WRITE])
def test_write_on_the_pointer_to_the_table_is_ignored(extra: int) -> None:
    driver, queue = make(8, INDIRECT_DESC)
    table = driver.write_indirect_table([(0x8000, 4, NEXT, 1), (0x9000, 8, WRITE, 0)])
    driver.write_descriptor(0, table, 32, INDIRECT | extra)
    driver.expose(0)
    chain = queue.pop()
    assert chain is not None
    assert (chain.readable_length, chain.writable_length) == (4, 8)


@pytest.mark.spec("SPL-26")
def test_direct_descriptors_may_come_before_the_indirect_one() -> None:
    driver, queue = make(8, INDIRECT_DESC)
    table = driver.write_indirect_table(
        [(0x8020, 4, NEXT, 1), (0x9000, 8, NEXT | WRITE, 2), (0xA000, 8, WRITE, 0)]
    )
    driver.write_bytes(0x8000, b"aabb")
    driver.write_bytes(0x8020, b"cccc")
    driver.write_descriptor(3, 0x8000, 2, NEXT, 1)
    driver.write_descriptor(1, 0x8002, 2, NEXT, 6)
    driver.write_descriptor(6, table, 48, INDIRECT)
    driver.expose(3)
    chain = queue.pop()
    assert chain is not None
    assert (chain.read(99), chain.writable_length) == (b"aabbcccc", 16)


@pytest.mark.spec("SPL-27")
def test_indirect_together_with_next_is_an_error() -> None:
    driver, queue = make(8, INDIRECT_DESC)
    table = driver.write_indirect_table([(0x8000, 4, 0, 0)])
    driver.write_descriptor(0, table, 16, INDIRECT | NEXT, 1)
    driver.expose(0)
    assert breach(queue) == "SPL-27"


@pytest.mark.spec("SPL-28")
@pytest.mark.parametrize("flags", [INDIRECT, INDIRECT | NEXT])
def test_indirect_inside_a_table_is_an_error(flags: int) -> None:
    driver, queue = make(8, INDIRECT_DESC)
    table = driver.write_indirect_table([(0x8000, 4, NEXT, 1), (0x8000, 16, flags, 0)])
    driver.write_descriptor(0, table, 32, INDIRECT)
    driver.expose(0)
    assert breach(queue) == "SPL-28"


@pytest.mark.spec("SPL-29")
@pytest.mark.parametrize("length", [0, 8, 15, 24, 0xFFFFFFFF])
def test_a_bad_table_length_is_an_error(length: int) -> None:
    driver, queue = make(8, INDIRECT_DESC)
    driver.write_descriptor(0, 0x8000, length, INDIRECT)
    driver.expose(0)
    assert breach(queue) == "SPL-29"


@pytest.mark.spec("SPL-29")
@pytest.mark.parametrize("address", [0xFFFF8, 0x100000, (1 << 64) - 16])
def test_a_table_outside_ram_is_an_error(address: int) -> None:
    driver, queue = make(8, INDIRECT_DESC)
    driver.write_descriptor(0, address, 32, INDIRECT)
    driver.expose(0)
    assert breach(queue) == "SPL-29"


@pytest.mark.spec("SPL-29")
def test_a_table_larger_than_ram_is_an_error() -> None:
    driver, queue = make(8, INDIRECT_DESC)
    driver.write_descriptor(0, 0x8000, 0xFFFFFFF0, INDIRECT)
    driver.expose(0)
    assert breach(queue) == "SPL-29"


@pytest.mark.spec("SPL-29")
def test_a_table_at_an_odd_address_works() -> None:
    driver, queue = make(8, INDIRECT_DESC)
    driver.write_indirect_table([(0x8000, 4, 0, 0)], 0x9001)
    driver.write_descriptor(0, 0x9001, 16, INDIRECT)
    driver.expose(0)
    assert serve(queue) == 1


@pytest.mark.spec("SPL-29")
def test_a_table_across_adjacent_regions_works() -> None:
    memory = flat_memory((0, 0x10000), (0x10000, 0x10000))
    driver = SplitDriver(memory, 8)
    queue = Queue(memory, QueueLayout(*driver.layout), INDIRECT_DESC)
    table = struct.pack("<QIHHQIHH", 0x8000, 3, NEXT, 1, 0x9000, 5, WRITE, 0)
    driver.write_bytes(0xFFEE, table[:18])
    driver.write_bytes(0x10000, table[18:])
    driver.write_descriptor(0, 0xFFEE, 32, INDIRECT)
    driver.expose(0)
    chain = queue.pop()
    assert chain is not None
    assert (chain.readable_length, chain.writable_length) == (3, 5)


@pytest.mark.spec("SPL-30")
def test_a_shuffled_table_is_followed_from_entry_0() -> None:
    driver, queue = make(8, INDIRECT_DESC)
    driver.write_bytes(0x8000, b"abc")
    table = driver.write_indirect_table(
        [(0x8000, 1, NEXT, 3), (0x8002, 1, 0, 0), (0, 0xFFFFFFFF, 0, 0), (0x8001, 1, NEXT, 1)]
    )
    driver.write_descriptor(0, table, 64, INDIRECT)
    driver.expose(0)
    chain = queue.pop()
    assert chain is not None
    assert chain.read(9) == b"abc"


@pytest.mark.spec("SPL-30", "SPL-12")
@pytest.mark.parametrize("following", [2, 0xFFFF])
def test_a_next_outside_the_indirect_table_is_an_error(following: int) -> None:
    driver, queue = make(8, INDIRECT_DESC)
    table = driver.write_indirect_table([(0x8000, 4, NEXT, following), (0x8000, 4, 0, 0)])
    driver.write_descriptor(0, table, 32, INDIRECT)
    driver.expose(0)
    assert breach(queue) == "SPL-12"


@pytest.mark.spec("SPL-13")
def test_a_loop_in_an_indirect_table_is_an_error() -> None:
    driver, queue = make(8, INDIRECT_DESC)
    table = driver.write_indirect_table([(0x8000, 4, NEXT, 1), (0x8000, 4, NEXT, 0)])
    driver.write_descriptor(0, table, 32, INDIRECT)
    driver.expose(0)
    assert breach(queue) == "SPL-13"


@pytest.mark.spec("SPL-31")
def test_an_indirect_chain_may_be_longer_than_the_queue() -> None:
    driver, queue = make(16, INDIRECT_DESC)
    driver.add([b"x"] * 60, [2] * 4, indirect=True)
    chain = queue.pop()
    assert chain is not None
    assert (chain.readable_length, chain.writable_length) == (60, 8)


@pytest.mark.spec("SPL-20", "SPL-31")
def test_direct_and_indirect_descriptors_count_together() -> None:
    driver, queue = make(8, INDIRECT_DESC)
    entries = [(0x8000, 1, NEXT, i + 1) for i in range(1023)] + [(0x8000, 1, 0, 0)]
    table = driver.write_indirect_table(entries)
    driver.write_descriptor(0, 0x8000, 1, NEXT, 1)
    driver.write_descriptor(1, table, 16 * 1024, INDIRECT)
    driver.expose(0)
    assert breach(queue) == "SPL-20"


@pytest.mark.spec("SPL-20")
def test_a_table_of_many_entries_is_fine_when_the_chain_uses_few() -> None:
    driver, queue = make(8, INDIRECT_DESC)
    driver.write_indirect_table([(0x8000, 4, 0, 0)], 0x20000)
    driver.write_descriptor(0, 0x20000, 16 * 5000, INDIRECT)
    driver.expose(0)
    assert serve(queue) == 1


# Used ring


@pytest.mark.spec("SPL-36")
def test_chains_may_be_completed_in_any_order() -> None:
    driver, queue = make(8)
    for _ in range(8):
        driver.add([], [4])
    chains = queue.pop_many(8)
    Random(1).shuffle(chains)
    for chain in chains:
        queue.add_used(chain, 1)
    used = driver.collect()
    assert [item.token for item in used] == [chain.head_index for chain in chains]
    assert sorted(item.token for item in used) == list(range(8))


@pytest.mark.spec("SPL-37", "COM-20")
def test_with_in_order_completions_wait_for_their_turn() -> None:
    driver, queue = make(8, IN_ORDER)
    for _ in range(4):
        driver.add([], [4])
    first, second, third, fourth = queue.pop_many(4)
    queue.add_used(third, 3)
    queue.add_used(second, 2)
    assert (driver.collect(), queue.needs_notification()) == ([], False)
    queue.add_used(first, 1)
    assert [(u.token, u.length) for u in driver.collect()] == [(0, 1), (1, 2), (2, 3)]
    assert queue.needs_notification()
    queue.add_used(fourth, 4)
    assert [(u.token, u.length) for u in driver.collect()] == [(3, 4)]


class Recorder:
    """Stands in for 16-bit words of a ring, and keeps what is stored into them."""

    def __init__(self) -> None:
        self.stores: list[tuple[int, int]] = []

    def __setitem__(self, word: int, value: int) -> None:
        self.stores.append((word, value))


@pytest.mark.spec("SPL-32", "SPL-33")
def test_a_batch_becomes_visible_with_one_16_bit_store_of_the_index(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver, queue = make(8)
    for _ in range(3):
        driver.add([], [4])
    chains = queue.pop_many(8)
    words = Recorder()
    monkeypatch.setattr(queue._ring, "_used", words)
    queue.add_used_many([(chain, 4) for chain in chains])
    assert [driver.used_element(slot) for slot in range(3)] == [(0, 4), (1, 4), (2, 4)]
    assert (driver.used_idx, words.stores) == (0, [(1, 3)])


@pytest.mark.usefixtures("python_engine")
@pytest.mark.spec("SPL-33", "SPL-42", "SPL-43")
@pytest.mark.parametrize(("features", "stores"), [(0, [(0, 1), (0, 0)]), (EVENT_IDX, [(-1, 0)])])
def test_suppression_is_stored_in_16_bits(
    monkeypatch: pytest.MonkeyPatch, features: int, stores: list[tuple[int, int]]
) -> None:
    _, queue = make(8, features)
    words = Recorder()
    monkeypatch.setattr(queue._ring, "_used", words)
    queue.disable_notification()
    queue.enable_notification()
    assert words.stores == stores


class Watch:
    """Logs when the fence runs, and when words of the driver's area are loaded."""

    def __init__(self, words: memoryview, log: list[str]) -> None:
        self.words, self.log = words, log

    def __getitem__(self, word: int) -> int:
        self.log.append(f"load {word}")
        return self.words[word]


@pytest.mark.usefixtures("python_engine")
@pytest.mark.spec("SPL-41", "SPL-44")
@pytest.mark.parametrize(("features", "wish"), [(0, "load 0"), (EVENT_IDX, "load 10")])
def test_a_fence_separates_each_store_from_the_load_that_must_follow(
    monkeypatch: pytest.MonkeyPatch, features: int, wish: str
) -> None:
    driver, queue = make(8, features)
    driver.add([b"x"])
    serve(queue)
    log: list[str] = []
    fence = MagicMock()
    fence.__enter__.side_effect = lambda: log.append("fence")
    monkeypatch.setattr(queue._ring, "fence", fence)
    monkeypatch.setattr(queue._ring, "_avail", Watch(driver._avail_words, log))
    queue.needs_notification()
    queue.enable_notification()
    assert log == ["fence", wish, "fence", "load 1"]


# Notifying the driver


@pytest.mark.spec("SPL-39")
@pytest.mark.parametrize(("flags", "expected"), [(0, True), (1, False), (0xFFFE, True)])
def test_without_event_idx_the_flag_decides_and_used_event_does_not(
    flags: int, expected: bool
) -> None:
    driver, queue = make(8)
    driver.set_used_event(0x8000)
    driver.set_avail_flags(flags)
    driver.add([b"x"])
    serve(queue)
    assert queue.needs_notification() is expected


@pytest.mark.parametrize("features", [0, EVENT_IDX])
def test_nothing_used_since_the_last_look_needs_no_notification(features: int) -> None:
    driver, queue = make(8, features)
    driver.add([b"x"])
    before = queue.needs_notification()
    serve(queue)
    assert (before, queue.needs_notification(), queue.needs_notification()) == (False, True, False)


@pytest.mark.spec("SPL-40", "SPL-06")
@pytest.mark.parametrize("old", [0, 5, 65533, 65535])
@pytest.mark.parametrize("batch", range(1, 9))
@pytest.mark.parametrize("distance", range(-10, 11))
def test_with_event_idx_the_driver_is_notified_iff_its_event_is_in_the_batch(
    old: int, batch: int, distance: int
) -> None:
    memory = flat_memory()
    driver = SplitDriver(memory, 8, event_idx=True, start=old)
    state = QueueState(0, QueueLayout(*driver.layout), EVENT_IDX, old, old, 0, (), None)
    queue = Queue.from_state(memory, state)
    driver.set_avail_flags(1)
    driver.set_used_event((old + distance) % 65536)
    for _ in range(batch):
        driver.add([b"x"])
    serve(queue)
    assert queue.needs_notification() is (distance in range(batch))


@pytest.mark.spec("SPL-40")
def test_the_batch_reaches_back_to_the_last_look() -> None:
    driver, queue = make(8, EVENT_IDX)
    driver.set_used_event(0)
    for _ in range(5):
        driver.add([b"x"])
        serve(queue)
    assert queue.needs_notification()


def test_notify_calls_the_transport_only_when_the_driver_wants_it() -> None:
    driver, queue = make(8)
    calls: list[int] = []
    queue.interrupt = lambda: calls.append(1)
    driver.suppress_interrupts()
    driver.add([b"x"])
    serve(queue)
    queue.notify()
    driver.want_interrupts()
    driver.add([b"x"])
    serve(queue)
    queue.notify()
    assert calls == [1]


# Notified by the driver


@pytest.mark.spec("SPL-43", "SPL-44")
@pytest.mark.parametrize("features", [0, EVENT_IDX])
def test_a_driver_that_kicks_only_when_asked_is_always_served(features: int) -> None:
    driver, queue = make(8, features)
    queue.enable_notification()
    for token in range(70_000):
        driver.add([b"x"])
        assert driver.should_kick()
        queue.disable_notification()
        serve(queue)
        assert not queue.enable_notification()
        assert [used.token for used in driver.collect()] == [token]
        assert driver.used_flags == 0


@pytest.mark.spec("SPL-43")
def test_with_event_idx_used_flags_stay_0_and_avail_event_moves() -> None:
    driver, queue = make(8, EVENT_IDX)
    driver.add([b"x"])
    queue.disable_notification()
    serve(queue)
    event_before = driver.avail_event
    queue.enable_notification()
    assert (driver.used_flags, event_before, driver.avail_event) == (0, 0, 1)


@pytest.mark.spec("SPL-44")
@pytest.mark.parametrize("features", [0, EVENT_IDX])
def test_enabling_tells_of_buffers_that_came_meanwhile(features: int) -> None:
    driver, queue = make(8, features)
    empty = queue.enable_notification()
    driver.add([b"x"])
    assert (empty, queue.enable_notification()) == (False, True)


@pytest.mark.spec("SPL-45")
def test_looking_at_an_empty_ring_10000_times_does_nothing() -> None:
    driver, queue = make(8)
    assert not any(serve(queue) or queue.needs_notification() for _ in range(10_000))
    assert driver.used_idx == 0
