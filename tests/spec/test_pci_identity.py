"""A virtio function as any PCI driver sees it: who it is, and its 256 bytes."""

import pytest

from tests.spec.conftest import PciRigMaker
from tests.spec.devices import DeviceCase
from tests.spec.pci import SLOT, PciRig, make_bus
from transport.pci.access import ConfigurationPorts, EcamWindow

ALL_ONES = {1: b"\xff", 2: b"\xff" * 2, 4: b"\xff" * 4, 8: b"\xff" * 8}
MESSAGE_CONTROL, WINDOW = 0x9A, 0x84

WRITABLE = {
    0x04: 0x47,
    0x05: 0x05,
    0x0C: 0xFF,
    0x11: 0x80,
    **dict.fromkeys(range(0x12, 0x18), 0xFF),
    0x3C: 0xFF,
}


def ecam_offset(slot: int, register: int, function: int = 0) -> int:
    return slot << 15 | function << 12 | register


def ports_read(ports: ConfigurationPorts, slot: int, register: int, width: int) -> bytes:
    ports.write(0, (1 << 31 | slot << 11 | register & 0xFC).to_bytes(4, "little"))
    return ports.read(4 + (register & 3), width)


@pytest.mark.spec("PCI-01")
def test_ids_are_those_of_modern_virtio(device_case: DeviceCase, make_pci_rig: PciRigMaker) -> None:
    pci = make_pci_rig(device_case.make()).pci

    assert pci.config(0x00, 2) == 0x1AF4
    assert pci.config(0x02, 2) == 0x1040 + device_case.device_id


@pytest.mark.spec("PCI-02")
def test_nothing_of_the_legacy_interface_is_there(
    device_case: DeviceCase, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make())

    assert rig.pci.config(0x08, 1) >= 1
    assert rig.pci.config(0x2E, 2) >= 0x40
    assert [rig.pci.config(0x10 + 4 * bar) & 1 for bar in range(6)] == [0] * 6
    assert rig.pci.offered_features() & (1 << 24 | 1 << 27 | 1 << 30 | 1 << 31) == 0


@pytest.mark.spec("PCI-03")
@pytest.mark.parametrize("ones", [b"\xff", b"\xff" * 4], ids=["bytes", "dwords"])
def test_only_what_may_be_written_changes(
    device_case: DeviceCase, ones: bytes, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make())
    space, width = EcamWindow(rig.bus), len(ones)
    base = ecam_offset(SLOT, 0)
    rig.pci.command = 0
    writable = dict(WRITABLE) | {rig.pci.msix + 3: 0xC0}
    window = rig.pci.structures[5].capability
    writable |= dict.fromkeys((window + 4, *range(window + 8, window + 16)), 0xFF)
    before = [space.read(base + offset, 1)[0] for offset in range(0x1000)]

    for offset in range(0, 0x1000, width):
        space.write(base + offset, ones)

    after = [space.read(base + offset, 1)[0] for offset in range(0x1000)]
    expected = [value | writable.get(offset, 0) for offset, value in enumerate(before)]
    assert after == expected
    for offset in range(0, 0x1000, width):
        space.write(base + offset, bytes(width))
    cleared = [space.read(base + offset, 1)[0] for offset in range(0x1000)]
    assert cleared == [value & ~writable.get(at, 0) for at, value in enumerate(before)]


@pytest.mark.spec("PCI-03")
def test_extended_space_is_empty(pci_gadget: PciRig) -> None:
    space = EcamWindow(pci_gadget.bus)

    words = [space.read(ecam_offset(SLOT, offset), 4) for offset in range(0x100, 0x1000, 4)]

    assert words == [bytes(4)] * len(words)


@pytest.mark.spec("PCI-04")
def test_capabilities_form_a_list(device_case: DeviceCase, make_pci_rig: PciRigMaker) -> None:
    pci = make_pci_rig(device_case.make()).pci

    offsets = [offset for _, offset in pci.capabilities()]

    assert pci.config(0x06, 2) & 0x10
    assert len(offsets) == len(set(offsets)) < 48
    assert all(0x40 <= offset < 0x100 and offset % 4 == 0 for offset in offsets)
    assert pci.config(offsets[-1] + 1, 1) == 0


@pytest.mark.spec("PCI-05")
def test_every_way_and_width_sees_the_same_bytes(
    device_case: DeviceCase, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make())
    ecam, ports = EcamWindow(rig.bus), ConfigurationPorts(rig.bus)
    images = []
    for width in (1, 2, 4):
        places = range(0, 0x100, width)
        images.append(b"".join(ecam.read(ecam_offset(SLOT, at), width) for at in places))
        images.append(b"".join(ports_read(ports, SLOT, at, width) for at in places))

    assert images == [images[0]] * 6


