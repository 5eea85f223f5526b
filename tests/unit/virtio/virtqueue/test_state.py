"""Reset, saved state and restored state, of both forms of a queue."""

import pickle
from mmap import mmap
from typing import Any

import pytest

from virtio.errors import ConfigurationError, DriverError
from virtio.memory import FlatMemory
from virtio.testing import PackedDriver, QueueDriver, Segment, SplitDriver, flat_memory
from virtio.virtqueue.chain import DescriptorChain
from virtio.virtqueue.queue import Queue
from virtio.virtqueue.state import QueueLayout, QueueState, SavedChain

EVENT_IDX = 1 << 29
RING_PACKED = 1 << 34
IN_ORDER = 1 << 35

FORMS = [
    pytest.param(form | extra, id=f"{'packed' if form else 'split'}-{name}")
    for form in (0, RING_PACKED)
    for name, extra in (("plain", 0), ("event_idx", EVENT_IDX), ("in_order", IN_ORDER))
]


def make(
    features: int, size: int = 8, memory: FlatMemory | None = None
) -> tuple[QueueDriver, Queue]:
    memory = memory or flat_memory((0, 1 << 20))
    form = PackedDriver if features & RING_PACKED else SplitDriver
    driver = form(memory, size, event_idx=bool(features & EVENT_IDX))
    return driver, Queue(memory, QueueLayout(*driver.layout), features, index=3)


def pop(queue: Queue) -> DescriptorChain:
    chain = queue.pop()
    assert chain is not None
    return chain


def through_a_file(driver: QueueDriver, queue: Queue) -> Queue:
    """Return the queue as another process would rebuild it."""
    state = pickle.loads(pickle.dumps(queue.state()))
    assert isinstance(state, QueueState)
    queue.reset()
    return Queue.from_state(driver.memory, state)


# Reset


@pytest.mark.spec("COM-22")
@pytest.mark.parametrize("features", FORMS)
def test_after_reset_guest_memory_can_be_closed(features: int) -> None:
    ram = mmap(-1, 1 << 20)
    memory = FlatMemory([(0, memoryview(ram))])
    layout = QueueLayout(8, 0x1000, 0x2000, 0x3000)
    queue = Queue(memory, layout, features)
    queue.disable_notification()
    queue.reset()
    memory.release()
    del memory, queue
    ram.close()
    assert ram.closed


@pytest.mark.spec("COM-22", "MMIO-35")
@pytest.mark.parametrize("features", FORMS)
def test_after_reset_chains_and_queue_touch_nothing(features: int) -> None:
    driver, queue = make(features)
    interrupts: list[int] = []
    queue.interrupt = lambda: interrupts.append(1)
    driver.add([b"x"], [4])
    driver.add([b"y"], [4])
    chain = pop(queue)
    kept = chain.writable[0]
    queue.reset()
    before = driver.read_bytes(0x1000, 0x4000)
    written = chain.write(b"late")
    chain.complete(4)
    chain.complete(4)
    queue.add_used_many([(chain, 4)])
    queue.disable_notification()
    answers = (queue.pop(), list(queue), queue.pop_many(9), queue.enable_notification())
    queue.reset()
    with pytest.raises(ValueError, match="released"):
        kept[0] = 1
    assert (written, answers, interrupts) == (0, (None, [], [], False), [])
    assert driver.read_bytes(0x1000, 0x4000) == before


@pytest.mark.spec("PKD-03", "MMIO-17")
@pytest.mark.parametrize("features", FORMS)
def test_a_new_queue_starts_from_the_beginning(features: int) -> None:
    driver, queue = make(features)
    for _ in range(11):
        driver.add([b"x"])
        pop(queue).complete(0)
        driver.collect()
    queue.reset()
    driver, queue = make(features)
    driver.add([b"y"], [1])
    pop(queue).complete(1)
    assert [used.token for used in driver.collect()] == [0]


# State


@pytest.mark.parametrize("features", FORMS)
def test_a_fresh_queue_is_restored_as_it_was(features: int) -> None:
    driver, queue = make(features)
    state = queue.state()
    assert Queue.from_state(driver.memory, state).state() == state
    assert state[:4] == (3, tuple(driver.layout), features, 0)


@pytest.mark.spec("SPL-46")
@pytest.mark.parametrize("features", FORMS)
def test_a_queue_saved_at_every_step_works_on_as_if_nothing_happened(features: int) -> None:
    driver, queue = make(features, size=4)
    for token in range(50):
        driver.want_interrupts()
        driver.add([b"x"], [2])
        queue = through_a_file(driver, queue)
        chain = pop(queue)
        chain.write(b"ok")
        queue.add_used(chain, 2)
        queue = through_a_file(driver, queue)
        assert queue.needs_notification()
        assert [(u.token, u.data) for u in driver.collect()] == [(token, b"ok")]
    assert queue.pop() is None


