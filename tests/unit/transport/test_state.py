"""Saving a transport as a value, and going on from it elsewhere."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from transport import TransportState, VirtioMmio
from transport.state import SavedQueue
from transport.testing import MmioDriver, RecordingLine
from virtio.device.declaration import Device, feature, field, queue
from virtio.device.lifecycle import VirtioDevice
from virtio.errors import ConfigurationError
from virtio.memory import FlatMemory
from virtio.testing import ManualLoop, SplitDriver, flat_memory
from virtio.virtqueue.chain import DescriptorChain


class Counter(Device):
    """Writes the number of the request, counted in its configuration space."""

    device_id = 42
    extra = feature(1)
    requests = field("u32", offset=0)

    @queue(size=8)
    def requestq(self, chain: DescriptorChain) -> int:
        self.requests += 1
        return chain.write(bytes([self.requests]))

    @queue(size=4)
    def otherq(self, chain: DescriptorChain) -> int:
        return 0


class Other(Device):
    """A device of another shape."""

    device_id = 43

    @queue(size=8)
    def requestq(self, chain: DescriptorChain) -> int:
        return 0


class Place:
    """A device on its transport over given memory."""

    def __init__(self, memory: FlatMemory, device: VirtioDevice | None = None) -> None:
        self.line = RecordingLine()
        self.transport = VirtioMmio(device or Counter(), memory, self.line, ManualLoop())
        self.driver = MmioDriver(self.transport)


@contextmanager
def place(memory: FlatMemory, device: VirtioDevice | None = None) -> Iterator[Place]:
    made = Place(memory, device)
    with made.transport:
        yield made


def copied(state: TransportState) -> TransportState:
    """Return what is left of a state after it has been in a file."""
    result: TransportState = pickle.loads(pickle.dumps(state))
    return result


@pytest.mark.spec("SPL-46")
def test_buffer_pending_when_saved_is_served_after_restore() -> None:
    memory = flat_memory()
    ring = SplitDriver(memory, 8)
    with place(memory) as old:
        old.driver.start(ring)
        ring.add(writable=[1])
        old.transport.service()
        ring.add(writable=[1])
        state = copied(old.transport.state())

    with place(memory) as new:
        new.transport.restore(state)
        new.transport.service()

        assert [used.data for used in ring.collect()] == [b"\1", b"\2"]


def test_restored_transport_has_the_same_state() -> None:
    memory = flat_memory()
    with place(memory) as old:
        old.driver.start(SplitDriver(memory, 8), features=1 << 32 | 1 << 1)
        old.driver.write(0x14, 1)
        old.driver.write(0x24, 3)
        old.driver.write(0x30, 1)
        state = copied(old.transport.state())

    with place(memory) as new:
        new.transport.restore(state)

        assert new.transport.state() == state


def test_restored_device_goes_on_serving_new_notifications() -> None:
    memory = flat_memory()
    ring = SplitDriver(memory, 8)
    with place(memory) as old:
        old.driver.start(ring)
        state = copied(old.transport.state())

    with place(memory) as new:
        new.transport.restore(state)
        new.transport.service()
        ring.add(writable=[1])
        new.driver.notify(0)
        new.transport.service()

        assert [used.data for used in ring.collect()] == [b"\1"]
        assert new.driver.interrupt_status & 1 == 1


def test_interrupt_pending_when_saved_is_signalled_after_restore() -> None:
    memory = flat_memory()
    ring = SplitDriver(memory, 8)
    with place(memory) as old:
        old.driver.start(ring)
        ring.suppress_interrupts()
        ring.add(writable=[1])
        old.transport.service()
        assert old.driver.interrupt_status == 2
        state = copied(old.transport.state())

    with place(memory) as new:
        new.transport.restore(state)

        assert new.driver.interrupt_status == 2
        assert new.line.level is True


def test_nothing_pending_raises_no_line_after_restore() -> None:
    memory = flat_memory()
    with place(memory) as old:
        old.driver.start(SplitDriver(memory, 8))
        state = copied(old.transport.state())

    with place(memory) as new:
        new.transport.restore(state)

        assert new.line.edges == 0


def test_negotiation_goes_on_after_restore() -> None:
    memory = flat_memory()
    ring = SplitDriver(memory, 8)
    with place(memory) as old:
        old.driver.status = 0x03
        old.driver.accept_features(1 << 32)
        state = copied(old.transport.state())

    with place(memory) as new:
        new.transport.restore(state)
        new.driver.status = 0x0B
        ready = new.driver.set_up_queue(0, *ring.layout)
        new.driver.go_live()

        assert ready is True
        assert new.driver.status == 0x0F


def test_device_that_needed_a_reset_still_needs_it_after_restore() -> None:
    memory = flat_memory()
    ring = SplitDriver(memory, 8)
    with place(memory) as old:
        old.driver.start(ring)
        ring.set_avail_idx(9)
        old.transport.service()
        state = copied(old.transport.state())

    with place(memory) as new:
        new.transport.restore(state)
        new.driver.notify(0)
        new.transport.service()

        assert new.driver.status == 0x4F
        assert new.transport.device.activation is None
        assert ring.collect() == []


def test_restore_over_a_live_device_leaves_nothing_of_it() -> None:
    memory = flat_memory()
    with place(memory) as fresh, place(memory) as used:
        used.driver.start(SplitDriver(memory, 8))
        state = fresh.transport.state()

        used.transport.restore(state)

        assert used.transport.state() == state
        assert used.transport.device.activation is None


def test_state_of_a_device_with_other_queues_is_refused() -> None:
    memory = flat_memory()
    with place(memory) as one, place(memory, Other()) as other:
        state = one.transport.state()

        with pytest.raises(ConfigurationError, match="the saved state has 2 queues, the device 1"):
            other.transport.restore(state)


def test_state_with_features_that_are_not_offered_is_refused() -> None:
    memory = flat_memory()
    with place(memory) as old:
        old.driver.start(SplitDriver(memory, 8), features=1 << 32 | 1 << 1)
        state = old.transport.state()
    narrow = Counter()
    narrow.features = ()  # type: ignore[misc]

    with (
        place(memory, narrow) as new,
        pytest.raises(ConfigurationError, match="the saved driver uses features 0x100000002"),
    ):
        new.transport.restore(state)


def live_state() -> TransportState:
    """Return the state of a device with one live queue that waits."""
    memory = flat_memory()
    with place(memory) as old:
        old.driver.start(SplitDriver(memory, 8))
        return copied(old.transport.state())


def with_first(state: TransportState, saved: SavedQueue) -> TransportState:
    """Return the state with another first queue."""
    return state._replace(queues=(saved, *state.queues[1:]))


def refused(state: TransportState) -> str:
    """Return the message with which a transport refuses a state."""
    with place(flat_memory()) as new, pytest.raises(ConfigurationError) as caught:
        new.transport.restore(state)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": 256}, "status is 256, must be 0 to 255"),
        ({"status": 0x0E}, "status is 0xe, a step is missing in it"),
        ({"status": 0x07}, "status is 0x7, a step is missing in it"),
        ({"status": 0x03}, "features.frozen is True at status 0x3"),
        ({"interrupts": {"status": 4}}, "interrupt status is 4, must be 0 to 3"),
        ({"queue_select": 1 << 32}, "queue_select is 4294967296"),
        ({"device": {}}, "the device does not take its state: KeyError('driver_features')"),
        ({"device": []}, "device is [], must be dict"),
    ],
)
def test_registers_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    assert message in refused(live_state()._replace(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accepted": -1}, "features.accepted is -1, must be 0 to"),
        ({"accepted": 0}, "queue 0 has features of its own"),
        ({"device_select": 1 << 32}, "features.device_select is 4294967296"),
        ({"frozen": 1}, "features.frozen is 1, must be bool"),
        ({"frozen": False}, "features.frozen is False at status 0xf"),
    ],
)
def test_features_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    state = live_state()

    assert message in refused(state._replace(features=state.features._replace(**changes)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 4}, "queue 0 is another one than enabled"),
        ({"driver_area": 0x40}, "queue 0 is another one than enabled"),
        ({"ready": False}, "queue 0 is live, but not enabled"),
        (
            {"descriptor_area": 1 << 64},
            "queues[0].registers.descriptor_area is 184467440",
        ),
    ],
)
def test_a_queue_that_was_not_enabled_so_is_refused(changes: dict[str, Any], message: str) -> None:
    state = live_state()

    registers = state.queues[0].registers._replace(**changes)

    assert message in refused(with_first(state, state.queues[0]._replace(registers=registers)))


def test_a_live_queue_is_no_larger_than_the_device_has_it() -> None:
    state = live_state()
    queue = state.queues[0].queue
    assert queue is not None
    large = queue._replace(layout=queue.layout._replace(size=32768))
    saved = SavedQueue(state.queues[0].registers._replace(size=32768), large)

    assert "saved queue 0: size is 32768, must be 1 to" in refused(with_first(state, saved))


def test_rings_outside_of_memory_are_refused() -> None:
    state = live_state()
    queue = state.queues[0].queue
    assert queue is not None
    away = queue._replace(layout=queue.layout._replace(descriptor_area=1 << 40))
    saved = SavedQueue(state.queues[0].registers._replace(descriptor_area=1 << 40), away)

    assert "saved queue 0: SPL-04" in refused(with_first(state, saved))


def test_positions_that_cannot_be_are_refused() -> None:
    state = live_state()
    queue = state.queues[0].queue
    assert queue is not None
    saved = state.queues[0]._replace(queue=queue._replace(next_used=1000))

    assert "chains take 0 of its 8 entries" in refused(with_first(state, saved))


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("driver_features", 1 << 128, "saved driver_features is 340"),
        ("config_generation", True, "saved config_generation is True, must be int"),
        ("config", {}, "saved configuration: its fields are ''"),
        ("config", {"surprise": 1}, "saved configuration: its fields are 'surprise'"),
    ],
)
def test_a_device_state_that_cannot_be_is_refused(part: str, value: Any, message: str) -> None:
    state = live_state()

    assert message in refused(state._replace(device=state.device | {part: value}))


def fail(*arguments: object) -> bool:
    raise IndexError("position 1000")


def test_a_queue_that_cannot_be_described_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = flat_memory()
    with place(memory) as new:
        new.driver.start(SplitDriver(memory, 8))
        monkeypatch.setattr(type(new.transport.queues[0].queue), "has_available", fail)

        lines = new.transport.describe()
        new.transport._fail(ValueError("on purpose"))

        assert "device type" in lines[0]
        assert "at positions that cannot be told: IndexError('position 1000')" in lines[1]
        assert new.driver.status & 0x40


def test_a_device_that_cannot_be_described_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = flat_memory()
    with place(memory) as new:
        monkeypatch.setattr(new.transport, "_headline", fail)

        [line] = new.transport.describe()
        new.transport._fail(ValueError("on purpose"))

        assert "cannot be described: IndexError" in line
        assert new.driver.status & 0x40
