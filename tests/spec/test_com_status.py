"""The device status: what each bit allows, and what happens out of order."""

import pytest

from tests.spec.conftest import RigMaker
from tests.spec.devices import EVERY_RING, DeviceCase, Gadget
from tests.spec.rig import Form, Rig
from virtio.testing import Segment

NO_RAM_HERE = 1 << 40
NEEDS_RESET = 0x40
FAILED = 0x80


def packed_or_split(case: DeviceCase, make_rig: RigMaker) -> Rig:
    return make_rig(case.make(ring_features=EVERY_RING))


def break_ring(rig: Rig, index: int = 0) -> None:
    """Expose a buffer outside guest RAM, and let the device meet it."""
    rig.rings[index].add_segments([Segment(NO_RAM_HERE, 16, True)])
    rig.driver.notify(index)
    rig.serve()


@pytest.mark.spec("COM-01")
def test_status_is_zero_at_power_on(device_case: DeviceCase, make_rig: RigMaker) -> None:
    rig = make_rig(device_case.make())

    assert rig.driver.status == 0


@pytest.mark.spec("COM-01")
def test_status_is_zero_after_reset(device_case: DeviceCase, make_rig: RigMaker) -> None:
    rig = make_rig(device_case.make())
    rig.start()
    assert rig.driver.status == 0x0F

    rig.driver.status = 0

    assert rig.driver.status == 0


@pytest.mark.spec("COM-02")
def test_nothing_is_consumed_or_signalled_before_driver_ok(
    device_case: DeviceCase, form: Form, make_rig: RigMaker
) -> None:
    rig = packed_or_split(device_case, make_rig)
    rig.prepare(form=form)
    ring = rig.rings[device_case.queue]
    ring.add(*device_case.request)
    exposed = bytes(rig.memory.view(0, 4 << 20))

    rig.kick(device_case.queue)
    rig.serve()

    assert bytes(rig.memory.view(0, 4 << 20)) == exposed
    assert (rig.line.edges, rig.driver.interrupt_status) == (0, 0)


@pytest.mark.spec("COM-03")
def test_driver_ok_serves_what_was_exposed_before_it(
    device_case: DeviceCase, form: Form, make_rig: RigMaker
) -> None:
    rig = packed_or_split(device_case, make_rig)
    rig.prepare(form=form)
    ring = rig.rings[device_case.queue]
    token = ring.add(*device_case.request)

    rig.driver.go_live()
    rig.serve()

    [used] = ring.collect()
    assert (used.token, used.length) == (token, device_case.answer)


@pytest.mark.spec("COM-03")
def test_driver_ok_looks_at_every_queue(gadget: Rig) -> None:
    gadget.prepare(1 << 0 | 1 << 1)
    tokens = {index: ring.add([b"x"], [4]) for index, ring in gadget.rings.items()}

    gadget.driver.go_live()
    gadget.serve()

    device = gadget.device
    assert isinstance(device, Gadget)
    assert len(device.held) == 1
    assert [used.token for used in gadget.rings[0].collect()] == [tokens[0]]
    assert [used.token for used in gadget.rings[2].collect()] == [tokens[2]]


@pytest.mark.spec("COM-04")
def test_broken_ring_sets_needs_reset(
    device_case: DeviceCase, form: Form, make_rig: RigMaker
) -> None:
    rig = packed_or_split(device_case, make_rig)
    rig.start(form=form)

    break_ring(rig, device_case.queue)

    assert rig.driver.status == 0x0F | NEEDS_RESET


@pytest.mark.spec("COM-04")
def test_device_that_needs_a_reset_serves_no_queue(gadget: Rig) -> None:
    gadget.start()
    break_ring(gadget, 1)

    gadget.add(0, ((b"x",), (4,)))
    gadget.kick(0)
    gadget.serve()

    assert gadget.rings[0].collect() == []


@pytest.mark.spec("COM-05")
def test_needs_reset_of_a_live_device_is_a_configuration_change(
    device_case: DeviceCase, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())
    rig.start()

    break_ring(rig, device_case.queue)

    assert rig.line.level
    assert rig.driver.interrupt_status == 2


@pytest.mark.spec("COM-05")
def test_needs_reset_before_driver_ok_is_not_signalled(
    device_case: DeviceCase, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())
    rig.negotiate()

    assert not rig.driver.set_up_queue(0, 8, NO_RAM_HERE, 0x1000, 0x2000)

    assert rig.driver.status == 0x0B | NEEDS_RESET
    assert (rig.line.edges, rig.driver.interrupt_status) == (0, 0)