@pytest.mark.spec("SPL-46")
@pytest.mark.parametrize("features", FORMS)
def test_chains_not_given_back_are_handed_out_again_first(features: int) -> None:
    driver, queue = make(features)
    for letter in (b"a", b"b", b"c"):
        driver.add([letter], [4])
    queue.pop_many(2)
    queue = through_a_file(driver, queue)
    assert queue.enable_notification()
    seen = []
    for chain in queue:
        seen.append(chain.read(1))
        chain.complete(1)
    assert seen == [b"a", b"b", b"c"]
    assert [used.token for used in driver.collect()] == [0, 1, 2]


@pytest.mark.spec("SPL-44", "SPL-46")
@pytest.mark.parametrize("features", FORMS)
def test_enabling_tells_of_chains_to_be_handed_out_again(features: int) -> None:
    driver, queue = make(features)
    driver.add([b"x"])
    pop(queue)
    queue = through_a_file(driver, queue)
    before = queue.enable_notification()
    pop(queue)
    assert (before, queue.enable_notification()) == (True, False)


@pytest.mark.spec("SPL-46", "PKD-09")
@pytest.mark.parametrize("features", FORMS)
def test_pop_many_hands_out_restored_and_new_chains(features: int) -> None:
    driver, queue = make(features)
    for letter in (b"a", b"b", b"c"):
        driver.add([letter])
    queue.pop_many(2)
    queue = through_a_file(driver, queue)
    assert [chain.read(1) for chain in queue.pop_many(8)] == [b"a", b"b", b"c"]


@pytest.mark.spec("SPL-46", "PKD-09")
@pytest.mark.parametrize("features", FORMS)
def test_a_chain_survives_the_state_although_a_later_one_overtook_it(features: int) -> None:
    driver, queue = make(features)
    driver.add([b"slow"], [4])
    driver.add([b"fast"], [4])
    _, fast = queue.pop_many(2)
    fast.write(b"FAST")
    queue.add_used(fast, 4)
    queue = through_a_file(driver, queue)
    slow = pop(queue)
    assert (slow.read(9), queue.pop()) == (b"slow", None)
    slow.write(b"SLOW")
    slow.complete(4)
    answers = {used.token: used.data for used in driver.collect()}
    assert answers == {0: b"SLOW", 1: b"FAST"}


@pytest.mark.parametrize("features", FORMS)
def test_a_broken_queue_is_still_broken_after_restore(features: int) -> None:
    driver, queue = make(features)
    driver.add_segments([Segment(1 << 40, 4, True)])
    with pytest.raises(DriverError) as first:
        queue.pop()
    queue = through_a_file(driver, queue)
    with pytest.raises(DriverError) as second:
        queue.pop()
    assert str(second.value) == str(first.value)
    assert str(first.value).startswith("SPL-15: queue 3: chain 0: guest memory [0x10000000000")


@pytest.mark.parametrize("features", FORMS)
def test_the_same_error_is_raised_at_every_attempt(features: int) -> None:
    driver, queue = make(features)
    driver.add_segments([Segment(1 << 40, 4, True)])
    messages = set()
    for attempt in (queue.pop, lambda: next(queue.iter()), lambda: queue.pop_many(4)):
        with pytest.raises(DriverError) as caught:
            attempt()
        messages.add(str(caught.value))
    assert len(messages) == 1


# States that no queue can have been in

SPLIT = QueueState(0, QueueLayout(16, 0x1000, 0x2000, 0x3000), 1 << 32, 0, 0, 0, (), None)
PACKED = SPLIT._replace(features=1 << 32 | RING_PACKED)
READ, WRITE = 0, 2


def rebuild(state: QueueState) -> Queue:
    return Queue.from_state(flat_memory((0, 1 << 20)), state)


def one_out(state: QueueState, **changes: Any) -> QueueState:
    """Return the state with one chain out, of a part to read and one to write."""
    descriptors = ((0x8000, 16, READ), (0x9000, 32, WRITE))
    slots = 2 if state.features & RING_PACKED else 1
    chain = SavedChain(descriptors, 3, 3, slots, None)._replace(**changes)
    return state._replace(next_avail=chain.slots, outstanding=(chain,))


