"""MSI-X of a virtio function: vectors, their table, what masks them, and what is sent."""

import random

import pytest

from tests.spec.conftest import PciRigMaker
from tests.spec.devices import EVERY_RING, DeviceCase, Gadget
from tests.spec.pci import MESSAGE, PciRig, make_bus
from tests.spec.rig import Form
from tests.spec.threads import Crew, wait_until

NO_VECTOR = 0xFFFF
HELLO = ((b"hello",), (5,))
MEMORY, MASTER = 0x2, 0x4
TABLE, PENDING = 0x4000, 0x6000
FAR_MESSAGES = [0, 0x1000, 0xC200_0000, 0xFEC0_0000, 0xFEF0_0000, 0xFF_FEE0_0000, 1 << 63]


def change(rig: PciRig) -> None:
    """Cause a configuration interrupt of a gadget."""
    assert isinstance(rig.device, Gadget)
    rig.device.counter += 1


def await_more_than(count: int, rig: PciRig) -> None:
    """Wait until more messages were sent."""
    wait_until(lambda: len(rig.messages.sent) > count)


# Vectors


@pytest.mark.spec("PCI-49")
def test_there_is_a_vector_for_each_queue_and_one_more(
    device_case: DeviceCase, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make())

    assert rig.pci.vector_count == max(2, len(device_case.queue_sizes) + 1)
    assert rig.pci.config(rig.pci.msix + 2, 2) & 0x3800 == 0


@pytest.mark.spec("PCI-49", "PCI-52")
def test_every_byte_of_table_and_pending_bits_is_backed(
    device_case: DeviceCase, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make())
    count = rig.pci.vector_count
    for place in range(TABLE, TABLE + 16 * count, 4):
        rig.write_bar(place, b"\xff" * 4)

    entries = [rig.pci.table_entry(vector) for vector in range(count)]
    assert entries == [((1 << 64) - 1, 0xFFFF_FFFF, 1)] * count
    assert rig.read_bar(TABLE + 16 * count, 4) == bytes(4)
    assert [rig.read_bar(PENDING + at, 8) for at in range(0, 64, 8)] == [bytes(8)] * 8


@pytest.mark.spec("PCI-50")
def test_any_event_can_have_any_vector(device_case: DeviceCase, make_pci_rig: PciRigMaker) -> None:
    rig = make_pci_rig(device_case.make())
    rig.negotiate(device_case.offer)
    count = rig.pci.vector_count
    queues = range(len(device_case.queue_sizes))

    for vector in (*range(count), NO_VECTOR):
        assert rig.pci.map_config(vector) == vector
        assert [rig.pci.map_queue(queue, vector) for queue in queues] == [vector] * len(queues)


@pytest.mark.spec("PCI-50")
@pytest.mark.parametrize("vector", [0x7FF, 0xFFFE, 0x100])
def test_vector_that_does_not_exist_unmaps(
    device_case: DeviceCase, vector: int, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make())
    for wrong in (rig.pci.vector_count, vector):
        rig.pci.map_config(1)
        rig.pci.map_queue(0, 1)

        assert rig.pci.map_config(wrong) == NO_VECTOR
        assert rig.pci.map_queue(0, wrong) == NO_VECTOR


