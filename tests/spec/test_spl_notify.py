"""Notifications of the split virtqueue, in both directions; what both forms share of them, too."""

from collections.abc import Callable

import pytest

from tests.spec.conftest import RigMaker
from tests.spec.devices import EVERY_RING, Gadget
from tests.spec.rig import SPLIT, Form, Rig
from tests.spec.rings import ECHO, EVENT_IDX, SLOW, gadget_of, go_live, kick, split_ring
from virtio.testing import SplitDriver, flat_memory
from virtio.virtqueue.queue import Queue
from virtio.virtqueue.state import QueueLayout, QueueState

FEATURES = pytest.mark.parametrize("features", [0, EVENT_IDX], ids=["plain", "event-idx"])


def interrupts(rig: Rig, count: int) -> int:
    """Have so many chains served at once; return how often the device notified."""
    before = rig.line.edges
    for _ in range(count):
        rig.rings[ECHO].add([b"x"], [1])
    kick(rig)
    assert len(rig.rings[ECHO].collect()) == count
    return rig.line.edges - before


# Notifying the driver


@pytest.mark.spec("SPL-39")
@pytest.mark.parametrize(("flags", "expected"), [(0, 1), (1, 0), (2, 1), (0xFFFE, 1), (0xFFFF, 0)])
@pytest.mark.parametrize("used_event", [0, 3, 0x8000])
def test_without_event_idx_bit_0_of_the_flags_decides(
    make_rig: RigMaker, flags: int, expected: int, used_event: int
) -> None:
    rig = go_live(make_rig)
    split_ring(rig).set_avail_flags(flags)
    split_ring(rig).set_used_event(used_event)
    assert [interrupts(rig, 1) for _ in range(3)] == [expected] * 3
    assert rig.driver.interrupt_status == expected


@pytest.mark.spec("SPL-39")
def test_the_flag_may_change_at_any_time(make_rig: RigMaker) -> None:
    rig = go_live(make_rig)
    seen = []
    for flags in (0, 1, 0, 1, 1, 0):
        split_ring(rig).set_avail_flags(flags)
        seen.append(interrupts(rig, 2))
    assert seen == [1, 0, 1, 0, 0, 1]


def vring_need_event(event: int, new: int, old: int) -> bool:
    """Tell what VIRTIO 1.4 "Used Buffer Notification Suppression" gives as C."""
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


@pytest.mark.spec("SPL-40", "SPL-06")
@pytest.mark.parametrize("old", [0, 5, 0x7FFE, 65530, 65533, 65535])
@pytest.mark.parametrize("batch", [1, 2, 5, 8])
@pytest.mark.parametrize("flags", [0, 1])
def test_with_event_idx_the_event_decides_and_the_flag_does_not(
    old: int, batch: int, flags: int
) -> None:
    events = [(old + distance) % 65536 for distance in [*range(-10, 12), 0x7FFF, 0x8000, 0x8001]]
    decided = [decision(old, batch, flags, event) for event in events]
    assert decided == [vring_need_event(event, (old + batch) % 65536, old) for event in events]


def decision(old: int, batch: int, flags: int, event: int) -> bool:
    memory = flat_memory()
    driver = SplitDriver(memory, 8, event_idx=True, start=old)
    state = QueueState(0, QueueLayout(*driver.layout), EVENT_IDX, old, old, 0, (), None)
    queue = Queue.from_state(memory, state)
    driver.set_avail_flags(flags)
    driver.set_used_event(event)
    for _ in range(batch):
        driver.add([b"x"])
    queue.add_used_many([(chain, 0) for chain in queue])
    return queue.needs_notification()


@pytest.mark.spec("SPL-40")
def test_with_event_idx_the_driver_is_notified_once_when_its_event_is_reached(
    make_rig: RigMaker,
) -> None:
    rig = go_live(make_rig, features=EVENT_IDX)
    split_ring(rig).set_avail_flags(1)
    split_ring(rig).set_used_event(4)
    assert [interrupts(rig, 1) for _ in range(8)] == [0, 0, 0, 0, 1, 0, 0, 0]


