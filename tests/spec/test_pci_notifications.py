"""Notifications of a virtio function: the driver's by address, the device's by ISR and line."""

import pytest

from tests.spec.conftest import PciRigMaker
from tests.spec.devices import EVERY_RING, DeviceCase, Gadget
from tests.spec.pci import PciRig, make_bus
from tests.spec.rig import Form
from tests.spec.threads import Crew, StuckMedium, wait_until
from transport.pci.shared_line import SharedLine
from transport.testing import RecordingLine
from virtio.block import Block

NOTIFICATION_DATA, NOTIF_CONFIG_DATA = 1 << 38, 1 << 39
EVENT_IDX = 1 << 29
NO_VECTOR = 0xFFFF
HELLO = ((b"hello",), (5,))
READ_SECTOR = ((bytes(16),), (512, 1))
MEMORY, MASTER, INTX_DISABLE = 0x2, 0x4, 0x400
NOTIFY, ISR = 2, 3


def change(rig: PciRig) -> None:
    """Cause a configuration interrupt of a gadget."""
    assert isinstance(rig.device, Gadget)
    rig.device.counter += 1


def interrupt_status(rig: PciRig) -> int:
    """Return bit 3 of Status."""
    return rig.pci.config(0x06, 2) >> 3 & 1


def await_no_level(rig: PciRig) -> None:
    """Wait until somebody has read ISR."""
    wait_until(lambda: not rig.line.level)


# From the driver


