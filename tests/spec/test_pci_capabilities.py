"""The capabilities of a virtio function, and the structures that they tell of."""

from itertools import combinations

import pytest

from tests.spec.conftest import PciRigMaker
from tests.spec.devices import EVERY_RING, DeviceCase, Medium
from tests.spec.pci import PciRig
from virtio.block import Block

STRUCTURE_LENGTHS = {1: 64, 3: 1}
ALIGNMENTS = {1: 4, 2: 4, 3: 1, 4: 4}
SHARED_MEMORY, VENDOR = 8, 9


def virtio_kinds(rig: PciRig) -> list[int]:
    return [rig.pci.config(at + 3, 1) for kind, at in rig.pci.capabilities() if kind == 0x09]


@pytest.mark.spec("PCI-08")
def test_every_structure_that_a_driver_needs_is_there(
    device_case: DeviceCase, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make())

    assert {1, 2, 3, 4, 5} <= set(virtio_kinds(rig))
    assert rig.pci.msix


@pytest.mark.spec("PCI-09")
def test_structures_lie_apart_inside_their_bar(
    device_case: DeviceCase, make_pci_rig: PciRigMaker
) -> None:
    pci = make_pci_rig(device_case.make()).pci
    pci.command = 0
    pci.set_config(0x10, 0xFFFF_FFFF)
    size = (~pci.config(0x10) & 0xFFFF_FFF0 | 0xF) + 1
    ranges = [(pci.structures[kind].offset, pci.structures[kind].length) for kind in (1, 2, 3, 4)]
    table, pending = pci.config(pci.msix + 4), pci.config(pci.msix + 8)
    ranges += [(table & ~7, 16 * pci.vector_count), (pending & ~7, -(-pci.vector_count // 64) * 8)]

    assert [pci.structures[kind].bar for kind in (1, 2, 3, 4)] == [0] * 4
    assert (table & 7, pending & 7) == (0, 0)
    assert all(pci.structures[kind].offset % step == 0 for kind, step in ALIGNMENTS.items())
    assert all(length and start + length <= size for start, length in ranges)
    pages = [set(range(start >> 12, (start + length - 1 >> 12) + 1)) for start, length in ranges]
    assert not any(one & other for one, other in combinations(pages, 2))


@pytest.mark.spec("PCI-10")
def test_length_of_a_capability_counts_what_it_has_more(
    device_case: DeviceCase, make_pci_rig: PciRigMaker
) -> None:
    pci = make_pci_rig(device_case.make()).pci

    lengths = {kind: pci.config(one.capability + 2, 1) for kind, one in pci.structures.items()}

    assert lengths == {1: 16, 2: 20, 3: 16, 4: 16, 5: 20}


@pytest.mark.spec("PCI-11")
def test_capabilities_cannot_be_written(pci_gadget: PciRig) -> None:
    pci = pci_gadget.pci
    structures = {kind: one for kind, one in pci.structures.items() if kind != 5}
    before = [pci.config(one.capability + i, 1) for one in structures.values() for i in range(20)]

    for one in structures.values():
        for offset in range(0, pci.config(one.capability + 2, 1), 4):
            pci.set_config(one.capability + offset, 0xFFFF_FFFF)

    after = [pci.config(one.capability + i, 1) for one in structures.values() for i in range(20)]
    assert after == before
    assert pci_gadget.pci.negotiate()


@pytest.mark.spec("PCI-12")
def test_common_structure_covers_the_fields_of_every_offered_feature(
    device_case: DeviceCase, make_pci_rig: PciRigMaker
) -> None:
    pci = make_pci_rig(device_case.make(ring_features=EVERY_RING)).pci

    assert pci.offered_features() >> 40 & 1
    assert pci.structures[1].length >= 64


@pytest.mark.spec("PCI-13", "PCI-14")
def test_there_is_no_shared_memory_and_no_vendor_data(
    device_case: DeviceCase, make_pci_rig: PciRigMaker
) -> None:
    assert not {SHARED_MEMORY, VENDOR} & set(virtio_kinds(make_pci_rig(device_case.make())))


@pytest.mark.spec("PCI-09", "PCI-39", "PCI-49")
def test_device_with_many_queues_has_room_for_all(make_pci_rig: PciRigMaker) -> None:
    class Wide(Block):
        @property
        def queue_max_sizes(self) -> tuple[int, ...]:
            return (16,) * 60

    pci = make_pci_rig(Wide(Medium())).pci

    assert pci.queue_count == 60
    assert pci.vector_count == 61
    assert pci.structures[2].length >= 4 * 59 + 4