@pytest.mark.spec("PCI-05")
@pytest.mark.parametrize("width", [1, 2, 4])
def test_every_way_and_width_writes(pci_gadget: PciRig, width: int) -> None:
    ecam, ports = EcamWindow(pci_gadget.bus), ConfigurationPorts(pci_gadget.bus)
    high = bytes([0x12, 0x34, 0x56, 0x78])
    for at in range(0, 4, width):
        ecam.write(ecam_offset(SLOT, 0x14 + at), high[at : at + width])
    by_ecam = ports_read(ports, SLOT, 0x14, 4)
    for at in range(0, 4, width):
        ports.write(0, (1 << 31 | SLOT << 11 | 0x14).to_bytes(4, "little"))
        ports.write(4 + at, high[::-1][at : at + width])

    assert by_ecam == high
    assert ecam.read(ecam_offset(SLOT, 0x14), 4) == high[::-1]


@pytest.mark.spec("PCI-05")
def test_address_port_is_written_by_four_bytes_alone(pci_gadget: PciRig) -> None:
    ports = ConfigurationPorts(pci_gadget.bus)
    ports.write(0, b"\x03\x00\x00\x80")
    shown = ports.read(0, 4)
    ports.write(0, b"\x11\x11")
    ports.write(3, b"\x00")
    kept = ports.read(0, 4)
    ports.write(0, b"\x00\x18\x00\x00")

    assert (shown, kept) == (b"\x00\x00\x00\x80",) * 2
    assert ports.read(4, 4) == b"\xff" * 4


@pytest.mark.spec("PCI-06")
def test_absent_functions_read_all_ones(pci_gadget: PciRig) -> None:
    ecam, ports = EcamWindow(pci_gadget.bus), ConfigurationPorts(pci_gadget.bus)
    found = []
    for slot in range(32):
        for function in range(8):
            offset = ecam_offset(slot, 0, function)
            if ecam.read(offset, 4) != b"\xff" * 4:
                found.append((slot, function))
            for register in (0x04, 0x10):
                if (slot, function) not in found:
                    ecam.write(offset + register, b"\0\0\0\0")
    ports.write(0, (1 << 31 | 1 << 16).to_bytes(4, "little"))

    assert found == [(0, 0), (SLOT, 0)]
    assert ports.read(4, 4) == b"\xff" * 4


@pytest.mark.spec("PCI-07")
@pytest.mark.parametrize(
    ("offset", "width"), [(0, 8), (2, 4), (1, 4), (3, 2), (0, 3), (0xFFC, 8), (0, 16)]
)
def test_access_that_is_no_part_of_a_dword_reads_all_ones_and_writes_nothing(
    pci_gadget: PciRig, offset: int, width: int
) -> None:
    ecam, base = EcamWindow(pci_gadget.bus), ecam_offset(SLOT, 0x3C & offset)
    before = [ecam.read(ecam_offset(SLOT, at), 1) for at in range(0x1000)]

    assert ecam.read(ecam_offset(SLOT, offset), width) == b"\xff" * width
    for place in range(offset, 0x40, 4):
        ecam.write(base + place, b"\x5a" * width)

    assert [ecam.read(ecam_offset(SLOT, at), 1) for at in range(0x1000)] == before


@pytest.mark.spec("PCI-07")
@pytest.mark.parametrize(("port", "width"), [(6, 4), (5, 4), (7, 2), (4, 8)])
def test_data_ports_end_with_their_dword(pci_gadget: PciRig, port: int, width: int) -> None:
    ports = ConfigurationPorts(pci_gadget.bus)
    ports.write(0, (1 << 31 | SLOT << 11 | 0x14).to_bytes(4, "little"))
    before = ports.read(4, 4)

    assert ports.read(port, width) == b"\xff" * width
    ports.write(port, b"\x5a" * width)

    assert ports.read(4, 4) == before


@pytest.mark.spec("PCI-06")
def test_bus_has_a_host_bridge() -> None:
    ecam = EcamWindow(make_bus())

    assert ecam.read(0x0A, 2) == b"\x00\x06"
    assert [ecam.read(0x10 + 4 * bar, 4) for bar in range(6)] == [bytes(4)] * 6
    assert ecam.read(0x34, 1) == b"\x00"


def test_reset_control_port_resets_once_for_each_rise() -> None:
    resets: list[int] = []
    ports = ConfigurationPorts(make_bus(), lambda: resets.append(1))

    for value in (0x02, 0x06, 0x06, 0x00, 0x04):
        ports.write(1, bytes([value]))

    assert len(resets) == 2
    assert ports.read(1, 1) == b"\x04"
