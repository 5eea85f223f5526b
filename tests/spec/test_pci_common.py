"""The common configuration structure: its fields, their widths, and queues coming and going."""

import pytest

from tests.spec.conftest import PciRigMaker
from tests.spec.devices import CHANGING, EVERY_RING, DeviceCase, Gadget
from tests.spec.pci import PciRig
from tests.spec.rig import PACKED, RING_SHARE_BYTES, SPLIT, VERSION_1, Form
from tests.spec.threads import Crew, StuckMedium, wait_until
from virtio.block import Block
from virtio.memory import FlatMemory
from virtio.testing import flat_memory

RING_RESET = 1 << 40
NO_VECTOR = 0xFFFF
HELLO = ((b"hello",), (5,))
READ_SECTOR = ((bytes(16),), (512, 1))
AREAS = (0x20, 0x28, 0x30)

# offset: width of every field; areas are 64 bits wide, and two words of 32.
FIELDS = {
    0x00: 4,
    0x04: 4,
    0x08: 4,
    0x0C: 4,
    0x10: 2,
    0x12: 2,
    0x14: 1,
    0x15: 1,
    0x16: 2,
    0x18: 2,
    0x1A: 2,
    0x1C: 2,
    0x1E: 2,
    0x20: 4,
    0x24: 4,
    0x28: 4,
    0x2C: 4,
    0x30: 4,
    0x34: 4,
    0x38: 2,
    0x3A: 2,
    0x3C: 2,
    0x3E: 2,
}
READ_ONLY = {0x04: 4, 0x12: 2, 0x15: 1, 0x1E: 2, 0x38: 2, 0x3C: 2, 0x3E: 2}
MISSING = [3, 4, 0xFF, 0x100, 0x7FFF, 0xFFFF]


def fields(rig: PciRig) -> list[int]:
    """Return the value of every field."""
    return [rig.pci.common(offset, width) for offset, width in FIELDS.items()]


def poison_queue(rig: PciRig, index: int = 0) -> bytes:
    share = rig.memory.view((index + 1) * RING_SHARE_BYTES, RING_SHARE_BYTES)
    share[:] = b"\x5a" * RING_SHARE_BYTES
    return bytes(share)


def queue_memory(rig: PciRig, index: int = 0) -> bytes:
    return bytes(rig.memory.view((index + 1) * RING_SHARE_BYTES, RING_SHARE_BYTES))


def memory_with_far_part() -> FlatMemory:
    return flat_memory((0, 4 << 20), (0x4_0000_0000, 4 << 20))


# Widths


