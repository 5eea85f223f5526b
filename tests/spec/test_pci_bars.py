"""BARs and the Command register: where a function answers, and what it may reach for."""

import logging

import pytest

from tests.spec.conftest import PciRigMaker
from tests.spec.devices import EVERY_RING, DeviceCase, Gadget
from tests.spec.pci import HIGH_WINDOW, LOW_WINDOW, PciRig, make_bus
from tests.spec.rig import RING_SHARE_BYTES, Form
from tests.spec.threads import Crew, StuckMedium, wait_until
from virtio.block import Block
from vmm.x86 import layout
from vmm.x86.limits import MAX_MEMORY_BYTES

SIZE = 0x8000
HELLO = ((b"hello",), (5,))
MEMORY, MASTER = 0x2, 0x4
ELSEWHERE = 0xD000_0000
FAR = 0x50_0000_0000

# RAM, the MMIO windows, ECAM, IOAPIC, local APIC, nothing, RAM again, above what a processor has.
ODD_PLACES = [
    *(0, 0x10_0000, 0xC000_0000, 0xEEC0_0000, 0xFEC0_0000, 0xFEE0_0000, 0xFFFF_8000),
    *(0x1_0000_0000, 0x80_0000_0000, 1 << 52, (1 << 64) - SIZE),
]


def window_of(rig: PciRig) -> list[int]:
    """Return the places where the function is seen."""
    return [start for start, _ in rig.bus.claims()]


def queue_memory(rig: PciRig, index: int = 0) -> bytes:
    return bytes(rig.memory.view((index + 1) * RING_SHARE_BYTES, RING_SHARE_BYTES))


