"""The device that takes another's place gets what happened to that one, and only that."""

from collections.abc import Iterator

import pytest

from transport import VirtioMmio
from transport.testing import MmioDriver, RecordingLine
from virtio.device.configuration import feature
from virtio.device.declaration import Device, field, queue
from virtio.testing import ManualLoop, SplitDriver, flat_memory
from virtio.virtqueue.chain import DescriptorChain
from vmm.authoring.carrying import carried, misfit, state_of


class Dice(Device):
    device_id = 42
    sides = field("u32", 0, default=6)
    rolls = field("u32", 4, default=0)
    fast = feature(3)

    @queue(size=8)
    def requestq(self, chain: DescriptorChain) -> int:
        return chain.write(b"6")


class EightSides(Dice):
    sides = field("u32", 0, default=8)


class OtherType(Dice):
    device_id = 43


class MoreQueues(Dice):
    @queue(size=8)
    def eventq(self, chain: DescriptorChain) -> int:
        return 0


class Plain(Device):
    device_id = 42

    @queue(size=8)
    def requestq(self, chain: DescriptorChain) -> int:
        return chain.write(b"6")


@pytest.fixture
def transport() -> Iterator[VirtioMmio]:
    """Return a transport with a Dice whose driver took its feature."""
    memory = flat_memory()
    with VirtioMmio(Dice(), memory, RecordingLine(), ManualLoop(), name="dice0") as transport:
        MmioDriver(transport).start(SplitDriver(memory, 8), features=1 << 32 | 1 << 3)
        yield transport


def test_field_that_was_assigned_is_carried_and_a_new_default_counts() -> None:
    old = Dice()
    at_first = state_of(old)
    old.assign("rolls", 9)

    new = EightSides()
    new.restore(carried(state_of(old), at_first, state_of(new)))

    assert (new.sides, new.rolls) == (8, 9)


def test_state_that_is_changed_later_is_none_of_what_was_taken() -> None:
    class Recorder(Device):
        device_id = 42

        def __init__(self) -> None:
            super().__init__()
            self.seen: list[int] = []

        def state(self) -> dict[str, object]:
            return super().state() | {"seen": self.seen}

    device = Recorder()
    at_first = state_of(device)
    device.seen.append(1)

    found = carried(state_of(device), at_first, state_of(Recorder()))

    assert found["seen"] == [1]


def test_parts_of_which_nothing_is_known_are_carried_where_the_new_one_has_them() -> None:
    assert carried({"a": 1, "b": 2}, {}, {"a": 0}) == {"a": 1}


def test_device_of_the_same_shape_fits(transport: VirtioMmio) -> None:
    assert misfit(transport, EightSides()) == ""


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (OtherType, "device_id 43 in place of 42"),
        (MoreQueues, "2 queues in place of 1"),
        (Plain, "does not offer the features any more that its driver took: 0x100000008"),
    ],
)
def test_device_of_another_shape_does_not_fit(
    transport: VirtioMmio, new: type[Device], why: str
) -> None:
    assert why in misfit(transport, new())
