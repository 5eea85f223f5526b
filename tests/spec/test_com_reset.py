"""Device reset: from every state, completely, and nothing after it."""

from collections.abc import Callable

import pytest

from tests.spec.conftest import RigMaker
from tests.spec.devices import CHANGING, EVERY_RING, DeviceCase, Gadget
from tests.spec.rig import RING_SHARE_BYTES, SPLIT, Form, Rig
from tests.spec.threads import Crew, StuckMedium, wait_until
from virtio.block import Block
from virtio.testing import Segment

POISON = 0x5A
RING_RESET = 1 << 40
BASE_AND_EXTRA = 3


def poison_queue(rig: Rig, index: int = 0) -> bytes:
    """Overwrite rings and buffers of a queue as a driver that reuses the memory; returns it."""
    share = rig.memory.view((index + 1) * RING_SHARE_BYTES, RING_SHARE_BYTES)
    share[:] = bytes([POISON]) * RING_SHARE_BYTES
    return bytes(share)


def queue_memory(rig: Rig, index: int = 0) -> bytes:
    return bytes(rig.memory.view((index + 1) * RING_SHARE_BYTES, RING_SHARE_BYTES))


def make_dirty(rig: Rig, case: DeviceCase) -> None:
    """Leave a trace wherever a driver can."""
    rig.start(case.offer & ~(1 << 29))
    rig.driver.acknowledge(3)
    rig.request(case.queue, case.request)
    for offset, length in case.writable + case.early:
        rig.poke_config(offset, bytes(length))
    rig.driver.write(0x30, case.plain_queues - 1)
    rig.driver.write(0x14, 1)
    rig.driver.write(0x24, 7)
    rig.driver.write(0xAC, 5)


# What a reset undoes


@pytest.mark.spec("COM-21")
def test_reset_returns_everything_a_driver_can_read_to_power_on(
    device_case: DeviceCase, make_rig: RigMaker
) -> None:
    fresh, rig = make_rig(device_case.make()), make_rig(device_case.make())
    make_dirty(rig, device_case)
    assert rig.registers() != fresh.registers()

    rig.driver.status = 0

    assert rig.registers() == fresh.registers()
    assert rig.config_image(0x60) == device_case.config.ljust(0x60, b"\0")


@pytest.mark.spec("COM-21")
def test_reset_drops_accepted_features_and_queue_configuration(
    device_case: DeviceCase, make_rig: RigMaker
) -> None:
    fresh, rig = make_rig(device_case.make()), make_rig(device_case.make())
    make_dirty(rig, device_case)

    rig.driver.status = 0

    state, expected = rig.transport.state(), fresh.transport.state()
    assert state.queues == expected.queues
    assert state.features == expected.features
    assert state.device["driver_features"] == 0


@pytest.mark.spec("COM-21")
def test_reset_drops_the_accepted_features(gadget: Rig) -> None:
    gadget.start()

    gadget.driver.status = 0
    gadget.driver.status = 0x03
    gadget.driver.status = 0x0B

    assert gadget.driver.status == 0x03


@pytest.mark.spec("COM-21")
def test_reset_puts_all_selectors_to_zero(gadget: Rig) -> None:
    gadget.driver.write(0x30, 1)
    gadget.driver.write(0x14, 3)
    gadget.driver.write(0x24, 7)

    gadget.driver.status = 0

    assert gadget.driver.read(0x34) == 256
    assert gadget.driver.read(0x10) & 0xFF == 0x03
    gadget.driver.status = 0x03
    gadget.driver.write(0x20, 1 << 28)
    gadget.driver.write(0x24, 1)
    gadget.driver.write(0x20, 1)
    gadget.driver.status = 0x0B
    assert gadget.driver.status == 0x0B


