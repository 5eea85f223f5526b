"""A guest of a few instructions finds its devices on the PCI bus of a real machine."""

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.guest.bare_metal import HALT_FOR_EVER, load32, out8, say, store32
from virtio.entropy import Entropy
from virtio.errors import ConfigurationError
from vmm.config import DeviceConfig, MachineConfig
from vmm.ending.ending import End
from vmm.machine import Machine
from vmm.snapshot import Snapshot

DEADLINE = 120.0
BareMetal = Callable[[bytes], MachineConfig]

ADDRESS, DATA = 0xCF8, 0xCFC
ENABLE = 1 << 31
ENTROPY, SECOND = 1 << 11, 2 << 11
COMMAND, BAR_LOW, BAR_HIGH = 0x04, 0x10, 0x14
PLACE, ECAM = 0xD000_0000, 0xEEC0_0000
ENTROPY_IN_ECAM = 1 << 15
STATUS = 0x14
LISTEN = out8(0x3FA, 1) + out8(0x3FC, 3)  # the FIFO, DTR and RTS: a program listens
LISTEN += bytes.fromhex(
    "66bafd03 ec a801 74fb"  # mov dx, 0x3fd; 1: in al, dx; test al, 1; jz 1b
    "66baf803 ec"  # mov dx, 0x3f8; in al, dx
)
SAY_DIGIT = bytes.fromhex("0430 66baf803 ee")  # add al, '0'; mov dx, 0x3f8; out dx, al


def out32(port: int, value: int) -> bytes:
    """mov dx, port; mov eax, value; out dx, eax"""
    return b"\x66\xba" + struct.pack("<H", port) + b"\xb8" + struct.pack("<I", value) + b"\xef"


def in32(port: int) -> bytes:
    """mov dx, port; in eax, dx"""
    return b"\x66\xba" + struct.pack("<H", port) + b"\xed"


def configure(slot: int, register: int, value: int) -> bytes:
    """Write a dword of configuration space through the ports."""
    return out32(ADDRESS, ENABLE | slot | register) + out32(DATA, value)


def say_eax_as_digits() -> bytes:
    """Send the nibbles of eax as characters from '0' on, the highest first."""
    # mov ebx, eax; mov ecx, 8
    # 1: rol ebx, 4; mov eax, ebx; and al, 15; add al, '0'; mov dx, 0x3f8; out dx, al; dec ecx; jnz
    return bytes.fromhex("89c3 b908000000 c1c304 89d8 240f 0430 66baf803 ee 49 75ef")


def load8(address: int) -> bytes:
    """mov al, [address]"""
    return b"\xa0" + struct.pack("<I", address)


def store8(address: int, value: int) -> bytes:
    """mov byte [address], value"""
    return b"\xc6\x05" + struct.pack("<IB", address, value)


SET_UP = (
    configure(ENTROPY, COMMAND, 0)
    + configure(ENTROPY, BAR_LOW, PLACE)
    + configure(ENTROPY, BAR_HIGH, 0)
    + configure(ENTROPY, COMMAND, 6)
)


def on_pci(bare_metal: BareMetal, code: bytes) -> MachineConfig:
    return replace(bare_metal(code), transport="pci", devices=(Entropy,))


def said(config: MachineConfig) -> str:
    """Return what a guest said that ends by the debug-exit port."""
    with Machine(config) as machine:
        machine.boot()
        ending = machine.wait(DEADLINE)
        assert ending.status == 0, ending.message
        return machine.console.history().decode()


def test_ports_and_ecam_show_the_same_ids(bare_metal: BareMetal) -> None:
    ports = out32(ADDRESS, ENABLE | ENTROPY) + in32(DATA) + say_eax_as_digits()
    ecam = load32(ECAM + (ENTROPY << 4)) + say_eax_as_digits()
    absent = load32(ECAM + (31 << 15)) + say_eax_as_digits()

    text = said(on_pci(bare_metal, ports + say(" ") + ecam + say(" ") + absent + out8(0xF4, 0)))

    assert text == "10441:?4 10441:?4 ????????"


def test_bar_over_ram_leaves_ram_and_comes_back(bare_metal: BareMetal) -> None:
    code = SET_UP + configure(ENTROPY, BAR_LOW, 0)
    code += store32(0x2014, 0x0102_0304) + load32(0x2014) + say_eax_as_digits() + say(" ")
    code += configure(ENTROPY, BAR_LOW, ECAM) + load32(ECAM) + say_eax_as_digits() + say(" ")
    code += configure(ENTROPY, BAR_LOW, PLACE)
    code += load32(PLACE + 4) + say_eax_as_digits() + out8(0xF4, 0)

    # At last, of the features, the indirect descriptors and the event index.
    assert said(on_pci(bare_metal, code)) == "01020304 0=578086 30000000"