@pytest.mark.spec("PCI-39")
def test_every_queue_has_an_address_inside_the_structure(
    device_case: DeviceCase, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.negotiate(rig.pci.offered_features())
    structure = rig.pci.structures[NOTIFY]
    multiplier = int.from_bytes(structure.more, "little")
    places = [rig.pci.notify_offset(index) for index in range(rig.pci.queue_count)]

    assert multiplier % 4 == 0
    assert multiplier & (multiplier - 1) == 0
    assert max(places) + 4 <= structure.length
    assert len(set(places)) == len(places)


@pytest.mark.spec("PCI-40")
@pytest.mark.parametrize("value", [0, 1, 7, 0x8000, 0xFFFF])
def test_address_names_the_queue_whatever_is_written(
    device_case: DeviceCase, form: Form, value: int, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    ring = rig.rings[device_case.queue]
    token = ring.add(*device_case.request)

    rig.pci.write_structure(NOTIFY, rig.pci.notify_offset(device_case.queue), value, 2)
    rig.serve()

    assert [used.token for used in ring.collect()] == [token]


@pytest.mark.spec("PCI-40")
@pytest.mark.parametrize("upper", [0x0000, 0x0005, 0x7FFF, 0x8003, 0xFFFF])
def test_position_in_a_notification_is_only_a_hint(
    device_case: DeviceCase, form: Form, upper: int, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(NOTIFICATION_DATA, form)
    ring = rig.rings[device_case.queue]
    token = ring.add(*device_case.request)

    place = rig.pci.notify_offset(device_case.queue)
    rig.pci.write_structure(NOTIFY, place, device_case.queue | upper << 16, 4)
    rig.serve()

    assert [used.token for used in ring.collect()] == [token]


@pytest.mark.spec("PCI-40")
@pytest.mark.parametrize("width", [1, 3, 8])
def test_notifications_of_other_widths_do_no_harm(pci_gadget: PciRig, width: int) -> None:
    pci_gadget.start()
    token = pci_gadget.rings[0].add(*HELLO)

    for offset in range(12):
        pci_gadget.write_bar(0x3000 + offset, b"\xff" * width)
    pci_gadget.serve()

    assert [used.token for used in pci_gadget.rings[0].collect()] in ([], [token])
    assert pci_gadget.pci.status == 0x0F


@pytest.mark.spec("PCI-41")
def test_configuration_data_of_notifications_is_not_offered(
    device_case: DeviceCase, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    shown = []
    for index in range(rig.pci.queue_count):
        rig.pci.select(index)
        shown.append(rig.pci.common(0x38, 2))

    assert rig.pci.offered_features() & NOTIF_CONFIG_DATA == 0
    assert shown == [0] * rig.pci.queue_count
    assert not rig.pci.negotiate(1 << 32 | NOTIF_CONFIG_DATA)


@pytest.mark.spec("PCI-42")
@pytest.mark.parametrize("status", [0x00, 0x01, 0x03, 0x0B])
def test_notification_before_driver_ok_is_dropped_and_not_needed(
    device_case: DeviceCase, form: Form, status: int, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.reach(status)
    for index in range(rig.pci.queue_count):
        rig.kick(index)
    rig.serve()
    assert (rig.pci.status, rig.line.level) == (status, False)
    rig.prepare(form=form)
    token = rig.rings[device_case.queue].add(*device_case.request)
    rig.kick(device_case.queue)

    rig.pci.go_live()
    rig.serve()

    assert [used.token for used in rig.rings[device_case.queue].collect()] == [token]


@pytest.mark.spec("PCI-42")
def test_notification_of_a_missing_queue_is_dropped(pci_gadget: PciRig) -> None:
    pci_gadget.start()
    for ring in pci_gadget.rings.values():
        ring.add(*HELLO)

    for place in (*range(8, 0x1000, 4), 2, 6):
        pci_gadget.pci.write_structure(NOTIFY, place, 0, 2)
    pci_gadget.serve()

    assert [ring.collect() for ring in pci_gadget.rings.values()] == [[], []]
    assert pci_gadget.pci.status == 0x0F


@pytest.mark.spec("PCI-42")
def test_early_kick_is_made_good_when_bus_master_comes(pci_gadget: PciRig) -> None:
    pci_gadget.start()
    pci_gadget.pci.command = MEMORY
    token = pci_gadget.add(0, HELLO)
    pci_gadget.serve()

    pci_gadget.pci.command = MEMORY | MASTER
    pci_gadget.serve()

    assert [used.token for used in pci_gadget.rings[0].collect()] == [token]


@pytest.mark.spec("PCI-43")
def test_notification_returns_while_the_io_is_under_way(make_pci_rig: PciRigMaker) -> None:
    medium = StuckMedium()
    rig = make_pci_rig(Block(medium))
    rig.start()

    with Crew() as crew:
        rig.add(0, READ_SECTOR)
        crew.run(rig.serve)
        wait_until(medium.entered.is_set)
        rig.add(0, READ_SECTOR)
        before = rig.rings[0].collect()
        medium.let_go()
    rig.serve()

    assert before == []
    assert not medium.timed_out
    assert len(rig.rings[0].collect()) == 2


@pytest.mark.spec("PCI-43")
def test_reading_the_notification_area_has_no_effect(pci_gadget: PciRig) -> None:
    pci_gadget.start()
    pci_gadget.rings[0].add(*HELLO)

    reads = [pci_gadget.pci.read_structure(NOTIFY, 0, width) for width in (1, 2, 4, 8)]
    pci_gadget.serve()

    assert reads == [0] * 4
    assert pci_gadget.rings[0].collect() == []


# ISR and line


@pytest.mark.spec("PCI-44")
def test_reading_isr_clears_it_and_lets_the_line_fall(
    device_case: DeviceCase, form: Form, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    rig.request(device_case.queue, device_case.request)
    level = rig.line.level

    reads = [rig.pci.isr, rig.pci.isr]

    assert level
    assert reads == [1, 0]
    assert not rig.line.level


@pytest.mark.spec("PCI-44")
@pytest.mark.parametrize("width", [1, 2, 4])
def test_isr_may_be_read_in_any_width(pci_gadget: PciRig, width: int) -> None:
    pci_gadget.start()
    change(pci_gadget)

    assert pci_gadget.pci.read_structure(ISR, 0, width) == 2
    assert pci_gadget.pci.read_structure(ISR, 0, width) == 0


@pytest.mark.spec("PCI-44")
@pytest.mark.parametrize("value", [0, 1, 0xFF])
def test_writing_isr_has_no_effect(pci_gadget: PciRig, value: int) -> None:
    pci_gadget.start()
    change(pci_gadget)

    pci_gadget.pci.write_structure(ISR, 0, value, 1)

    assert pci_gadget.line.level
    assert pci_gadget.pci.isr == 2


@pytest.mark.spec("PCI-44")
def test_event_that_races_with_a_read_is_seen_once(
    pci_gadget: PciRig, rapid_switching: None
) -> None:
    pci_gadget.start()
    interrupts = pci_gadget.transport.interrupts
    seen = []

    with Crew() as crew:
        reader = crew.repeat(lambda: seen.append(pci_gadget.pci.isr))
        for _ in range(300):
            interrupts.config()
            await_no_level(pci_gadget)
        reader.await_more(2)

    assert set(seen) == {0, 2}
    assert seen.count(2) == 300


@pytest.mark.spec("PCI-45")
def test_bits_without_msix(pci_gadget: PciRig) -> None:
    pci_gadget.start()
    pci_gadget.request(0, HELLO)
    used = pci_gadget.pci.isr
    change(pci_gadget)
    changed = pci_gadget.pci.isr
    pci_gadget.request(0, HELLO)
    change(pci_gadget)

    assert (used, changed, pci_gadget.pci.isr) == (1, 2, 3)


@pytest.mark.spec("PCI-45")
def test_bits_with_msix(pci_gadget: PciRig) -> None:
    pci_gadget.start_with_msix()
    pci_gadget.request(0, HELLO)
    used = pci_gadget.pci.isr

    change(pci_gadget)

    assert (used, pci_gadget.pci.isr) == (0, 2)
    assert pci_gadget.messages.vectors == [1, 0]


@pytest.mark.spec("PCI-45")
def test_bit_is_set_before_the_message(pci_gadget: PciRig) -> None:
    pci_gadget.start_with_msix()
    seen: list[int] = []
    interrupts = pci_gadget.window.msix

    def look(vector: int, address: int, data: int) -> None:
        seen.append(interrupts.isr)

    pci_gadget.messages.send = look  # type: ignore[method-assign]
    change(pci_gadget)

    assert seen == [2]


@pytest.mark.spec("PCI-45")
@pytest.mark.parametrize("features", [0, EVENT_IDX], ids=["flags", "event-idx"])
def test_suppressed_notification_sets_no_bit(
    device_case: DeviceCase, form: Form, features: int, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(features, form)
    rig.rings[device_case.queue].suppress_interrupts()

    rig.request(device_case.queue, device_case.request)

    assert (rig.pci.isr, rig.line.edges) == (0, 0)


@pytest.mark.spec("PCI-46")
def test_disable_bit_holds_the_line_and_not_the_status(pci_gadget: PciRig) -> None:
    pci_gadget.start()
    pci_gadget.pci.command = MEMORY | MASTER | INTX_DISABLE
    change(pci_gadget)
    held = (pci_gadget.line.level, interrupt_status(pci_gadget))

    pci_gadget.pci.command = MEMORY | MASTER
    released = pci_gadget.line.level
    pci_gadget.pci.command = MEMORY | MASTER | INTX_DISABLE
    again = pci_gadget.line.level

    assert held == (False, 1)
    assert (released, again) == (True, False)
    assert pci_gadget.pci.isr == 2
    assert interrupt_status(pci_gadget) == 0


@pytest.mark.spec("PCI-46")
def test_status_bit_follows_isr(device_case: DeviceCase, make_pci_rig: PciRigMaker) -> None:
    rig = make_pci_rig(device_case.make())
    rig.start()
    before = interrupt_status(rig)
    rig.request(device_case.queue, device_case.request)
    pending = interrupt_status(rig)
    rig.pci.isr  # noqa: B018 - reading it clears it

    assert (before, pending, interrupt_status(rig)) == (0, 1, 0)


@pytest.mark.spec("PCI-47")
def test_line_is_low_while_msix_is_on(pci_gadget: PciRig) -> None:
    pci_gadget.start()
    change(pci_gadget)
    pci_gadget.request(0, HELLO)
    assert pci_gadget.line.level

    pci_gadget.pci.switch_msix()
    on = (pci_gadget.line.level, interrupt_status(pci_gadget))
    change(pci_gadget)
    pci_gadget.request(0, HELLO)
    event = pci_gadget.line.level
    pci_gadget.pci.switch_msix(enabled=False)

    assert (on, event) == ((False, 0), False)
    assert (pci_gadget.line.level, interrupt_status(pci_gadget)) == (True, 1)
    assert pci_gadget.pci.isr == 3


@pytest.mark.spec("PCI-47")
def test_reset_lets_the_line_fall(device_case: DeviceCase, make_pci_rig: PciRigMaker) -> None:
    rig = make_pci_rig(device_case.make())
    rig.start()
    rig.request(device_case.queue, device_case.request)

    rig.pci.status = 0

    assert (rig.line.level, rig.pci.isr) == (False, 0)


@pytest.mark.spec("PCI-48")
def test_shared_line_is_up_while_one_function_has_it_up(make_pci_rig: PciRigMaker) -> None:
    wire = RecordingLine()
    shared = SharedLine(wire)
    bus = make_bus()
    rigs = [make_pci_rig(Gadget(), bus=bus, line=shared.tap()) for _ in range(2)]
    levels = []
    for rig in rigs:
        rig.start()
        change(rig)
        change(rig)
        levels.append(wire.level)

    for rig in rigs:
        rig.pci.isr  # noqa: B018 - reading it clears it
        levels.append(wire.level)

    assert levels == [True, True, True, False]
    assert (wire.edges, wire.falls) == (1, 1)