@pytest.mark.spec("COM-21")
def test_reset_returns_ring_positions_to_the_start(
    device_case: DeviceCase, form: Form, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    for _ in range(5):
        rig.request(device_case.queue, device_case.request)

    rig.start(form=form)

    assert rig.request(device_case.queue, device_case.request).length == device_case.answer


@pytest.mark.spec("COM-21", "MMIO-28")
def test_reset_drops_pending_interrupts(device_case: DeviceCase, make_rig: RigMaker) -> None:
    rig = make_rig(device_case.make())
    rig.start()
    rig.request(device_case.queue, device_case.request)
    assert (rig.line.level, rig.driver.interrupt_status) == (True, 1)

    rig.driver.status = 0

    assert (rig.driver.interrupt_status, rig.line.level) == (0, False)


# Reset while the device is at work


@pytest.mark.spec("COM-22")
def test_reset_returns_only_when_slow_io_no_longer_writes(form: Form, make_rig: RigMaker) -> None:
    medium = StuckMedium()
    rig = make_rig(Block(medium, ring_features=EVERY_RING))
    rig.start(form=form)
    rig.add(0, ((bytes(16),), (512, 1)))
    poisoned = []

    def reset_and_poison() -> None:
        rig.driver.status = 0
        poisoned.append((poison_queue(rig), rig.line.edges))

    with Crew() as crew:
        crew.run(rig.serve)
        wait_until(medium.entered.is_set)
        resetting = crew.run(reset_and_poison)
        resetting.join(0.05)
        status_meanwhile, poisoned_meanwhile = rig.driver.status, list(poisoned)
        medium.let_go()

    assert status_meanwhile != 0
    assert poisoned_meanwhile == []
    assert not medium.timed_out
    assert poisoned == [(queue_memory(rig), rig.line.edges)]
    assert rig.driver.status == 0


@pytest.mark.spec("COM-22", "COM-24")
def test_chain_completed_after_reset_writes_and_signals_nothing(
    form: Form, make_rig: RigMaker
) -> None:
    device = Gadget(ring_features=EVERY_RING)
    rig = make_rig(device)
    rig.start(form=form)
    rig.add(1, ((b"x",), (64,)))
    rig.serve()
    [late] = device.held
    rig.driver.status = 0
    before = poison_queue(rig, 1)

    with Crew() as crew:
        crew.run(lambda: late.complete(late.write(b"late")))

    assert queue_memory(rig, 1) == before
    assert (rig.line.edges, rig.driver.interrupt_status) == (0, 0)


@pytest.mark.spec("COM-22")
def test_busy_device_touches_nothing_after_any_of_many_resets(
    form: Form, make_rig: RigMaker, rapid_switching: None
) -> None:
    rig = make_rig(Gadget(ring_features=EVERY_RING))
    touched = []

    with Crew() as crew:
        passes = crew.repeat(rig.serve)
        for _ in range(30):
            rig.prepare(form=form)
            ring = rig.rings[0]
            for _ in range(8):
                ring.add([b"x"])
            rig.driver.go_live()
            rig.driver.notify(0)
            rig.driver.status = 0
            before, edges = poison_queue(rig), rig.line.edges
            passes.await_more(2)
            touched.append(queue_memory(rig) != before or rig.line.edges != edges)

    assert touched == [False] * 30


# Reset from every state


def fresh(rig: Rig) -> None:
    pass


def acknowledged(rig: Rig) -> None:
    rig.reach(0x01)


def mid_negotiation(rig: Rig) -> None:
    rig.reach(0x03)
    for word in (3, 7):
        rig.driver.write(0x24, word)
        rig.driver.write(0x20, 0xFFFF_FFFF)


def refused(rig: Rig) -> None:
    assert not rig.driver.negotiate(1 << 44)


def features_settled(rig: Rig) -> None:
    rig.negotiate()


def queues_ready(rig: Rig) -> None:
    rig.prepare()


def live(rig: Rig) -> None:
    rig.start()


def requests_pending(rig: Rig) -> None:
    rig.start()
    for index in rig.rings:
        rig.add(index, ((b"\0" * 16,), (512, 1)))


def requests_served_not_collected(rig: Rig) -> None:
    requests_pending(rig)
    rig.serve()


def needing_reset(rig: Rig) -> None:
    rig.start()
    for index, ring in rig.rings.items():  # some devices take from a queue only when they need to
        ring.add_segments([Segment(1 << 40, 1, True)])
        rig.driver.notify(index)
    rig.serve()
    assert rig.driver.status == 0x4F


def needing_reset_before_driver_ok(rig: Rig) -> None:
    rig.negotiate()
    assert not rig.driver.set_up_queue(0, 8, 1 << 40, 0, 0)
    assert rig.driver.status == 0x4B


def failed(rig: Rig) -> None:
    rig.start()
    rig.driver.status = 0x8F


def failed_early(rig: Rig) -> None:
    rig.driver.status = 0x81


def queue_was_reset(rig: Rig) -> None:
    rig.start(RING_RESET)
    rig.driver.write(0x30, 0)
    rig.driver.write(0xC0, 1)


def queue_was_disabled(rig: Rig) -> None:
    rig.start()
    rig.driver.write(0x30, 0)
    rig.driver.write(0x44, 0)


STATES = (
    fresh,
    acknowledged,
    mid_negotiation,
    refused,
    features_settled,
    queues_ready,
    live,
    requests_pending,
    requests_served_not_collected,
    needing_reset,
    needing_reset_before_driver_ok,
    failed,
    failed_early,
    queue_was_reset,
    queue_was_disabled,
)


@pytest.mark.spec("COM-23")
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_device_is_reset_and_boots_from_any_state(
    device_case: DeviceCase, state: Callable[[Rig], None], form: Form, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make(ring_features=EVERY_RING))
    state(rig)

    rig.driver.status = 0

    assert rig.driver.status == 0
    assert (rig.driver.interrupt_status, rig.line.level) == (0, False)
    rig.start(form=form)
    assert rig.request(device_case.queue, device_case.request).length == device_case.answer


@pytest.mark.spec("COM-23")
def test_device_can_be_reset_while_a_queue_reset_is_under_way(make_rig: RigMaker) -> None:
    medium = StuckMedium()
    rig = make_rig(Block(medium))
    rig.start(RING_RESET)
    rig.add(0, ((bytes(16),), (512, 1)))

    with Crew() as crew:
        crew.run(rig.serve)
        wait_until(medium.entered.is_set)
        crew.run(lambda: rig.driver.write(0xC0, 1))
        wait_until(lambda: rig.driver.read(0xC0))
        crew.run(lambda: rig.driver.write(0x70, 0))
        medium.let_go()

    assert rig.driver.status == 0
    rig.start(form=SPLIT)
    assert rig.request(0, ((bytes(16),), (512, 1))).data == b"\x77" * 512 + b"\0"


# After a reset


@pytest.mark.spec("COM-24")
@pytest.mark.parametrize("status", [0x00, 0x01, 0x03, 0x0B])
@pytest.mark.parametrize("case", CHANGING, ids=lambda case: case.name)
def test_configuration_change_is_not_signalled_between_reset_and_driver_ok(
    case: DeviceCase, status: int, make_rig: RigMaker
) -> None:
    assert case.change is not None
    device = case.make()
    rig = make_rig(device)
    rig.start()
    rig.reach(status)

    case.change(device)

    assert (rig.line.edges, rig.driver.interrupt_status) == (0, 0)


@pytest.mark.spec("COM-24")
def test_notification_that_was_on_its_way_is_not_served_after_reset(
    device_case: DeviceCase, form: Form, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    rig.add(device_case.queue, device_case.request)

    rig.driver.status = 0
    before = queue_memory(rig, device_case.queue)
    rig.serve()

    assert queue_memory(rig, device_case.queue) == before
    assert rig.line.edges == 0
