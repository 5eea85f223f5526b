"""Reset, saved state and restored state, of both forms of a queue."""

import pickle
from mmap import mmap

import pytest

from virtio.errors import DriverError
from virtio.memory import FlatMemory
from virtio.testing import PackedDriver, QueueDriver, Segment, SplitDriver, flat_memory
from virtio.virtqueue.chain import DescriptorChain
from virtio.virtqueue.queue import Queue, QueueLayout, QueueState

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
