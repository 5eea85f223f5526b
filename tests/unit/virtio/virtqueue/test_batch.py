"""Batches of chains, in both forms of the queue: taken at once, and given back at once."""

import pickle
from typing import Any

import pytest

from virtio.errors import DriverError, InternalError
from virtio.memory import FlatMemory
from virtio.testing import PackedDriver, QueueDriver, Segment, SplitDriver, flat_memory
from virtio.virtqueue.chain import DescriptorChain, checked_chain
from virtio.virtqueue.queue import Queue
from virtio.virtqueue.state import QueueLayout, QueueState

INDIRECT_DESC = 1 << 28
EVENT_IDX = 1 << 29
RING_PACKED = 1 << 34
IN_ORDER = 1 << 35

every_form = pytest.mark.parametrize("form", [0, RING_PACKED], ids=["split", "packed"])


def make(
    form: int, size: int = 8, features: int = 0, memory: FlatMemory | None = None
) -> tuple[QueueDriver, Queue]:
    memory = memory or flat_memory((0, 1 << 20))
    kind = PackedDriver if form else SplitDriver
    driver = kind(
        memory,
        size,
        event_idx=bool(features & EVENT_IDX),
        indirect=bool(features & INDIRECT_DESC),
    )
    return driver, Queue(memory, QueueLayout(*driver.layout), form | features, index=3)


def lengths_back(driver: QueueDriver) -> list[tuple[int, int]]:
    return [(used.token, used.length) for used in driver.collect()]


# Taking


@every_form
def test_a_batch_tells_the_lengths_of_its_chains(form: int) -> None:
    driver, queue = make(form)
    driver.add([], [5])
    driver.add([b"abc"])
    batch = queue.pop_batch(8)
    assert (batch.readable_lengths, batch.writable_lengths) == ([0, 3], [5, 0])
    assert [chain.head_index for chain in batch] == [0, 1]
    assert (batch.readable_lengths, batch.writable_lengths) == ([0, 3], [5, 0])


@every_form
def test_a_batch_is_a_sequence_of_the_same_chains_each_time(form: int) -> None:
    driver, queue = make(form)
    for letter in (b"a", b"b", b"c"):
        driver.add([letter])
    batch = queue.pop_batch(8)
    first, second = list(batch), list(batch)
    assert [chain.read(9) for chain in batch] == [b"a", b"b", b"c"]
    assert all(one is other for one, other in zip(first, second, strict=True))
    assert (batch[1], batch[-1], batch[:2]) == (first[1], first[2], first[:2])


@every_form
@pytest.mark.spec("SPL-23")
def test_a_batch_has_no_more_chains_than_its_limit(form: int) -> None:
    driver, queue = make(form)
    for _ in range(8):
        driver.add([], [4])
    assert [len(queue.pop_batch(limit)) for limit in (0, 3, 3, 3, 3)] == [0, 3, 3, 2, 0]