@pytest.mark.spec("PCI-50")
def test_all_events_may_share_a_vector(
    device_case: DeviceCase, form: Form, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    rig.use_msix()
    rig.pci.map_config(1)
    for index in rig.present_queues():
        rig.pci.map_queue(index, 1)

    rig.request(device_case.queue, device_case.request)
    rig.transport.interrupts.config()

    assert rig.messages.sent == [(1, MESSAGE | 1 << 12, 0x41)] * 2


@pytest.mark.spec("PCI-50")
def test_vector_can_be_changed_while_the_device_works(
    device_case: DeviceCase, form: Form, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    rig.use_msix()

    for vector in (0, 1, 0):
        rig.pci.map_queue(device_case.queue, vector)
        rig.request(device_case.queue, device_case.request)

    assert rig.messages.vectors == [0, 1, 0]


@pytest.mark.spec("PCI-51")
def test_event_without_a_vector_is_not_signalled(
    device_case: DeviceCase, form: Form, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    rig.pci.switch_msix()
    for vector in range(rig.pci.vector_count):
        rig.pci.set_message(vector, MESSAGE, vector)

    used = rig.request(device_case.queue, device_case.request)
    rig.transport.interrupts.config()

    assert used.length == device_case.answer
    assert (rig.messages.sent, rig.line.edges) == ([], 0)


# Table and pending bits


@pytest.mark.spec("PCI-52")
def test_every_entry_is_masked_at_power_on(
    device_case: DeviceCase, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make())
    count = rig.pci.vector_count

    assert [rig.pci.table_entry(vector) for vector in range(count)] == [(0, 0, 1)] * count
    assert rig.pci.config(rig.pci.msix + 2, 2) >> 14 == 0


@pytest.mark.spec("PCI-52")
def test_entries_can_be_written_in_words_of_either_width(pci_gadget: PciRig) -> None:
    pci_gadget.write_bar(TABLE + 16, (0x1122_3344_5566_7788).to_bytes(8, "little"))
    pci_gadget.write_bar(TABLE + 24, (0xFFFF_FFFE_99AA_BBCC).to_bytes(8, "little"))
    pci_gadget.pci.set_message(2, 0x1234_5678_9ABC_DEF0, 0x1357_9BDF, masked=True)

    assert pci_gadget.pci.table_entry(1) == (0x1122_3344_5566_7788, 0x99AA_BBCC, 0)
    assert pci_gadget.pci.table_entry(2) == (0x1234_5678_9ABC_DEF0, 0x1357_9BDF, 1)
    whole = b"".join(pci_gadget.read_bar(TABLE + at, 4) for at in range(0, 64, 4))
    assert b"".join(pci_gadget.read_bar(TABLE + at, 8) for at in range(0, 64, 8)) == whole


@pytest.mark.spec("PCI-52")
@pytest.mark.parametrize(
    ("offset", "width"), [(0, 1), (0, 2), (2, 4), (4, 8), (12, 1), (1, 4), (0, 16)]
)
def test_other_accesses_to_table_and_pending_bits_are_nothing(
    pci_gadget: PciRig, offset: int, width: int
) -> None:
    pci_gadget.start_with_msix()
    pci_gadget.pci.mask(1)
    pci_gadget.request(0, HELLO)
    state = pci_gadget.transport.state()

    reads = [pci_gadget.read_bar(base + offset, width) for base in (TABLE, TABLE + 16, PENDING)]
    for base in (TABLE, TABLE + 16, PENDING):
        pci_gadget.write_bar(base + offset, b"\xff" * width)

    assert reads == [bytes(width)] * 3
    assert pci_gadget.transport.state() == state


@pytest.mark.spec("PCI-52")
def test_pending_bits_cannot_be_written(pci_gadget: PciRig) -> None:
    pci_gadget.start_with_msix()
    pci_gadget.pci.mask(1)
    pci_gadget.request(0, HELLO)

    for value in (bytes(8), b"\xff" * 8):
        pci_gadget.write_bar(PENDING, value)

    assert pci_gadget.pci.pending == 1 << 1
    assert pci_gadget.messages.sent == []


# Masks


@pytest.mark.spec("PCI-53")
@pytest.mark.parametrize("by", ["entry", "function", "both"])
def test_masked_vector_keeps_one_message(
    device_case: DeviceCase, form: Form, by: str, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    rig.use_msix()
    vector = device_case.queue + 1
    if by != "function":
        rig.pci.mask(vector)
    if by != "entry":
        rig.pci.switch_msix(masked=True)

    for _ in range(3):
        rig.request(device_case.queue, device_case.request)
    pending, sent = rig.pci.pending, list(rig.messages.sent)
    if by != "function":
        rig.pci.mask(vector, masked=False)
    between = list(rig.messages.vectors)
    if by != "entry":
        rig.pci.switch_msix()

    assert (pending, sent) == (1 << vector, [])
    assert between == ([] if by == "both" else between)
    assert rig.messages.vectors == [vector]
    assert rig.pci.pending == 0


@pytest.mark.spec("PCI-53")
def test_mask_of_the_function_leaves_those_of_entries(pci_gadget: PciRig) -> None:
    pci_gadget.start_with_msix()
    pci_gadget.pci.mask(2)
    before = [pci_gadget.pci.table_entry(vector) for vector in range(4)]

    pci_gadget.pci.switch_msix(masked=True)
    during = [pci_gadget.pci.table_entry(vector) for vector in range(4)]
    pci_gadget.pci.switch_msix()

    assert during == before
    assert [pci_gadget.pci.table_entry(vector) for vector in range(4)] == before


@pytest.mark.spec("PCI-53")
def test_unmasking_what_is_not_pending_sends_nothing(pci_gadget: PciRig) -> None:
    pci_gadget.start_with_msix()

    for vector in range(4):
        pci_gadget.pci.mask(vector)
        pci_gadget.pci.mask(vector, masked=False)
    pci_gadget.pci.switch_msix(masked=True)
    pci_gadget.pci.switch_msix()

    assert pci_gadget.messages.sent == []


@pytest.mark.spec("PCI-56")
def test_what_is_pending_of_a_vector_stays_when_its_event_gets_another(
    pci_gadget: PciRig,
) -> None:
    pci_gadget.start_with_msix()
    pci_gadget.pci.mask(1)
    pci_gadget.request(0, HELLO)

    pci_gadget.pci.map_queue(0, 2)
    pci_gadget.pci.mask(1, masked=False)

    assert pci_gadget.messages.vectors == [1]


@pytest.mark.spec("PCI-54")
def test_message_is_the_one_that_stands_when_it_is_sent(pci_gadget: PciRig) -> None:
    pci_gadget.start_with_msix()
    pci_gadget.pci.mask(1)
    pci_gadget.request(0, HELLO)

    pci_gadget.pci.set_message(1, MESSAGE | 5 << 12, 0x77)
    pci_gadget.request(0, HELLO)

    assert pci_gadget.messages.sent == [(1, MESSAGE | 5 << 12, 0x77)] * 2


@pytest.mark.spec("PCI-55")
@pytest.mark.parametrize("address", FAR_MESSAGES, ids=hex)
def test_message_to_another_place_is_dropped(pci_gadget: PciRig, address: int) -> None:
    pci_gadget.start_with_msix()
    pci_gadget.pci.set_message(1, address, 0xDEAD_BEEF)
    memory = bytes(pci_gadget.memory.view(0, 1 << 18))

    used = pci_gadget.request(0, HELLO)
    change(pci_gadget)

    assert used.data == b"hello"
    assert bytes(pci_gadget.memory.view(0, 1 << 18)) == memory
    assert pci_gadget.messages.vectors == [0]
    assert any("takes none" in what for _, what in pci_gadget.transport.report.events)


@pytest.mark.spec("PCI-57")
def test_switching_msix_keeps_the_table_and_forgets_what_is_pending(
    device_case: DeviceCase, form: Form, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    rig.use_msix()
    vector = device_case.queue + 1
    rig.pci.mask(vector)
    rig.request(device_case.queue, device_case.request)
    entries = [rig.pci.table_entry(one) for one in range(rig.pci.vector_count)]

    rig.pci.switch_msix(enabled=False)
    pending = rig.pci.pending
    rig.request(device_case.queue, device_case.request)
    isr = rig.pci.isr
    rig.pci.switch_msix()
    rig.pci.mask(vector, masked=False)

    assert (pending, isr) == (0, 1)
    assert rig.messages.sent == []
    unmasked = [(address, data, 0) for address, data, _ in entries]
    assert [rig.pci.table_entry(one) for one in range(rig.pci.vector_count)] == unmasked
    rig.request(device_case.queue, device_case.request)
    assert rig.messages.vectors == [vector]


# Nothing is lost


@pytest.mark.spec("PCI-56")
def test_no_event_is_lost_between_masks(pci_gadget: PciRig, rapid_switching: None) -> None:
    pci_gadget.start_with_msix()
    pci, interrupts = pci_gadget.pci, pci_gadget.transport.interrupts
    choose = random.Random(1)

    def disturb() -> None:
        what = choose.randrange(4)
        if what == 0:
            pci.mask(1)
            pci.set_message(1, MESSAGE | choose.randrange(4) << 12, 0x41, masked=True)
            pci.mask(1, masked=False)
        elif what == 1:
            pci.switch_msix(masked=True)
            pci.switch_msix()
        elif what == 2:
            pci.command = MEMORY
            pci.command = MEMORY | MASTER
        else:
            pci.set_config(0x10, 0xD000_0000)
            pci.set_config(0x10, pci.base)

    with Crew() as crew:
        busy = crew.repeat(disturb)
        for _ in range(2000):
            sent = len(pci_gadget.messages.sent)
            interrupts.used(0)
            await_more_than(sent, pci_gadget)
        busy.await_more(1)

    assert pci.pending == 0


@pytest.mark.spec("PCI-56")
def test_message_tells_of_buffers_that_are_visible(
    device_case: DeviceCase, form: Form, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    rig.use_msix()
    seen: list[tuple[int, int]] = []

    def look(vector: int, address: int, data: int) -> None:
        [used] = rig.rings[device_case.queue].collect()
        seen.append((vector, used.length))

    rig.messages.send = look  # type: ignore[method-assign]
    rig.add(device_case.queue, device_case.request)
    rig.serve()

    assert seen == [(device_case.queue + 1, device_case.answer)]


@pytest.mark.spec("PCI-58")
def test_rewriting_the_table_sends_nothing_and_delays_no_other_device(
    make_pci_rig: PciRigMaker, rapid_switching: None
) -> None:
    bus = make_bus()
    hostile, other = make_pci_rig(Gadget(), bus=bus), make_pci_rig(Gadget(), bus=bus)
    hostile.start_with_msix()
    other.start_with_msix()

    def rewrite() -> None:
        for vector in range(4):
            hostile.pci.set_message(vector, MESSAGE, vector)

    with Crew() as crew:
        busy = crew.repeat(rewrite)
        answers = [other.request(0, HELLO).data for _ in range(200)]
        busy.await_more(1)

    assert answers == [b"hello"] * 200
    assert other.messages.vectors == [1] * 200
    assert hostile.messages.sent == []