@pytest.mark.spec("PCI-22")
@pytest.mark.parametrize("order", [(0, 4), (4, 0)], ids=["low-first", "high-first"])
def test_address_comes_in_halves_of_either_order(
    form: Form, order: tuple[int, int], make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(Gadget(ring_features=EVERY_RING), memory_with_far_part())
    rig.negotiate(form=form)
    ring = rig.rings[0] = form.ring(rig.memory, 8, base=0x4_0000_0000)
    rig.pci.select(0)
    rig.pci.set_common(0x18, 8, 2)
    for area, address in zip(AREAS, ring.layout[1:], strict=True):
        for half in order:
            rig.pci.set_common(area + half, address >> 8 * half & 0xFFFF_FFFF, 4)
    rig.pci.set_common(0x1C, 1, 2)
    rig.pci.go_live()

    shown = [rig.pci.common(area, 4) | rig.pci.common(area + 4, 4) << 32 for area in AREAS]
    assert shown == list(ring.layout[1:])
    assert rig.request(0, HELLO).data == b"hello"


@pytest.mark.spec("PCI-22")
def test_address_may_come_in_one_piece(form: Form, make_pci_rig: PciRigMaker) -> None:
    rig = make_pci_rig(Gadget(ring_features=EVERY_RING), memory_with_far_part())
    rig.negotiate(form=form)
    ring = rig.rings[0] = form.ring(rig.memory, 8, base=0x4_0000_0000)
    rig.pci.select(0)
    rig.pci.set_common(0x18, 8, 2)
    for area, address in zip(AREAS, ring.layout[1:], strict=True):
        rig.pci.set_common(area, address, 8)
    rig.pci.set_common(0x1C, 1, 2)
    rig.pci.go_live()

    assert [rig.pci.common(area, 8) for area in AREAS] == list(ring.layout[1:])
    assert rig.request(0, HELLO).data == b"hello"


@pytest.mark.spec("PCI-22")
@pytest.mark.parametrize("offset", AREAS)
def test_half_that_is_written_again_leaves_the_other_alone(pci_gadget: PciRig, offset: int) -> None:
    pci_gadget.negotiate()
    pci_gadget.pci.set_common(offset, 0x1111_2222_3333_4440, 8)

    pci_gadget.pci.set_common(offset + 4, 0x5555_6666, 4)
    high = pci_gadget.pci.common(offset, 8)
    pci_gadget.pci.set_common(offset, 0x7777_8880, 4)

    assert high == 0x5555_6666_3333_4440
    assert pci_gadget.pci.common(offset, 8) == 0x5555_6666_7777_8880


@pytest.mark.spec("PCI-23")
@pytest.mark.parametrize("width", [1, 2, 3, 4, 8, 16])
def test_other_widths_and_gaps_read_zero(
    device_case: DeviceCase, width: int, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make())
    rig.start(device_case.offer)
    known = {offset for offset, natural in FIELDS.items() if natural == width}
    known |= set(AREAS) if width == 8 else set()
    places = [at for at in range(0x40) if at not in known]
    places += [*range(0x40, 0x1000, 0x33), *range(0x1001, 0x2000, 0x35), *range(0x3000, 0x4000, 7)]
    places += [0x7000, 0x7FF0]

    assert [rig.read_bar(at, width) for at in places] == [bytes(width)] * len(places)


@pytest.mark.spec("PCI-23")
@pytest.mark.parametrize("width", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("byte", [b"\x00", b"\x01", b"\xff"], ids=["zeros", "ones", "all"])
def test_writes_of_other_widths_and_to_gaps_are_dropped(
    pci_gadget: PciRig, width: int, byte: bytes
) -> None:
    pci_gadget.start()
    before, state = fields(pci_gadget), pci_gadget.transport.state()
    known = {offset for offset, natural in FIELDS.items() if natural == width}
    known |= set(AREAS) if width == 8 else set()
    places = [at for at in range(0x40) if at not in known]
    places += [*range(0x40, 0x1000, 0x33), *range(0x1000, 0x2000, 0x35), 0x3FFC, 0x6000, 0x7000]

    for at in places:
        pci_gadget.write_bar(at, byte * width)

    assert pci_gadget.transport.state() == state
    assert fields(pci_gadget) == before
    assert pci_gadget.request(0, HELLO).data == b"hello"


@pytest.mark.spec("PCI-23")
@pytest.mark.parametrize("status", [0x00, 0x03, 0x0B, 0x0F])
def test_writes_to_read_only_fields_are_dropped(pci_gadget: PciRig, status: int) -> None:
    pci_gadget.reach(status)
    state = pci_gadget.transport.state()

    for offset, width in READ_ONLY.items():
        pci_gadget.pci.set_common(offset, 5, width)

    assert pci_gadget.transport.state() == state


@pytest.mark.spec("PCI-23")
def test_access_across_the_end_of_the_bar_reads_all_ones(pci_gadget: PciRig) -> None:
    assert pci_gadget.read_bar(0x7FFC, 8) == b"\xff" * 8
    pci_gadget.write_bar(0x7FFE, b"\0\0\0\0")


# Features


@pytest.mark.spec("PCI-24")
@pytest.mark.parametrize("word", [4, 5, 31, 0x8000_0000, 0xFFFF_FFFF])
def test_words_past_the_last_offer_nothing(
    device_case: DeviceCase, word: int, make_pci_rig: PciRigMaker
) -> None:
    pci = make_pci_rig(device_case.make()).pci

    pci.set_common(0x00, word, 4)

    assert pci.common(0x04, 4) == 0
    assert pci.common(0x00, 4) == word


@pytest.mark.spec("PCI-24")
def test_offer_is_shown_word_by_word(device_case: DeviceCase, make_pci_rig: PciRigMaker) -> None:
    assert make_pci_rig(device_case.make()).pci.offered_features() == device_case.offer


@pytest.mark.spec("PCI-25")
def test_accepted_features_are_read_back_until_they_are_frozen(pci_gadget: PciRig) -> None:
    pci = pci_gadget.pci
    pci.status = 0x03
    pci.accept_features(VERSION_1 | 1 << 50 | 1)
    shown = []
    for word in (0, 1, 2, 3, 4):
        pci.set_common(0x08, word, 4)
        shown.append(pci.common(0x0C, 4))
    pci.status = 0x0B

    pci.set_common(0x08, 0, 4)
    pci.set_common(0x0C, 2, 4)

    assert shown == [1, 1 | 1 << 18, 0, 0, 0]
    assert (pci.status, pci.common(0x0C, 4)) == (0x0B, 1)


@pytest.mark.spec("PCI-25")
@pytest.mark.parametrize("word", [2, 4, 7, 0xFFFF_FFFF])
def test_bit_in_an_unused_word_is_not_offered(
    device_case: DeviceCase, word: int, make_pci_rig: PciRigMaker
) -> None:
    pci = make_pci_rig(device_case.make()).pci
    pci.status = 0x03
    pci.accept_features(VERSION_1)
    pci.set_common(0x08, word, 4)
    pci.set_common(0x0C, 1, 4)

    pci.status = 0x0B

    assert pci.status == 0x03


# Queues


@pytest.mark.spec("PCI-26")
def test_settings_of_two_queues_programmed_in_turns_do_not_mix(pci_gadget: PciRig) -> None:
    pci = pci_gadget.pci
    pci_gadget.negotiate()
    rings = [pci_gadget.add_ring(0), pci_gadget.add_ring(1, size=4)]
    for column, (offset, width) in enumerate(((0x18, 2), (0x20, 8), (0x28, 8), (0x30, 8))):
        for index, ring in enumerate(rings):
            pci.select(index)
            pci.set_common(offset, ring.layout[column], width)
    for index, vector in ((0, 2), (1, 1)):
        assert pci.map_queue(index, vector) == vector
    shown = []
    for index in (0, 1):
        pci.select(index)
        shown.append(
            [pci.common(at, width) for at, width in ((0x16, 2), (0x18, 2), (0x1A, 2), (0x20, 8))]
        )
    for index in (1, 0):
        pci.select(index)
        pci.set_common(0x1C, 1, 2)
    pci.go_live()

    assert shown == [[0, 8, 2, rings[0].layout[1]], [1, 4, 1, rings[1].layout[1]]]
    assert [pci_gadget.request(0, HELLO).data for _ in range(12)] == [b"hello"] * 12


@pytest.mark.spec("PCI-26")
@pytest.mark.parametrize("value", [0, 1, 2, 0x1234, 0xFFFF])
def test_selectors_read_back_what_was_written(pci_gadget: PciRig, value: int) -> None:
    pci_gadget.pci.set_common(0x00, value | value << 16, 4)
    pci_gadget.pci.set_common(0x08, value, 4)
    pci_gadget.pci.select(value)

    assert pci_gadget.pci.common(0x00, 4) == value | value << 16
    assert pci_gadget.pci.common(0x08, 4) == value
    assert pci_gadget.pci.common(0x16, 2) == value


@pytest.mark.spec("PCI-27")
@pytest.mark.parametrize("index", MISSING)
def test_missing_queue_has_no_fields(pci_gadget: PciRig, index: int) -> None:
    pci_gadget.start(3)
    queues = pci_gadget.transport.state().queues
    pci = pci_gadget.pci
    pci.select(index)
    expected = {0x18: 0, 0x1A: NO_VECTOR, 0x1C: 0, 0x1E: 0, 0x38: 0, 0x3A: 0}

    for at in (*expected, *AREAS):
        pci.set_common(at, 1, 2 if at not in AREAS else 4)

    assert {at: pci.common(at, 2) for at in expected} == expected
    assert [pci.common(at, 8) for at in AREAS] == [0] * 3
    assert pci_gadget.transport.state().queues == queues


@pytest.mark.spec("PCI-27")
def test_queues_exist_as_far_as_features_have_them(
    device_case: DeviceCase, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make())
    counts = []
    for features in (0, device_case.offer):
        rig.negotiate(features)
        counts.append(len(rig.present_queues()))

    assert counts == [device_case.plain_queues, len(device_case.queue_sizes)]
    assert rig.pci.queue_count == len(device_case.queue_sizes)


@pytest.mark.spec("PCI-28")
def test_queue_size_is_the_largest_after_reset(
    device_case: DeviceCase, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make())
    rig.negotiate(device_case.offer)
    sizes = []
    for index in range(len(device_case.queue_sizes)):
        rig.pci.select(index)
        sizes.append(rig.pci.common(0x18, 2))

    assert sizes == list(device_case.queue_sizes)


@pytest.mark.spec("PCI-28")
@pytest.mark.parametrize("size", [0, 257, 512, 0x8000, 0xFFFF])
def test_impossible_size_is_dropped(form: Form, size: int, make_pci_rig: PciRigMaker) -> None:
    rig = make_pci_rig(Gadget(ring_features=EVERY_RING))
    rig.negotiate(form=form)
    rig.pci.select(0)
    rig.pci.set_common(0x18, 16, 2)

    rig.pci.set_common(0x18, size, 2)

    assert rig.pci.common(0x18, 2) == 16


@pytest.mark.spec("PCI-28")
@pytest.mark.parametrize(("form", "kept"), [(SPLIT, 256), (PACKED, 100)], indirect=False)
def test_size_is_a_power_of_two_in_a_split_queue(
    form: Form, kept: int, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(Gadget(ring_features=EVERY_RING))
    rig.negotiate(form=form)
    rig.pci.select(0)

    rig.pci.set_common(0x18, 100, 2)

    assert rig.pci.common(0x18, 2) == kept


BAD_AREAS = {
    "descriptor-area-unaligned": (0x1008, 0x2000, 0x3000),
    "device-area-unaligned": (0x1000, 0x2000, 0x3001),
    "descriptor-area-outside": (1 << 40, 0x2000, 0x3000),
    "driver-area-wraps": (0x1000, (1 << 64) - 2, 0x3000),
}


@pytest.mark.spec("PCI-29")
@pytest.mark.parametrize("areas", BAD_AREAS.values(), ids=BAD_AREAS)
def test_impossible_geometry_breaks_the_device(
    form: Form, areas: tuple[int, int, int], make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(Gadget(ring_features=EVERY_RING))
    rig.negotiate(form=form)

    assert not rig.pci.set_up_queue(0, 8, *areas)

    assert rig.pci.status == 0x4B


@pytest.mark.spec("PCI-29")
@pytest.mark.parametrize("status", [0x00, 0x01, 0x03])
def test_queue_cannot_be_enabled_before_features_ok(
    device_case: DeviceCase, status: int, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make())
    rig.reach(status)
    ring = rig.add_ring(0)

    assert not rig.pci.set_up_queue(0, *ring.layout)
    assert rig.pci.status == status


@pytest.mark.spec("PCI-29")
@pytest.mark.parametrize("value", [0, 1, 2, 0x101, 0xFFFF])
def test_writes_to_queue_enable_of_a_live_queue_change_nothing(
    device_case: DeviceCase, form: Form, value: int, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    rig.request(device_case.queue, device_case.request)
    rig.pci.select(device_case.queue)

    rig.pci.set_common(0x1C, value, 2)

    assert rig.pci.common(0x1C, 2) == 1
    assert rig.request(device_case.queue, device_case.request).length == device_case.answer


@pytest.mark.spec("PCI-29")
@pytest.mark.parametrize("value", [0, 2, 0x100, 0xFFFF])
def test_only_one_enables_a_queue(pci_gadget: PciRig, value: int) -> None:
    pci_gadget.negotiate()
    pci_gadget.pci.configure_queue(0, *pci_gadget.add_ring(0).layout)

    pci_gadget.pci.set_common(0x1C, value, 2)

    assert pci_gadget.pci.common(0x1C, 2) == 0


@pytest.mark.spec("PCI-30")
def test_settings_of_an_enabled_queue_are_frozen_but_not_its_vector(
    device_case: DeviceCase, form: Form, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    rig.pci.select(device_case.queue)
    before = [rig.pci.common(at, 8) for at in AREAS]

    rig.pci.set_common(0x18, 4, 2)
    for area in AREAS:
        rig.pci.set_common(area, 0x10, 4)
        rig.pci.set_common(area + 4, 1, 4)
        rig.pci.set_common(area, 0x1_0000_0010, 8)

    assert rig.pci.common(0x18, 2) == 8
    assert [rig.pci.common(at, 8) for at in AREAS] == before
    assert rig.pci.map_queue(device_case.queue, 1) == 1
    assert rig.request(device_case.queue, device_case.request).length == device_case.answer


@pytest.mark.spec("PCI-31")
def test_rings_are_left_alone_before_driver_ok(
    device_case: DeviceCase, form: Form, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.negotiate(form=form)
    ring = rig.add_ring(device_case.queue, form=form)
    ring.add(*device_case.request)
    before = queue_memory(rig, device_case.queue)
    changes = []

    def look() -> None:
        if queue_memory(rig, device_case.queue) != before:
            changes.append(1)

    rig.pci.configure_queue(device_case.queue, *ring.layout)
    rig.kick(device_case.queue)
    rig.serve()
    look()
    rig.pci.set_common(0x1C, 1, 2)
    rig.kick(device_case.queue)
    rig.serve()
    look()

    assert changes == []
    assert rig.messages.sent == []
    assert not rig.line.level


@pytest.mark.spec("PCI-32")
def test_reset_disables_every_queue(
    device_case: DeviceCase, form: Form, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    shown = []
    rig.start(RING_RESET, form)
    rig.pci.status = 0
    rig.negotiate(RING_RESET, form)
    for index in range(len(device_case.queue_sizes)):
        rig.pci.select(index)
        shown.append((rig.pci.common(0x1C, 2), rig.pci.common(0x3A, 2)))

    assert shown == [(0, 0)] * len(device_case.queue_sizes)
    rig.start(RING_RESET, form)
    rig.pci.select(0)
    assert (rig.pci.common(0x1C, 2), rig.pci.common(0x3A, 2)) == (1, 0)


# Queue reset


@pytest.mark.spec("PCI-33")
def test_queue_that_is_reset_starts_over_and_others_go_on(
    device_case: DeviceCase, form: Form, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(RING_RESET, form)
    rig.use_msix()
    for _ in range(3):
        rig.request(device_case.queue, device_case.request)
    pci = rig.pci
    pci.select(device_case.queue)

    pci.set_common(0x3A, 1, 2)

    largest = device_case.queue_sizes[device_case.queue]
    assert (pci.common(0x3A, 2), pci.common(0x1C, 2)) == (0, 0)
    assert (pci.common(0x18, 2), pci.common(0x1A, 2)) == (largest, NO_VECTOR)
    old = poison_queue(rig, device_case.queue)
    rig.kick(device_case.queue)
    rig.serve()
    assert queue_memory(rig, device_case.queue) == old
    rig.add_queue(device_case.queue, RING_RESET, form, size=4)
    assert rig.request(device_case.queue, device_case.request).length == device_case.answer


@pytest.mark.spec("PCI-33")
def test_other_queues_work_while_one_is_reset(pci_gadget: PciRig) -> None:
    pci_gadget.start(RING_RESET)
    pci_gadget.use_msix()

    pci_gadget.pci.select(1)
    pci_gadget.pci.set_common(0x3A, 1, 2)

    assert pci_gadget.request(0, HELLO).data == b"hello"
    assert pci_gadget.messages.vectors == [1]


@pytest.mark.spec("PCI-33")
def test_queue_reset_reads_one_until_slow_io_is_done(form: Form, make_pci_rig: PciRigMaker) -> None:
    medium = StuckMedium()
    rig = make_pci_rig(Block(medium, ring_features=EVERY_RING))
    rig.start(RING_RESET, form)
    rig.add(0, READ_SECTOR)
    shown = []
    with Crew() as crew:
        crew.run(rig.serve)
        wait_until(medium.entered.is_set)
        rig.pci.select(0)
        reset = crew.run(lambda: rig.pci.set_common(0x3A, 1, 2))
        wait_until(lambda: rig.pci.common(0x3A, 2) == 1)
        shown.append(rig.pci.common(0x1C, 2))
        medium.let_go()
        reset.join()
        shown += [rig.pci.common(0x3A, 2), rig.pci.common(0x1C, 2)]
        poisoned = poison_queue(rig)
        rig.serve()

    assert shown == [1, 0, 0]
    assert queue_memory(rig) == poisoned


@pytest.mark.spec("PCI-33")
def test_pending_message_of_a_queue_goes_with_its_reset(pci_gadget: PciRig) -> None:
    pci_gadget.start(RING_RESET)
    pci_gadget.use_msix()
    pci_gadget.pci.mask(1)
    pci_gadget.request(0, HELLO)
    pci_gadget.pci.select(0)

    pci_gadget.pci.set_common(0x3A, 1, 2)
    pci_gadget.pci.mask(1, masked=False)

    assert pci_gadget.messages.sent == []


@pytest.mark.spec("PCI-34")
@pytest.mark.parametrize(("features", "value"), [(0, 1), (RING_RESET, 0), (RING_RESET, 2), (0, 0)])
def test_queue_reset_needs_its_feature_and_one(
    form: Form, features: int, value: int, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(Gadget(ring_features=EVERY_RING))
    rig.start(features, form)
    rig.use_msix()
    rig.pci.select(0)

    rig.pci.set_common(0x3A, value, 2)

    assert rig.pci.common(0x3A, 2) == 0
    assert rig.pci.common(0x1A, 2) == 1
    assert rig.request(0, HELLO).data == b"hello"


# Reset


@pytest.mark.spec("PCI-35")
def test_status_reads_zero_only_when_slow_io_no_longer_writes(
    form: Form, make_pci_rig: PciRigMaker
) -> None:
    medium = StuckMedium()
    rig = make_pci_rig(Block(medium, ring_features=EVERY_RING))
    rig.start(form=form)
    rig.use_msix()
    rig.add(0, READ_SECTOR)
    shown = []
    with Crew() as crew:
        crew.run(rig.serve)
        wait_until(medium.entered.is_set)
        reset = crew.run(lambda: setattr(rig.pci, "status", 0))
        reset.join(0.05)
        shown.append(rig.pci.status)
        medium.let_go()
        reset.join()
        shown.append(rig.pci.status)
        poisoned, sent = poison_queue(rig), list(rig.messages.sent)
        rig.serve()
        rig.loop.advance()

    assert shown == [0x0F, 0]
    assert queue_memory(rig) == poisoned
    assert rig.messages.sent == sent


@pytest.mark.spec("PCI-36")
def test_reset_undoes_what_is_virtio_and_leaves_what_is_pci(
    device_case: DeviceCase, form: Form, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    fresh = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    rig.request(device_case.queue, device_case.request)
    rig.use_msix()
    rig.pci.set_common(0x00, 1, 4)
    rig.pci.set_common(0x08, 3, 4)
    rig.pci.mask(0)
    rig.transport.interrupts.config()
    own = [rig.pci.config(at) for at in range(0, 0x100, 4)]
    table = [rig.pci.table_entry(vector) for vector in range(rig.pci.vector_count)]
    pending = rig.pci.pending

    rig.pci.status = 0

    assert pending == 1
    assert [rig.pci.config(at) for at in range(0, 0x100, 4)] == own
    assert [rig.pci.table_entry(vector) for vector in range(rig.pci.vector_count)] == table
    assert fields(rig) == fields(fresh)
    assert (rig.pci.isr, rig.line.level, rig.pci.pending) == (0, False, 0)
    rig.pci.mask(0, masked=False)
    assert rig.messages.vectors.count(0) == 0


# Configuration generation


@pytest.mark.spec("PCI-37")
@pytest.mark.parametrize("changes", [1, 2, 255, 256, 257, 512])
def test_any_number_of_changes_between_two_reads_is_one_step(
    pci_gadget: PciRig, changes: int
) -> None:
    device = pci_gadget.device
    assert isinstance(device, Gadget)
    pci_gadget.start()
    before = pci_gadget.pci.common(0x15, 1)
    pci_gadget.read_config(0, 4)

    for _ in range(changes):
        device.counter += 1

    after = pci_gadget.pci.common(0x15, 1)
    assert (after - before) & 0xFF == 1
    assert pci_gadget.pci.common(0x15, 1) == after


@pytest.mark.spec("PCI-37")
@pytest.mark.parametrize("case", CHANGING, ids=lambda case: case.name)
def test_generation_differs_when_what_was_read_changed(
    case: DeviceCase, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(case.make())
    rig.start(case.offer)
    assert case.change is not None
    before = rig.pci.common(0x15, 1)
    rig.read_config(0, 4)
    unchanged = rig.pci.common(0x15, 1)
    rig.read_config(0, 4)

    case.change(rig.device)
    rig.read_config(4, 4)

    assert unchanged == before
    assert rig.pci.common(0x15, 1) != before


@pytest.mark.spec("PCI-37")
def test_another_look_between_does_not_hide_a_change(pci_gadget: PciRig) -> None:
    device = pci_gadget.device
    assert isinstance(device, Gadget)
    pci_gadget.start()
    before = pci_gadget.pci.common(0x15, 1)
    pci_gadget.read_config(0, 4)
    pci_gadget.pci.common(0x15, 1)
    device.counter += 1 << 32

    pci_gadget.read_config(4, 4)

    assert pci_gadget.pci.common(0x15, 1) != before


@pytest.mark.spec("PCI-38")
def test_there_are_no_admin_queues(device_case: DeviceCase, make_pci_rig: PciRigMaker) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    offered = rig.pci.offered_features()
    rig.start(offered & ~(1 << 35))

    assert offered & (1 << 37 | 1 << 41) == 0
    assert (rig.pci.common(0x3C, 2), rig.pci.common(0x3E, 2)) == (0, 0)