@pytest.mark.parametrize("state", [SPLIT, PACKED, one_out(SPLIT), one_out(PACKED)])
def test_a_possible_state_is_taken(state: QueueState) -> None:
    assert rebuild(state).state() == state


@pytest.mark.parametrize("position", [1, 16, 31, 32, 1000, 65535, 65536, 1 << 31, 1 << 70, -1])
def test_packed_positions_must_be_possible(position: int) -> None:
    with pytest.raises(ConfigurationError, match=r"next_used"):
        rebuild(PACKED._replace(next_used=position))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": -1}, "saved queue: index is -1, must be 0 to 65535"),
        ({"next_avail": 65536}, "next_avail is 65536, must be 0 to 65535"),
        ({"next_used": True}, "next_used is True, must be int"),
        ({"next_used": 1.0}, r"next_used is 1\.0, must be int"),
        ({"unsignalled": -1}, "unsignalled is -1, must be 0 to 4294967295"),
        ({"features": 1 << 128}, "features is 3402"),
        ({"next_avail": 1}, "chains take 0 of its 16 entries, from next_used to next_avail are 1"),
        ({"layout": SPLIT.layout._replace(size=1 << 20)}, r"layout\.size is 1048576"),
        ({"layout": QueueLayout(16, 0, "0", 0)}, r"layout\.driver_area is '0'"),  # type: ignore[arg-type]
        ({"breach": ("SPL-10", "x", 1 << 16)}, r"breach\[2\] is 65536|breach is"),
        ({"breach": ("SPL-10", "x" * 1001, None)}, "has 1001 items, must have 0 to 1000"),
    ],
)
def test_an_impossible_state_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        rebuild(SPLIT._replace(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("state", [SPLIT, PACKED], ids=["split", "packed"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_index": 16}, "head_index must be below 16"),
        ({"buffer_id": 65536}, "buffer_id is 65536"),
        ({"slots": 0}, "slots is 0"),
        ({"slots": 3}, "slots are 3 for 2 descriptors"),
        ({"used_length": 4}, "used_length is set, but chains are not used in order"),
        ({"descriptors": ()}, "has 0 items, must have 1 to 1024"),
        ({"descriptors": ((0, 1, READ),) * 1025}, "has 1025 items"),
        ({"descriptors": ((0x8000, 1, WRITE), (0x8000, 1, READ))}, "to read follow one to write"),
        ({"descriptors": ((0x8000, 1 << 32, READ),) * 2}, r"descriptors\[0\]\[1\] is 4294967296"),
        ({"descriptors": ((0, (1 << 32) - 1, READ),) * 2}, "descriptors of 8589934590 bytes"),
        ({"descriptors": ((0, 1), (0, 1, 0))}, r"descriptors\[0\] is \(0, 1\), must be 3 items"),
    ],
)
def test_an_impossible_chain_is_refused(
    state: QueueState, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        rebuild(one_out(state, **changes))


def test_a_split_chain_goes_back_under_its_own_number() -> None:
    with pytest.raises(ConfigurationError, match="buffer_id is 4, must be its head_index"):
        rebuild(one_out(SPLIT, buffer_id=4))


def test_a_chain_was_used_in_order_for_no_more_than_it_has_room() -> None:
    in_order = SPLIT._replace(features=SPLIT.features | IN_ORDER)
    assert rebuild(one_out(in_order, used_length=32)).state().outstanding[0].used_length == 32

    with pytest.raises(ConfigurationError, match="used_length is 33, there is room for 32"):
        rebuild(one_out(in_order, used_length=33))


def test_more_in_flight_than_the_ring_has_is_refused() -> None:
    chains = (SavedChain(((0x8000, 1, READ),), 3, 3, 1, None),) * 17

    with pytest.raises(ConfigurationError, match="chains take 17 of its 16 entries"):
        rebuild(SPLIT._replace(next_avail=17, outstanding=chains))


@pytest.mark.parametrize("state", [SPLIT, PACKED], ids=["split", "packed"])
def test_a_chain_outside_of_memory_is_refused_and_memory_let_go(state: QueueState) -> None:
    ram = mmap(-1, 1 << 20)
    memory = FlatMemory([(0, memoryview(ram))])
    inside = SavedChain(((0x8000, 16, READ),), 2, 2, 1, None)
    outside = SavedChain(((1 << 40, 16, READ),), 3, 3, 1, None)

    with pytest.raises(DriverError, match="SPL-15"):
        Queue.from_state(memory, state._replace(next_avail=2, outstanding=(inside, outside)))
    memory.release()
    ram.close()
