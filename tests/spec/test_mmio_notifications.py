"""Notifications both ways: QueueNotify, the interrupt status and the line behind it."""

import pytest

from tests.spec.conftest import RigMaker
from tests.spec.devices import EVERY_RING, DeviceCase, Gadget
from tests.spec.rig import Form, Rig
from tests.spec.threads import Crew, StuckMedium, wait_until
from virtio.block import Block

EVENT_IDX = 1 << 29
NOTIFICATION_DATA = 1 << 38
HELLO = ((b"hello",), (5,))


def raise_both(rig: Rig) -> Gadget:
    """Cause a used buffer and a configuration interrupt on a live gadget."""
    assert isinstance(rig.device, Gadget)
    rig.request(0, HELLO)
    rig.device.counter += 1
    return rig.device


# From the driver


@pytest.mark.spec("MMIO-18")
@pytest.mark.parametrize("value", [2, 3, 0xFF, 0xFFFF, 0x1_0000, 0x8000_0000, 0xFFFF_FFFF])
def test_notification_of_a_missing_queue_is_dropped(gadget: Rig, value: int) -> None:
    gadget.start()
    for ring in gadget.rings.values():
        ring.add(*HELLO)

    gadget.driver.write(0x50, value)
    gadget.serve()

    assert [ring.collect() for ring in gadget.rings.values()] == [[], []]
    assert gadget.driver.status == 0x0F


@pytest.mark.spec("MMIO-18")
def test_notification_of_a_queue_that_is_not_ready_is_dropped(gadget: Rig) -> None:
    gadget.negotiate()
    ring = gadget.add_ring(0)
    gadget.driver.go_live()
    ring.add(*HELLO)

    gadget.kick(0)
    gadget.serve()

    assert ring.collect() == []
    assert (gadget.driver.status, gadget.line.edges) == (0x0F, 0)


@pytest.mark.spec("MMIO-18")
@pytest.mark.parametrize("status", [0x00, 0x01, 0x03, 0x0B])
def test_notification_before_driver_ok_is_dropped(
    device_case: DeviceCase, status: int, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())
    rig.reach(status)

    rig.driver.notify(0xFFFF)
    rig.kick(0)
    rig.serve()

    assert (rig.driver.status, rig.line.edges) == (status, 0)
    rig.start()
    assert rig.request(device_case.queue, device_case.request).length == device_case.answer