@pytest.mark.spec("COM-06")
@pytest.mark.parametrize("value", [0x01, 0x02, 0x03, 0x04, 0x08, 0x0B])
def test_status_bits_are_not_cleared_one_by_one(gadget: Rig, value: int) -> None:
    gadget.start()

    gadget.driver.status = value

    assert gadget.driver.status == 0x0F
    assert gadget.request(0, ((b"on",), (2,))).data == b"on"


@pytest.mark.spec("COM-07")
@pytest.mark.parametrize("bits", [0x20, 0x40, 0x60, 0x100, 0x8000_0000, 0xFFFF_FF60])
@pytest.mark.parametrize("status", [0x00, 0x03, 0x0B, 0x0F])
def test_driver_cannot_set_needs_reset_or_undefined_bits(
    gadget: Rig, status: int, bits: int
) -> None:
    gadget.reach(status)

    gadget.driver.status = status | bits

    assert gadget.driver.status == status


@pytest.mark.spec("COM-07")
def test_echoed_needs_reset_is_harmless(gadget: Rig) -> None:
    gadget.start()
    break_ring(gadget)

    gadget.driver.status = 0x0F | NEEDS_RESET

    assert gadget.driver.status == 0x0F | NEEDS_RESET
    gadget.start()
    assert gadget.request(0, ((b"on",), (2,))).data == b"on"


@pytest.mark.spec("COM-08")
@pytest.mark.parametrize(
    "order",
    [
        (0x04,),
        (0x0F,),
        (0x01, 0x05),
        (0x01, 0x03, 0x07),
        (0x01, 0x03, 0x07, 0x0F),
        (0x02, 0x06),
        (0x01, 0x09, 0x0D),
        (0x08, 0x0C),
    ],
    ids=lambda order: "-".join(f"{value:x}" for value in order),
)
def test_device_does_not_go_live_on_an_illegal_order(gadget: Rig, order: tuple[int, ...]) -> None:
    ring = gadget.add_ring(0)
    for value in order:
        gadget.driver.status = value
    enabled = gadget.driver.set_up_queue(0, *ring.layout)

    ring.add([b"x"], [4])
    gadget.kick(0)
    gadget.serve()

    assert not enabled
    assert gadget.driver.status & 0x0C == 0
    assert ring.collect() == []
    assert gadget.line.edges == 0


@pytest.mark.spec("COM-08")
def test_features_ok_needs_driver(gadget: Rig) -> None:
    gadget.driver.status = 0x01
    gadget.driver.accept_features(1 << 32)

    gadget.driver.status = 0x09

    assert gadget.driver.status == 0x01


@pytest.mark.spec("COM-09")
def test_failed_device_serves_no_queue_until_reset(
    device_case: DeviceCase, form: Form, make_rig: RigMaker
) -> None:
    rig = packed_or_split(device_case, make_rig)
    rig.start(form=form)
    rig.driver.status = 0x0F | FAILED

    rig.add(device_case.queue, device_case.request)
    rig.kick(device_case.queue)
    rig.serve()

    assert rig.driver.status == 0x0F | FAILED
    assert rig.rings[device_case.queue].collect() == []
    assert rig.line.edges == 0
    rig.start(form=form)
    assert rig.request(device_case.queue, device_case.request).length == device_case.answer


@pytest.mark.spec("COM-09")
def test_failed_device_does_not_go_live(gadget: Rig) -> None:
    gadget.prepare()
    gadget.driver.status = 0x0B | FAILED

    gadget.driver.go_live()
    gadget.add(0, ((b"x",), (4,)))
    gadget.serve()

    assert gadget.driver.status == 0x0B | FAILED
    assert gadget.rings[0].collect() == []


@pytest.mark.spec("COM-32", "COM-33")
def test_suspend_is_neither_offered_nor_accepted(
    device_case: DeviceCase, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())

    assert rig.driver.offered_features() >> 43 & 1 == 0
    assert not rig.driver.negotiate(1 << 32 | 1 << 43)


@pytest.mark.spec("COM-32")
@pytest.mark.parametrize("before", [0x00, 0x01, 0x03, 0x0B, 0x0F])
def test_suspend_bit_is_ignored(gadget: Rig, before: int) -> None:
    gadget.reach(before)

    gadget.driver.status = before | 0x10

    assert gadget.driver.status == before


@pytest.mark.spec("COM-32", "COM-33")
def test_live_device_runs_on_when_told_to_suspend(
    device_case: DeviceCase, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())
    rig.start()

    rig.driver.status = 0x1F

    assert rig.driver.status == 0x0F
    assert rig.request(device_case.queue, device_case.request).length == device_case.answer