@every_form
@pytest.mark.spec("SPL-06", "PKD-02", "PKD-09")
@pytest.mark.parametrize("turn", range(1, 16))
def test_batches_come_back_whole_wherever_the_ring_ends(form: int, turn: int) -> None:
    driver, queue = make(form, 16)
    for _ in range(turn):
        driver.add([], [1])
    queue.pop_batch(turn).complete([1] * turn)
    driver.collect()
    tokens = [driver.add([], [n + 1]) for n in range(16)]
    batch = queue.pop_batch(16)
    batch.complete([n // 2 for n in range(16)])
    assert lengths_back(driver) == [(token, n // 2) for n, token in enumerate(tokens)]


@every_form
@pytest.mark.spec("PKD-02")
def test_a_ring_of_one_entry_gives_batches_of_one(form: int) -> None:
    driver, queue = make(form, 1)
    seen = []
    for _ in range(5):
        driver.add([], [4])
        queue.pop_batch(9).complete([2])
        seen += lengths_back(driver)
    assert seen == [(token, 2) for token in range(5)]


@pytest.mark.spec("SPL-06")
@pytest.mark.parametrize("size", [16, 64])
def test_a_batch_crosses_the_wrap_of_the_16_bit_index(size: int) -> None:
    memory = flat_memory((0, 1 << 20))
    driver = SplitDriver(memory, size, start=65530)
    state = QueueState(0, QueueLayout(*driver.layout), 0, 65530, 65530, 0, (), None)
    queue = Queue.from_state(memory, state)
    for _ in range(16):
        driver.add([], [4])
    queue.pop_batch(16).complete([4] * 16)
    assert (driver.used_idx, len(driver.collect())) == (10, 16)


@every_form
def test_a_batch_ends_where_chains_of_more_descriptors_begin(form: int) -> None:
    driver, queue = make(form, 16, INDIRECT_DESC)
    driver.add([], [4])
    driver.add([b"ab"], [4])
    driver.add([b"ab", b"c"], [4, 4], indirect=True)
    driver.add([], [4])
    sizes = []
    while batch := queue.pop_batch(16):
        sizes.append(len(batch))
        batch.complete([chain.write(b"ok") for chain in batch])
    assert sizes == [1, 3]
    assert lengths_back(driver) == [(0, 2), (1, 2), (2, 2), (3, 2)]


@every_form
@pytest.mark.spec("SPL-15")
def test_a_batch_may_hold_buffers_in_and_across_other_regions(form: int) -> None:
    memory = flat_memory((0, 0x80000), (0x80000, 0x1000), (0x90000, 0x1000))
    driver, queue = make(form, 16, memory=memory)
    for address in (0x70000, 0x7FFFE, 0x80004, 0x90FFC):
        driver.add_segments([Segment(address, 4, True)])
    chains = queue.pop_many(16)
    sizes = [[len(view) for view in chain.writable] for chain in chains]
    queue.add_used_many([(chain, chain.write(b"abcd")) for chain in chains])
    assert sizes == [[4], [2, 2], [4], [4]]
    assert [used.data for used in driver.collect()] == [b"abcd"] * 4


@every_form
@pytest.mark.spec("SPL-15")
def test_a_batch_ends_before_a_buffer_below_all_memory(form: int) -> None:
    memory = flat_memory((0x100000, 1 << 20))
    driver = (PackedDriver if form else SplitDriver)(memory, 8, base=0x101000)
    queue = Queue(memory, QueueLayout(*driver.layout), form)
    driver.add([], [4])
    driver.add_segments([Segment(0x10, 4, True)])
    assert len(queue.pop_batch(8)) == 1
    with pytest.raises(DriverError, match="SPL-15"):
        queue.pop_batch(8)


@every_form
@pytest.mark.spec("SPL-16")
def test_an_empty_buffer_has_no_views_wherever_it_is(form: int) -> None:
    driver, queue = make(form)
    for address in (0x8000, 0x100000, (1 << 64) - 1):
        driver.add_segments([Segment(address, 0, True)])
    assert [chain.writable for chain in queue.pop_many(8)] == [[], [], []]


@every_form
@pytest.mark.spec("SPL-15", "SPL-23")
@pytest.mark.parametrize("address", [0x100000, 0x100000 - 3, (1 << 64) - 4, 1 << 40])
def test_of_256_chains_the_good_ones_before_a_bad_one_come_out(form: int, address: int) -> None:
    driver, queue = make(form, 256)
    for number in range(256):
        driver.add_segments([Segment(address if number == 100 else 0x80000, 4, True)])
    batch = queue.pop_batch(256)
    batch.complete([4] * len(batch))
    with pytest.raises(DriverError, match="SPL-15: queue 3: chain 100: guest memory") as first:
        queue.pop_batch(256)
    with pytest.raises(DriverError) as second:
        queue.pop_many(256)
    assert str(first.value) == str(second.value)
    assert (len(batch), len(driver.collect())) == (100, 100)


@pytest.mark.spec("SPL-11")
def test_a_head_outside_the_table_ends_a_batch() -> None:
    driver, queue = make(0)
    assert isinstance(driver, SplitDriver)
    driver.add([], [4])
    driver.expose(8)
    assert len(queue.pop_batch(8)) == 1
    with pytest.raises(DriverError, match="SPL-11"):
        queue.pop_batch(8)


@pytest.mark.spec("SPL-10")
def test_an_index_too_far_ahead_gives_no_batch() -> None:
    driver, queue = make(0)
    assert isinstance(driver, SplitDriver)
    driver.add([], [4])
    driver.set_avail_idx(9)
    with pytest.raises(DriverError, match="SPL-10"):
        queue.pop_batch(8)


@pytest.mark.spec("PKD-04", "PKD-12")
def test_a_full_packed_ring_gives_no_more() -> None:
    driver, queue = make(RING_PACKED, 2)
    assert isinstance(driver, PackedDriver)
    for slot in range(2):
        driver.write_descriptor(slot, 0x8000, 4, 0, 0x80)
    assert len(queue.pop_batch(9)) == 2
    driver.write_descriptor(0, 0x8000, 4, 0, 0x8000)
    with pytest.raises(DriverError, match="PKD-12"):
        queue.pop_batch(9)


# Giving back


@every_form
def test_a_batch_is_counted_and_announced_once(form: int) -> None:
    driver, queue = make(form, 16)
    interrupts: list[int] = []
    queue.interrupt = lambda: interrupts.append(1)
    for _ in range(5):
        driver.add([b"abc"])
        driver.add([], [8])
    queue.pop_batch(16).complete([0, 7] * 5)
    assert (queue.completed, queue.bytes_read, queue.bytes_written) == (10, 15, 35)
    assert (len(interrupts), len(driver.collect())) == (1, 10)


@every_form
def test_none_leaves_a_chain_out_to_be_completed_later(form: int) -> None:
    driver, queue = make(form)
    for _ in range(3):
        driver.add([], [4])
    batch = queue.pop_batch(8)
    batch.complete([1, None, 3])
    early = lengths_back(driver)
    batch[1].complete(2)
    assert (early, lengths_back(driver)) == ([(0, 1), (2, 3)], [(1, 2)])


@every_form
def test_chains_may_go_back_before_the_rest_of_their_batch(form: int) -> None:
    driver, queue = make(form)
    for _ in range(3):
        driver.add([], [4])
    batch = queue.pop_batch(8)
    batch[1].complete(4)
    batch.complete([3, None, 3])
    assert lengths_back(driver) == [(1, 4), (0, 3), (2, 3)]


@every_form
@pytest.mark.spec("SPL-36")
def test_giving_a_batch_back_twice_is_an_internal_error(form: int) -> None:
    driver, queue = make(form)
    driver.add([], [4])
    batch = queue.pop_batch(8)
    batch.complete([4])
    with pytest.raises(InternalError, match="does not have it"):
        batch.complete([4])
    with pytest.raises(InternalError, match="does not have it"):
        batch[0].complete(4)
    assert (lengths_back(driver), queue.completed) == ([(0, 4)], 1)


@every_form
def test_a_batch_of_another_queue_is_an_internal_error(form: int) -> None:
    driver, queue = make(form)
    driver.add([], [4])
    batch = queue.pop_batch(8)
    _, other = make(form)
    with pytest.raises(InternalError, match="does not have it"):
        other.add_used_batch(batch, [4])


@every_form
@pytest.mark.spec("SPL-34")
@pytest.mark.parametrize("length", [5, -1])
def test_a_length_in_a_batch_that_cannot_be_true_is_an_internal_error(
    form: int, length: int
) -> None:
    driver, queue = make(form)
    for _ in range(2):
        driver.add([], [4])
    with pytest.raises(InternalError, match=r"DescriptorChain 1 .* room for 4"):
        queue.pop_batch(8).complete([4, length])
    assert driver.collect() == []


@every_form
@pytest.mark.parametrize("lengths", [[], [1], [1, 1, 1]])
def test_a_batch_needs_one_length_for_each_chain(form: int, lengths: list[int]) -> None:
    driver, queue = make(form)
    for _ in range(2):
        driver.add([], [4])
    with pytest.raises(ValueError, match=f"{len(lengths)} lengths for a batch of 2 chains"):
        queue.pop_batch(8).complete(lengths)
    assert driver.collect() == []


@every_form
@pytest.mark.spec("SPL-38")
def test_chains_of_a_batch_that_went_back_have_no_views(form: int) -> None:
    driver, queue = make(form)
    driver.add([], [4])
    batch = queue.pop_batch(8)
    batch.complete([4])
    assert (batch[0].writable, batch[0].write(b"late")) == ([], 0)
    assert [used.data for used in driver.collect()] == [b"\xa5" * 4]


@every_form
@pytest.mark.spec("SPL-37", "COM-20")
def test_with_in_order_a_batch_waits_for_chains_taken_before_it(form: int) -> None:
    driver, queue = make(form, 8, IN_ORDER)
    driver.add([], [4])
    [slow] = queue.pop_many(1)
    for _ in range(3):
        driver.add([], [4])
    queue.pop_batch(8).complete([1, 2, 3])
    before = driver.collect()
    slow.complete(4)
    assert (before, lengths_back(driver)) == ([], [(0, 4), (1, 1), (2, 2), (3, 3)])


@every_form
@pytest.mark.spec("SPL-37", "COM-20")
def test_with_in_order_chains_wait_for_a_batch_taken_before_them(form: int) -> None:
    driver, queue = make(form, 8, IN_ORDER)
    driver.add([], [4])
    batch = queue.pop_batch(8)
    driver.add([], [4])
    [fast] = queue.pop_many(1)
    fast.complete(1)
    before = driver.collect()
    batch.complete([4])
    assert (before, lengths_back(driver)) == ([], [(0, 4), (1, 1)])


class Recorder:
    """Stands in for the words of a ring, and keeps where something is stored into them."""

    def __init__(self, words: Any) -> None:
        self.words = words
        self.keys: list[int | slice] = []

    def __setitem__(self, key: int | slice, value: int) -> None:
        self.keys.append(key)
        self.words[key] = value


@pytest.mark.usefixtures("python_engine")
@pytest.mark.spec("SPL-32", "SPL-33")
def test_the_index_is_the_only_store_that_shows_a_large_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver, queue = make(0, 16)
    for _ in range(12):
        driver.add([], [4])
    batch = queue.pop_batch(16)
    words = Recorder(queue._ring._used)  # type: ignore[attr-defined]
    monkeypatch.setattr(queue._ring, "_used", words)
    batch.complete([4] * 12)
    assert words.keys == [1]
    assert len(driver.collect()) == 12


@pytest.mark.usefixtures("python_engine")
@pytest.mark.spec("PKD-07", "PKD-21")
@pytest.mark.parametrize("turn", [0, 1, 5, 15])
def test_the_flags_of_the_first_entry_are_stored_last_in_a_large_batch(
    monkeypatch: pytest.MonkeyPatch, turn: int
) -> None:
    driver, queue = make(RING_PACKED, 16)
    for _ in range(turn):
        driver.add([], [1])
    queue.pop_batch(16).complete([1] * turn)
    driver.collect()
    for _ in range(16):
        driver.add([], [4])
    batch = queue.pop_batch(16)
    flags = queue._ring._words16[7::8].tolist()  # type: ignore[attr-defined]
    words = Recorder(queue._ring._words16)  # type: ignore[attr-defined]
    monkeypatch.setattr(queue._ring, "_words16", words)
    first_flags_before_the_last_store: list[int] = []

    class Watch(Recorder):
        def __setitem__(self, key: int | slice, value: int) -> None:
            first_flags_before_the_last_store.append(self.words[8 * turn + 7])
            super().__setitem__(key, value)

    watch = Watch(words.words)
    monkeypatch.setattr(queue._ring, "_words16", watch)
    batch.complete([4] * 16)
    assert watch.keys[-1] == 8 * turn + 7
    assert set(first_flags_before_the_last_store) == {flags[turn]}
    assert len(driver.collect()) == 16


# Life and death


@every_form
def test_after_a_reset_a_batch_does_nothing(form: int) -> None:
    driver, queue = make(form)
    driver.add([], [4])
    batch = queue.pop_batch(8)
    queue.reset()
    before = driver.read_bytes(0x1000, 0x4000)
    batch.complete([4])
    batch[0].complete(4)
    assert (batch[0].write(b"late"), batch[0].writable, len(queue.pop_batch(8))) == (0, [], 0)
    assert driver.read_bytes(0x1000, 0x4000) == before


@every_form
@pytest.mark.spec("COM-22")
def test_a_reset_kills_views_of_a_batch_that_a_device_kept(form: int) -> None:
    driver, queue = make(form)
    driver.add([], [4])
    kept = queue.pop_batch(8)[0].writable[0]
    queue.reset()
    with pytest.raises(ValueError, match="released"):
        kept[0] = 1


@every_form
@pytest.mark.spec("SPL-46")
def test_a_batch_that_is_out_is_saved_and_handed_out_again(form: int) -> None:
    driver, queue = make(form)
    for letter in (b"a", b"b", b"c"):
        driver.add([letter])
    queue.pop_batch(2)
    state = pickle.loads(pickle.dumps(queue.state()))
    queue.reset()
    queue = Queue.from_state(driver.memory, state)
    batches = [queue.pop_batch(8), queue.pop_batch(8)]
    assert [[chain.read(1) for chain in batch] for batch in batches] == [[b"a", b"b", b"c"], []]
    batches[0].complete([0, 0, 0])
    assert lengths_back(driver) == [(0, 0), (1, 0), (2, 0)]


@every_form
def test_the_state_of_a_queue_can_be_taken_while_a_batch_is_out(form: int) -> None:
    driver, queue = make(form)
    driver.add([], [4])
    batch = queue.pop_batch(8)
    outstanding = queue.state().outstanding
    batch.complete([4])
    assert len(outstanding) == 1
    assert (lengths_back(driver), queue.state().outstanding) == ([(0, 4)], ())


@every_form
def test_a_broken_queue_takes_no_batch_back(form: int) -> None:
    driver, queue = make(form)
    driver.add([], [4])
    batch = queue.pop_batch(8)
    driver.add_segments([Segment(1 << 40, 4, True)])
    with pytest.raises(DriverError):
        queue.pop()
    batch.complete([4])
    assert driver.collect() == []


def test_an_empty_batch_is_false_and_completes() -> None:
    _, queue = make(0)
    batch = queue.pop_batch(8)
    batch.complete([])
    assert (bool(batch), list(batch)) == (False, [])


def test_chains_of_a_batch_are_made_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(*arguments: Any, **options: Any) -> DescriptorChain:
        made.append(1)
        return checked_chain(*arguments, **options)

    monkeypatch.setattr("virtio.virtqueue.batch.checked_chain", counted)
    driver, queue = make(0)
    driver.add([], [4])
    batch = queue.pop_batch(8)
    batch.complete(batch.writable_lengths)
    before = list(made)
    assert (len(batch[:]), before, made) == (1, [], [1])
