"""Saving a transport as a value, and going on from it elsewhere."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from transport import TransportState, VirtioMmio
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