@pytest.mark.spec("MMIO-19")
@pytest.mark.parametrize("upper", [0x0000, 0x0001, 0x0005, 0x7FFF, 0x8000, 0x8003, 0xFFFF])
def test_position_in_a_notification_is_only_a_hint(
    device_case: DeviceCase, form: Form, upper: int, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(NOTIFICATION_DATA, form)
    ring = rig.rings[device_case.queue]
    token = ring.add(*device_case.request)

    rig.driver.write(0x50, device_case.queue | upper << 16)
    rig.serve()

    assert [used.token for used in ring.collect()] == [token]


@pytest.mark.spec("MMIO-19")
def test_whole_value_is_the_queue_without_notification_data(
    device_case: DeviceCase, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make(ring_features=EVERY_RING))
    rig.start()
    ring = rig.rings[device_case.queue]
    ring.add(*device_case.request)

    rig.driver.write(0x50, device_case.queue | 1 << 16)
    rig.serve()

    assert ring.collect() == []


@pytest.mark.spec("MMIO-20")
def test_notification_returns_while_the_io_is_under_way(make_rig: RigMaker) -> None:
    medium = StuckMedium()
    rig = make_rig(Block(medium))
    rig.start()

    with Crew() as crew:
        rig.add(0, ((bytes(16),), (512, 1)))
        crew.run(rig.serve)
        wait_until(medium.entered.is_set)
        rig.add(0, ((bytes(16),), (512, 1)))
        before = rig.rings[0].collect()
        medium.let_go()
    rig.serve()

    assert before == []
    assert not medium.timed_out
    assert len(rig.rings[0].collect()) == 2


# To the driver: the status


@pytest.mark.spec("MMIO-21")
def test_no_bit_is_set_on_an_idle_device(device_case: DeviceCase, make_rig: RigMaker) -> None:
    rig = make_rig(device_case.make())

    rig.start()

    assert (rig.driver.interrupt_status, rig.line.edges) == (0, 0)


@pytest.mark.spec("MMIO-21")
def test_used_buffer_sets_bit_0_alone(
    device_case: DeviceCase, form: Form, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)

    rig.request(device_case.queue, device_case.request)

    assert rig.driver.interrupt_status == 1


@pytest.mark.spec("MMIO-21")
def test_both_events_set_both_bits_in_either_order(gadget: Rig) -> None:
    gadget.start()
    device = raise_both(gadget)
    first = gadget.driver.interrupt_status
    gadget.driver.acknowledge(3)

    device.counter += 1
    gadget.request(0, HELLO)

    assert (first, gadget.driver.interrupt_status) == (3, 3)


@pytest.mark.spec("MMIO-21", "MMIO-22")
def test_bits_and_line_stay_however_often_they_are_read(gadget: Rig) -> None:
    gadget.start()
    raise_both(gadget)

    reads = [gadget.driver.interrupt_status for _ in range(10)]

    assert reads == [3] * 10
    assert gadget.line.level


@pytest.mark.spec("MMIO-23")
@pytest.mark.parametrize(
    ("acknowledged", "left"),
    [(0, 3), (1, 2), (2, 1), (3, 0), (0xFFFF_FFFC, 3), (0xFFFF_FFFD, 2), (0xFFFF_FFFF, 0)],
)
def test_acknowledgement_clears_exactly_its_bits(gadget: Rig, acknowledged: int, left: int) -> None:
    gadget.start()
    raise_both(gadget)

    gadget.driver.acknowledge(acknowledged)

    assert gadget.driver.interrupt_status == left


@pytest.mark.spec("MMIO-23")
def test_acknowledging_what_is_not_set_does_nothing(gadget: Rig) -> None:
    gadget.start()

    gadget.driver.acknowledge(3)
    gadget.request(0, HELLO)

    assert (gadget.driver.interrupt_status, gadget.line.level) == (1, True)


@pytest.mark.spec("MMIO-24")
@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_line_stays_up_until_the_last_bit_is_acknowledged(
    gadget: Rig, first: int, second: int
) -> None:
    gadget.start()
    raise_both(gadget)

    gadget.driver.acknowledge(first)
    level_between = gadget.line.level
    gadget.driver.acknowledge(second)

    assert (level_between, gadget.line.level) == (True, False)


@pytest.mark.spec("MMIO-25")
def test_each_event_is_an_edge_also_when_the_bit_is_set(gadget: Rig) -> None:
    gadget.start()
    edges = []

    for _ in range(3):
        raise_both(gadget)
        edges.append(gadget.line.edges)

    assert edges == [2, 4, 6]


@pytest.mark.spec("MMIO-25")
def test_event_between_reading_and_acknowledging_has_an_edge_of_its_own(gadget: Rig) -> None:
    gadget.start()
    gadget.request(0, HELLO)
    status = gadget.driver.interrupt_status
    edges = gadget.line.edges

    gadget.add(0, HELLO)
    gadget.serve()
    gadget.driver.acknowledge(status)

    assert gadget.line.edges == edges + 1
    assert [used.data for used in gadget.rings[0].collect()] == [b"hello"]


@pytest.mark.spec("MMIO-26")
def test_used_buffer_is_visible_when_its_interrupt_comes(
    device_case: DeviceCase, form: Form, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    seen: list[tuple[int, int]] = []

    def look() -> None:
        [used] = rig.rings[device_case.queue].collect()
        seen.append((used.length, rig.driver.interrupt_status))

    rig.line.raise_ = look  # type: ignore[method-assign]
    rig.add(device_case.queue, device_case.request)
    rig.serve()

    assert seen == [(device_case.answer, 1)]


@pytest.mark.spec("MMIO-27")
@pytest.mark.parametrize("features", [0, EVENT_IDX], ids=["flags", "event-idx"])
def test_suppressed_notification_sets_no_bit(
    device_case: DeviceCase, form: Form, features: int, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(features, form)
    rig.rings[device_case.queue].suppress_interrupts()

    used = rig.request(device_case.queue, device_case.request)

    assert used.length == device_case.answer
    assert (rig.driver.interrupt_status, rig.line.edges) == (0, 0)


@pytest.mark.spec("MMIO-27")
def test_configuration_change_is_signalled_although_used_buffers_are_not(gadget: Rig) -> None:
    gadget.start()
    gadget.rings[0].suppress_interrupts()

    raise_both(gadget)

    assert gadget.driver.interrupt_status == 2


@pytest.mark.spec("MMIO-28")
def test_reset_clears_status_line_and_every_ready(
    device_case: DeviceCase, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())
    rig.start(device_case.offer & ~EVENT_IDX)
    rig.request(device_case.queue, device_case.request)
    queues = range(len(device_case.queue_sizes))
    assert rig.line.level

    rig.driver.status = 0

    assert (rig.driver.interrupt_status, rig.line.level) == (0, False)
    ready = []
    for index in queues:
        rig.driver.write(0x30, index)
        ready.append(rig.driver.read(0x44))
    assert ready == [0] * len(queues)


@pytest.mark.spec("MMIO-28")
def test_ready_is_cleared_for_queues_that_only_exist_with_features_too(gadget: Rig) -> None:
    gadget.start(0x3)

    gadget.driver.status = 0
    gadget.negotiate(0x3)
    gadget.driver.write(0x30, 2)

    assert (gadget.driver.read(0x34), gadget.driver.read(0x44)) == (16, 0)