@pytest.mark.spec("SPL-40")
def test_chains_completed_one_by_one_notify_for_the_one_that_was_asked_for(
    make_rig: RigMaker,
) -> None:
    rig = go_live(make_rig, features=EVENT_IDX)
    rig.rings[SLOW].interrupt_after(3)
    for _ in range(5):
        rig.add(SLOW, ([], [4]))
    rig.serve()
    edges = []
    for chain in gadget_of(rig).held:
        chain.complete(0)
        edges.append(rig.line.edges)
    assert edges == [0, 0, 1, 1, 1]


# The barriers; tests of races run them against another process


@pytest.fixture
def at_fence(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens at the next full barriers of a queue made from here on, first call first."""
    pending: list[Callable[[], object]] = []

    class RecordingFence:
        def __enter__(self) -> None:
            if pending:
                pending.pop(0)()

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr("virtio.virtqueue.ring.make_fence", RecordingFence)
    return pending


@pytest.mark.spec("SPL-41", "PKD-22")
@pytest.mark.usefixtures("python_engine")
@FEATURES
def test_used_is_stored_before_the_barrier_and_the_drivers_wish_read_after_it(
    make_rig: RigMaker, form: Form, features: int, at_fence: list[Callable[[], object]]
) -> None:
    rig = go_live(make_rig, form, features)
    ring = rig.rings[ECHO]
    ring.suppress_interrupts()
    collected = []

    def driver_goes_to_sleep() -> None:
        ring.want_interrupts()
        collected.extend(ring.collect())

    token = ring.add([b"x"], [1])
    at_fence.append(driver_goes_to_sleep)
    kick(rig)
    assert [used.token for used in collected] == [token]
    assert rig.line.edges == 1


@pytest.mark.spec("SPL-44", "PKD-20", "PKD-22")
@pytest.mark.usefixtures("python_engine")
@FEATURES
def test_a_buffer_that_comes_while_the_device_goes_to_sleep_is_served_without_a_kick(
    make_rig: RigMaker, form: Form, features: int, at_fence: list[Callable[[], object]]
) -> None:
    rig = go_live(make_rig, form, features)
    ring = rig.rings[ECHO]
    ring.add([b"first"], [5])
    # The first barrier is that of the notification, the second that of going to sleep.
    at_fence += [lambda: None, lambda: ring.add([b"second"], [6])]
    kick(rig)
    assert [used.data for used in ring.collect()] == [b"first", b"second"]


# Notified by the driver


@pytest.mark.spec("SPL-42")
def test_without_event_idx_used_flags_are_0_or_1_and_0_while_it_sleeps(make_rig: RigMaker) -> None:
    seen = []

    class Watcher(Gadget):
        def extraq(self, chain: object) -> int:
            seen.append(ring.used_flags)
            return 0

    rig = make_rig(Watcher(ring_features=EVERY_RING))
    rig.start(0b11)
    ring = split_ring(rig, 2)
    for _ in range(100):
        ring.add([b"x"])
        kick(rig, 2)
        seen.append(ring.used_flags)
        ring.collect()
    assert seen == [1, 0] * 100


@pytest.mark.spec("SPL-42")
def test_a_kick_in_spite_of_the_flag_is_served(make_rig: RigMaker) -> None:
    rig = go_live(make_rig)
    rig.memory.view(split_ring(rig).layout.device_area, 2)[:] = b"\1\0"
    used = rig.request(ECHO, ((b"hello",), (5,)))
    assert used.data == b"hello"


@pytest.mark.spec("SPL-43")
def test_with_event_idx_used_flags_stay_0_and_avail_event_is_the_next_index(
    make_rig: RigMaker,
) -> None:
    rig = go_live(make_rig, features=EVENT_IDX)
    ring = split_ring(rig)
    seen = []
    for _ in range(100):
        ring.add([b"x"])
        kick(rig)
        ring.collect()
        seen.append((ring.used_flags, ring.avail_event))
    assert seen == [(0, index) for index in range(1, 101)]


@pytest.mark.spec("SPL-43", "PKD-20", "PKD-22")
@FEATURES
@pytest.mark.parametrize("burst", [1, 3])
def test_a_driver_that_kicks_only_when_asked_never_hangs(
    make_rig: RigMaker, form: Form, features: int, burst: int
) -> None:
    rig = go_live(make_rig, form, features)
    ring = rig.rings[ECHO]
    for _ in range(1000):
        tokens = [ring.add([b"x"]) for _ in range(burst)]
        assert ring.should_kick()
        kick(rig)
        assert [used.token for used in ring.collect()] == tokens


@pytest.mark.spec("SPL-43", "SPL-06")
def test_avail_event_follows_the_index_around_65536() -> None:
    memory = flat_memory()
    driver = SplitDriver(memory, 4, event_idx=True, start=65534)
    state = QueueState(0, QueueLayout(*driver.layout), EVENT_IDX, 65534, 65534, 0, (), None)
    queue = Queue.from_state(memory, state)
    queue.enable_notification()
    seen = [driver.avail_event]
    for _ in range(4):
        driver.add([b"x"])
        assert driver.should_kick()
        queue.add_used_many([(chain, 0) for chain in queue])
        queue.enable_notification()
        seen.append(driver.avail_event)
    assert seen == [65534, 65535, 0, 1, 2]


@pytest.mark.spec("SPL-45", "PKD-22")
@FEATURES
def test_10000_kicks_of_an_empty_queue_do_nothing(
    make_rig: RigMaker, form: Form, features: int
) -> None:
    rig = go_live(make_rig, form, features)
    before = bytes(rig.memory.view(0, 4 << 20))
    for _ in range(10_000):
        rig.driver.notify(ECHO)
        rig.transport.handle_notify(ECHO)
    assert bytes(rig.memory.view(0, 4 << 20)) == before
    assert (rig.line.edges, rig.driver.interrupt_status, rig.driver.status) == (0, 0, 0x0F)
    assert rig.request(ECHO, ((b"hello",), (5,))).data == b"hello"


# Going on after a restore


def restored(make_rig: RigMaker, rig: Rig) -> Rig:
    """Save the device, stop it, and return another that goes on with the same memory."""
    state = rig.transport.state()
    rig.transport.close()
    twin = make_rig(Gadget(ring_features=EVERY_RING), rig.memory)
    twin.transport.restore(state)
    twin.rings = rig.rings
    twin.serve()
    return twin


@pytest.mark.spec("SPL-46", "PKD-22")
@FEATURES
def test_a_buffer_that_was_pending_when_saved_is_served_after_the_restore(
    make_rig: RigMaker, form: Form, features: int
) -> None:
    rig = go_live(make_rig, form, features)
    for number in range(11):
        rig.request(ECHO, ((bytes([number]),), (1,)))
    rig.rings[ECHO].want_interrupts()
    rig.rings[ECHO].add([b"pending"], [7])
    twin = restored(make_rig, rig)
    assert [used.data for used in rig.rings[ECHO].collect()] == [b"pending"]
    assert twin.line.edges >= 1


@pytest.mark.spec("SPL-46", "PKD-22")
@FEATURES
def test_a_chain_that_the_device_held_when_saved_comes_back_once(
    make_rig: RigMaker, form: Form, features: int
) -> None:
    rig = go_live(make_rig, form, features)
    token = rig.add(SLOW, ([], [4]))
    rig.serve()
    twin = restored(make_rig, rig)
    assert len(gadget_of(twin).held) == 1
    gadget_of(twin).finish()
    assert [(used.token, used.data) for used in rig.rings[SLOW].collect()] == [(token, b"done")]


@pytest.mark.spec("SPL-46", "PKD-22")
@FEATURES
def test_a_driver_that_kicks_only_when_asked_goes_on_after_the_restore(
    make_rig: RigMaker, form: Form, features: int
) -> None:
    rig = go_live(make_rig, form, features)
    ring = rig.rings[ECHO]
    # Saved while it was told not to notify, as in the middle of a burst.
    rig.transport.queues[ECHO].queue.disable_notification()  # type: ignore[union-attr]
    twin = restored(make_rig, rig)
    for number in range(20):
        token = ring.add([bytes([number])], [1])
        assert ring.should_kick()
        kick(twin)
        assert [used.token for used in ring.collect()] == [token]


@pytest.mark.spec("SPL-46")
def test_a_restored_device_shares_nothing_but_memory_with_the_one_that_was_saved(
    make_rig: RigMaker,
) -> None:
    rig = go_live(make_rig, SPLIT)
    twin = restored(make_rig, rig)
    kick(rig)
    assert twin.request(ECHO, ((b"hello",), (5,))).data == b"hello"
