"""A device whose code fails keeps its chains, where somebody says that it will be mended."""

from collections.abc import Iterator

import pytest

from transport import VirtioMmio
from transport.testing import MmioDriver, RecordingLine
from virtio.device.declaration import Device, queue
from virtio.testing import ManualLoop, SplitDriver, flat_memory
from virtio.virtqueue.chain import DescriptorChain

NEEDS_RESET = 0x40


class Faulty(Device):
    device_id = 42

    @queue(size=8)
    def requestq(self, chain: DescriptorChain) -> int:
        if bytes(chain.readable[0]) == b"bad":
            raise ArithmeticError("the author's")
        return chain.write(b"old")


class Mended(Device):
    device_id = 42

    @queue(size=8)
    def requestq(self, chain: DescriptorChain) -> int:
        return chain.write(b"new")


class Rig:
    """A live device with a driver, whose failures are heard."""

    def __init__(self, device: Device) -> None:
        self.memory = flat_memory()
        self.loop = ManualLoop()
        self.failures: list[Exception] = []
        self.line = RecordingLine()
        self.transport = self.new(device)
        self.driver = MmioDriver(self.transport)
        self.ring = SplitDriver(self.memory, 8)
        self.driver.start(self.ring)

    def new(self, device: Device) -> VirtioMmio:
        transport = VirtioMmio(device, self.memory, self.line, self.loop, name="it")
        transport.on_bug = self.hear
        return transport

    def hear(self, error: Exception) -> bool:
        self.failures.append(error)
        return True

    def request(self, *data: bytes) -> list[bytes]:
        for one in data:
            self.ring.add([one], [3])
        self.driver.notify(0)
        self.transport.service()
        return [used.data for used in self.ring.collect()]


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig(Faulty())
    with rig.transport:
        yield rig


def test_device_that_will_be_mended_is_suspended_and_needs_no_reset(rig: Rig) -> None:
    answers = rig.request(b"good", b"bad", b"good")

    assert answers == [b"old"]
    assert rig.transport.suspended
    assert rig.driver.status == 0x0F
    [error] = rig.failures
    assert error.__notes__[0].startswith("in requestq, at <DescriptorChain 2 of queue 0:")


def test_suspended_device_is_called_for_no_queue(rig: Rig) -> None:
    rig.request(b"bad")

    assert rig.request(b"good") == []
    assert len(rig.failures) == 1


def test_chain_at_which_it_failed_is_handed_to_the_device_that_takes_its_place(rig: Rig) -> None:
    rig.request(b"good", b"bad", b"good")
    state = rig.transport.state()

    with rig.new(Mended()) as mended:
        mended.restore(state)
        mended.service()

        assert [used.data for used in rig.ring.collect()] == [b"new", b"new"]
        assert not mended.suspended


def test_reset_of_the_driver_ends_the_wait(rig: Rig) -> None:
    rig.request(b"bad")

    rig.driver.start(rig.ring)

    assert not rig.transport.suspended
    assert rig.driver.status == 0x0F


def test_suspended_device_is_not_let_loose_by_a_pause_that_ends(rig: Rig) -> None:
    rig.request(b"bad")
    rig.transport.pause(paused=True)

    rig.transport.pause(paused=False)

    assert rig.request(b"good") == []


def test_device_that_is_given_up_needs_a_reset(rig: Rig) -> None:
    rig.request(b"bad")

    rig.transport.give_up(rig.failures[0])

    assert rig.driver.status == 0x0F | NEEDS_RESET
    assert not rig.transport.suspended


def test_driver_that_breaks_a_rule_is_not_waited_for(rig: Rig) -> None:
    with rig.memory.view(rig.ring.layout[2] + 2, 2) as avail_idx:
        avail_idx[:] = b"\x64\0"  # far beyond the ring
    rig.driver.notify(0)
    rig.transport.service()

    assert rig.driver.status == 0x0F | NEEDS_RESET
    assert rig.failures == []


def test_device_that_nobody_mends_needs_a_reset(rig: Rig) -> None:
    rig.transport.on_bug = lambda error: False

    rig.request(b"bad")

    assert rig.driver.status == 0x0F | NEEDS_RESET