@pytest.mark.spec("PCI-15")
def test_each_half_of_a_bar_is_sized_alone(
    device_case: DeviceCase, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make())
    pci, read = rig.pci, rig.pci.config
    pci.command = 0
    before = (read(0x10), read(0x14))
    sizes = []
    for half in (0x10, 0x14):
        pci.set_config(half, 0xFFFF_FFFF)
        sizes.append(read(half))
        pci.set_config(half, before[(half - 0x10) // 4])
    pci.command = MEMORY | MASTER

    assert sizes == [0xFFFF_8004, 0xFFFF_FFFF]
    assert (read(0x10), read(0x14)) == before
    rig.start()
    assert rig.request(device_case.queue, device_case.request).length == device_case.answer


@pytest.mark.spec("PCI-15")
def test_other_bars_are_not_there(pci_gadget: PciRig) -> None:
    for offset in (0x18, 0x1C, 0x20, 0x24, 0x30):
        pci_gadget.pci.set_config(offset, 0xFFFF_FFFF)

    assert [pci_gadget.pci.config(at) for at in (0x18, 0x1C, 0x20, 0x24, 0x30)] == [0] * 5


@pytest.mark.spec("PCI-16")
def test_nothing_answers_without_memory_space(
    device_case: DeviceCase, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make())
    rig.start()
    state = rig.transport.state()

    rig.pci.command = MASTER

    places = range(0, SIZE, 0x400)
    assert [rig.read_bar(at, 4) for at in places] == [b"\xff" * 4] * len(places)
    assert rig.notifications.attached == {}
    for at in range(0x40):
        rig.write_bar(at, b"\0")
    for at in (0x3000, 0x4000, 0x400C):
        rig.write_bar(at, bytes(4))
    assert rig.transport.state() == state
    rig.pci.command = MEMORY | MASTER
    assert rig.request(device_case.queue, device_case.request).length == device_case.answer


@pytest.mark.spec("PCI-15")
@pytest.mark.parametrize("odd", [0x1, 0x2, 0x8, 0xF, 0x10, 0x1234, 0x4000, 0x7FFF], ids=hex)
def test_odd_address_counts_down_to_a_multiple_of_the_size(pci_gadget: PciRig, odd: int) -> None:
    pci_gadget.start()
    pci_gadget.pci.command = 0

    pci_gadget.pci.set_config(0x10, ELSEWHERE | odd)
    pci_gadget.pci.set_config(0x14, 0)
    pci_gadget.pci.command = MEMORY | MASTER

    assert pci_gadget.pci.config(0x10) == ELSEWHERE | 4
    assert window_of(pci_gadget) == [ELSEWHERE]
    pci_gadget.pci.base = ELSEWHERE
    assert pci_gadget.request(0, HELLO).data == b"hello"


@pytest.mark.spec("PCI-16")
def test_request_under_way_is_completed_while_memory_space_is_off(
    make_pci_rig: PciRigMaker,
) -> None:
    medium = StuckMedium()
    rig = make_pci_rig(Block(medium))
    rig.start_with_msix()
    with Crew() as crew:
        token = rig.add(0, ((bytes(16),), (512, 1)))
        crew.run(rig.serve)
        wait_until(medium.entered.is_set)
        rig.pci.command = MASTER
        medium.let_go()

    rig.loop.advance()
    assert [used.token for used in rig.rings[0].collect()] == [token]
    assert rig.messages.vectors == [1]
    rig.pci.command = MEMORY | MASTER
    assert rig.request(0, ((bytes(16),), (512, 1))).length == 513


@pytest.mark.spec("PCI-17")
@pytest.mark.parametrize("place", [ELSEWHERE, FAR])
def test_bar_moves_under_a_working_device(
    device_case: DeviceCase, form: Form, place: int, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    rig.use_msix()
    old = rig.pci.base
    rig.pci.mask(device_case.queue + 1)
    rig.request(device_case.queue, device_case.request)
    assert rig.pci.pending == 1 << device_case.queue + 1

    rig.switch_on(place)

    assert rig.bus.read(old, 4) == b"\xff" * 4
    assert window_of(rig) == [place]
    assert rig.pci.status == 0x0F
    assert rig.pci.pending == 1 << device_case.queue + 1
    fds = [fd for _, fd in sorted(rig.notifications.attached.items())]
    assert min(rig.notifications.attached) == place + rig.pci.structures[2].offset
    assert fds == rig.transport.notify_fds
    assert rig.request(device_case.queue, device_case.request).length == device_case.answer


@pytest.mark.spec("PCI-18")
@pytest.mark.parametrize("halves", [(0x10, 0x14), (0x14, 0x10)], ids=["low-first", "high-first"])
def test_half_written_address_disturbs_nobody(
    halves: tuple[int, int], make_pci_rig: PciRigMaker
) -> None:
    bus = make_bus()
    victim, rig = make_pci_rig(Gadget(), bus=bus), make_pci_rig(Gadget(), bus=bus)
    victim.start()
    rig.start()
    words = {0x10: FAR & 0xFFFF_FFFF, 0x14: FAR >> 32}

    for half in halves:
        rig.pci.set_config(half, words[half])
        assert victim.request(0, HELLO).data == b"hello"

    rig.pci.base = FAR
    assert rig.request(0, HELLO).data == b"hello"


@pytest.mark.spec("PCI-18")
def test_address_counts_only_while_memory_space_is_on(pci_gadget: PciRig) -> None:
    pci_gadget.pci.command = MASTER

    pci_gadget.pci.set_config(0x10, ELSEWHERE)

    assert pci_gadget.bus.claims() == []
    pci_gadget.pci.command = MEMORY | MASTER
    assert window_of(pci_gadget) == [ELSEWHERE]


@pytest.mark.spec("PCI-19")
@pytest.mark.parametrize("place", ODD_PLACES, ids=hex)
def test_bar_outside_the_windows_is_not_seen(
    device_case: DeviceCase, place: int, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make())
    rig.start()
    home = rig.pci.base

    rig.switch_on(place)

    assert rig.bus.claims() == []
    assert rig.notifications.attached == {}
    assert rig.pci.config(0x10) | rig.pci.config(0x14) << 32 == place & ~0x7FFF | 4
    rig.switch_on(home)
    assert rig.request(device_case.queue, device_case.request).length == device_case.answer


@pytest.mark.spec("PCI-19")
def test_lower_slot_answers_where_bars_overlap(make_pci_rig: PciRigMaker) -> None:
    bus = make_bus()
    first, second = make_pci_rig(Gadget(), bus=bus), make_pci_rig(Gadget(), bus=bus)
    first.start()
    second.start()
    home = second.pci.base

    second.switch_on(first.pci.base)

    assert first.request(0, HELLO).data == b"hello"
    assert second.notifications.attached == {}
    assert len(first.notifications.attached) == 3
    second.switch_on(home)
    assert second.request(0, HELLO).data == b"hello"
    assert len(second.notifications.attached) == 3


@pytest.mark.spec("PCI-19")
def test_lower_slot_answers_also_when_it_was_filled_last(make_pci_rig: PciRigMaker) -> None:
    bus = make_bus()
    before, higher = make_pci_rig(Gadget(), bus=bus), make_pci_rig(Gadget(), bus=bus)
    bus.remove(before.slot)
    lower = make_pci_rig(Gadget(), bus=bus)
    lower.start()

    lower.switch_on(higher.pci.base)

    assert lower.slot < higher.slot
    assert lower.request(0, HELLO).data == b"hello"
    assert (len(lower.notifications.attached), higher.notifications.attached) == (3, {})


@pytest.mark.spec("PCI-19")
def test_higher_slot_is_seen_again_when_the_lower_one_leaves(make_pci_rig: PciRigMaker) -> None:
    bus = make_bus()
    first, second = make_pci_rig(Gadget(), bus=bus), make_pci_rig(Gadget(), bus=bus)
    second.start()
    home = second.pci.base

    first.switch_on(home)
    hidden = dict(second.notifications.attached)
    first.switch_on(ELSEWHERE)

    assert hidden == {}
    assert second.request(0, HELLO).data == b"hello"
    assert len(second.notifications.attached) == 3


@pytest.mark.spec("PCI-19")
def test_windows_touch_neither_ram_nor_anything_of_the_platform() -> None:
    taken = [
        *((start, start + size) for start, size in layout.ram_regions(MAX_MEMORY_BYTES)),
        (layout.VIRTIO_MMIO, layout.VIRTIO_MMIO + 19 * layout.VIRTIO_MMIO_SIZE),
        (layout.ECAM, layout.ECAM_END),
        (0xFEC0_0000, 1 << 32),
    ]

    assert (LOW_WINDOW, HIGH_WINDOW) == layout.PCI_WINDOWS
    for start, size in layout.PCI_WINDOWS:
        assert not any(start < end and first < start + size for first, end in taken)


# Bus master


@pytest.mark.spec("PCI-20")
def test_memory_is_left_alone_without_bus_master(
    device_case: DeviceCase, form: Form, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    rig.use_msix()
    rig.rings[device_case.queue].collect()
    rig.pci.command = MEMORY
    before_messages = list(rig.messages.sent)
    token = rig.rings[device_case.queue].add(*device_case.request)
    before = queue_memory(rig, device_case.queue)

    rig.kick(device_case.queue)
    rig.serve()
    rig.loop.advance()

    assert queue_memory(rig, device_case.queue) == before
    assert rig.messages.sent == before_messages
    rig.pci.command = MEMORY | MASTER
    rig.serve()
    assert [used.token for used in rig.rings[device_case.queue].collect()] == [token]
    assert rig.messages.vectors[-1] == device_case.queue + 1


@pytest.mark.spec("PCI-20")
def test_completion_that_comes_without_bus_master_waits(make_pci_rig: PciRigMaker) -> None:
    medium = StuckMedium()
    rig = make_pci_rig(Block(medium))
    rig.start()
    with Crew() as crew:
        rig.add(0, ((bytes(16),), (512, 1)))
        crew.run(rig.serve)
        wait_until(medium.entered.is_set)
        switched = crew.run(lambda: setattr(rig.pci, "command", MEMORY))
        medium.let_go()
        switched.join()
        before = queue_memory(rig)
        rig.serve()
        rig.loop.advance()
        after = queue_memory(rig)

    assert after == before
    rig.pci.command = MEMORY | MASTER
    rig.serve()
    assert len(rig.rings[0].collect()) == 1


@pytest.mark.spec("PCI-20")
def test_chain_that_a_device_holds_is_completed_when_bus_master_returns(
    pci_gadget: PciRig,
) -> None:
    device = pci_gadget.device
    assert isinstance(device, Gadget)
    pci_gadget.start()
    pci_gadget.add(1, ((b"x",), (4,)))
    pci_gadget.serve()
    assert device.activation is not None
    pci_gadget.pci.command = MEMORY
    device.activation.loop.call_soon_threadsafe(device.finish)
    before = queue_memory(pci_gadget, 1)

    pci_gadget.loop.advance()
    untouched = queue_memory(pci_gadget, 1) == before
    pci_gadget.pci.command = MEMORY | MASTER
    pci_gadget.loop.advance()

    assert untouched
    assert [used.data for used in pci_gadget.rings[1].collect()] == [b"done"]


@pytest.mark.spec("PCI-20")
def test_device_is_paused_before_its_messages_stop_and_after_they_go_on(
    pci_gadget: PciRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    pci_gadget.start_with_msix()
    paused, set_control = [], pci_gadget.window.msix.set_control

    def noted(command: int, message_control: int) -> None:
        paused.append(pci_gadget.window.paused)
        set_control(command, message_control)

    monkeypatch.setattr(pci_gadget.window.msix, "set_control", noted)
    pci_gadget.pci.command = MEMORY
    pci_gadget.pci.command = MEMORY | MASTER

    assert paused == [True, True]


@pytest.mark.spec("PCI-20")
def test_configuration_message_waits_for_bus_master(pci_gadget: PciRig) -> None:
    device = pci_gadget.device
    assert isinstance(device, Gadget)
    pci_gadget.start_with_msix()
    pci_gadget.pci.command = MEMORY

    device.counter += 1
    device.counter += 1

    assert pci_gadget.messages.sent == []
    pci_gadget.pci.command = MEMORY | MASTER
    assert pci_gadget.messages.vectors == [0]


@pytest.mark.spec("PCI-20")
def test_line_needs_no_bus_master(pci_gadget: PciRig) -> None:
    device = pci_gadget.device
    assert isinstance(device, Gadget)
    pci_gadget.start()
    pci_gadget.pci.command = MEMORY

    device.counter += 1

    assert pci_gadget.line.level


@pytest.mark.spec("PCI-20")
def test_kick_without_bus_master_is_logged_once(
    pci_gadget: PciRig, caplog: pytest.LogCaptureFixture
) -> None:
    pci_gadget.start()
    pci_gadget.pci.command = MEMORY

    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            pci_gadget.driver.notify(0)

    assert [record.getMessage().count("bus master") for record in caplog.records] == [1]
    assert pci_gadget.notifications.attached == {}


@pytest.mark.spec("PCI-20")
def test_device_that_goes_live_without_bus_master_waits_for_it(
    device_case: DeviceCase, form: Form, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.pci.command = MEMORY
    rig.prepare(form=form)
    token = rig.rings[device_case.queue].add(*device_case.request)
    before = queue_memory(rig, device_case.queue)
    rig.driver.go_live()
    rig.kick(device_case.queue)
    rig.serve()
    untouched = queue_memory(rig, device_case.queue) == before

    rig.pci.command = MEMORY | MASTER
    rig.serve()

    assert untouched
    assert [used.token for used in rig.rings[device_case.queue].collect()] == [token]


# Several processors


@pytest.mark.spec("PCI-21")
def test_processors_at_every_part_of_a_function_leave_it_sound(
    form: Form, make_pci_rig: PciRigMaker, rapid_switching: None
) -> None:
    rig = make_pci_rig(Gadget(ring_features=EVERY_RING))
    rig.start(form=form)
    rig.use_msix()
    home = rig.pci.base

    def move() -> None:
        for place in (ELSEWHERE, home):
            rig.pci.set_config(0x10, place)

    def select() -> None:
        for index in (0, 1):
            rig.bus.write(home + 0x16, index.to_bytes(2, "little"))
            rig.bus.write(home + 0x1C, b"\x01\x00")

    def mask() -> None:
        for value in (1, 0):
            rig.bus.write(home + 0x401C, value.to_bytes(4, "little"))

    def switch() -> None:
        rig.pci.set_config(rig.pci.msix + 2, 0xC000, 2)
        rig.pci.set_config(rig.pci.msix + 2, 0x8000, 2)

    with Crew() as crew:
        busy = [crew.repeat(work) for work in (move, select, mask, switch, rig.serve)]
        wait_until(lambda: min(one.done for one in busy) > 100)

    rig.switch_on(home)
    assert rig.pci.status == 0x0F
    rig.start(form=form)
    rig.use_msix()
    sent = len(rig.messages.sent)
    assert rig.request(0, HELLO).data == b"hello"
    assert rig.messages.vectors[sent:] == [1]