def test_bar_over_chips_windows_and_another_bar_disturbs_none_of_them(
    bare_metal: BareMetal,
) -> None:
    """The second function goes where others are; what is there answers, not its features word."""
    ioapic, local_apic, window, tss = 0xFEC0_0000, 0xFEE0_0000, 0xC000_0000, 0xFFFB_8000
    other = PLACE + 0x10_0000
    code = SET_UP + configure(SECOND, BAR_HIGH, 0) + configure(SECOND, COMMAND, 6)
    code += store32(ioapic, 1) + store32(PLACE, 1)
    for place, looked_at in (
        (ioapic, ioapic + 0x10),  # its version
        (local_apic, local_apic + 0x30),
        (window, window + 0x1000),  # "virt" of the device on virtio-mmio
        (PLACE, PLACE),  # what was written to the device in the lower slot
        (tss, window + 0x1000),
        (other | 0x7FF0, other + 4),  # and at last a place that is its own, oddly written
    ):
        code += configure(SECOND, BAR_LOW, place) + load32(looked_at) + say_eax_as_digits()
        code += say(" ")
    config = on_pci(bare_metal, code + out8(0xF4, 0))
    on_mmio = DeviceConfig(Entropy, "mmio")

    text = said(replace(config, devices=(on_mmio, Entropy, Entropy)))

    assert text == "00170011 00050014 74726976 00000001 74726976 30000000 "


def test_reset_control_port_resets(bare_metal: BareMetal) -> None:
    with Machine(on_pci(bare_metal, out8(0xCF9, 0x02) + out8(0xCF9, 0x06) + HALT_FOR_EVER)) as one:
        one.boot()

        assert one.wait(DEADLINE).end == End.REBOOT


def test_device_can_be_plugged_into_a_free_slot(bare_metal: BareMetal) -> None:
    # Listens for the time that somebody plugs a device in, and reads the ids of slot 2.
    ids = load32(ECAM + (2 << 15)) + say_eax_as_digits()
    code = ids + say(" ") + LISTEN + ids + out8(0xF4, 0)
    with Machine(replace(on_pci(bare_metal, code), spare_slots=1)) as machine:
        machine.boot()
        machine.console.wait_for(" ", timeout=DEADLINE)
        machine.plug(Entropy)
        machine.console.send("?")

        assert machine.wait(DEADLINE).status == 0
        assert machine.console.history().decode() == "???????? 10441:?4"


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"devices": (Entropy,) * 32}, id="devices"),
        pytest.param({"devices": (Entropy,) * 16, "spare_slots": 16}, id="spare slots"),
    ],
)
def test_machine_with_more_devices_than_slots_is_refused(
    bare_metal: BareMetal, more: dict[str, Any]
) -> None:
    config = replace(on_pci(bare_metal, HALT_FOR_EVER), **more)

    with pytest.raises(ConfigurationError, match="all 32 PCI slots are taken"), Machine(config):
        pass


def test_machine_with_pci_has_room_for_11_devices_on_mmio(bare_metal: BareMetal) -> None:
    on_mmio = (DeviceConfig(Entropy, "mmio"),)
    config = on_pci(bare_metal, HALT_FOR_EVER)

    with Machine(replace(config, devices=(*on_mmio * 11, Entropy))) as machine:
        assert len(machine.hardware.windows) == 11
    with (
        pytest.raises(ConfigurationError, match="device 12: a machine with PCI has at most 11"),
        Machine(replace(config, devices=on_mmio * 12)),
    ):
        pass


def test_machine_has_devices_on_both_transports(bare_metal: BareMetal) -> None:
    ids = load32(ECAM + ENTROPY_IN_ECAM) + say_eax_as_digits() + say(" ")
    ids += load32(0xC000_1008) + say_eax_as_digits() + out8(0xF4, 0)
    config = bare_metal(ids)

    config = replace(config, rng=True, devices=(DeviceConfig(Entropy, "pci"),))

    assert said(config) == "10441:?4 00000004"


@pytest.fixture
def snapshot(bare_metal: BareMetal, tmp_path: Path) -> Snapshot:
    """A machine whose guest put its device into place, and listens."""
    status = load8(PLACE + STATUS) + SAY_DIGIT
    code = SET_UP + store8(PLACE + STATUS, 1) + say("ready ") + LISTEN + status + out8(0xF4, 0)
    with Machine(on_pci(bare_metal, code)) as machine:
        machine.boot()
        machine.console.wait_for("ready ", timeout=DEADLINE)
        with machine.snapshot() as taken:
            taken.save(tmp_path / "saved")
    return Snapshot.load(tmp_path / "saved", devices=(Entropy,))


def test_restored_guest_finds_its_device_where_it_put_it(snapshot: Snapshot) -> None:
    with snapshot, Machine.restore(snapshot) as machine:
        machine.resume()
        machine.console.send("?")
        ending = machine.wait(DEADLINE)

        assert ending.status == 0
        assert machine.console.history().decode() == "1"
        pci = machine.hardware.platform.pci
        assert pci is not None
        assert (PLACE, 0x8000) in pci.bus.claims()
