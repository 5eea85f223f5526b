"""Slots of a machine: who gets which, how many there are, which a saved machine can have had."""

from collections.abc import Callable
from typing import Any

import pytest

from virtio.entropy import Entropy
from virtio.errors import ConfigurationError
from vmm.config import DeviceConfig, MachineConfig
from vmm.disk.disk import DiskConfig
from vmm.slots import Slot, Slots

DISK, SPARE = Slot("mmio", 0, "block0"), Slot("mmio", 1)


def test_slots_of_each_bus_are_counted_from_its_first() -> None:
    slots = Slots()

    assert [slots.add("mmio"), slots.add("pci"), slots.add("mmio"), slots.add("pci")] == [
        ("mmio", 0, ""),
        ("pci", 1, ""),
        ("mmio", 1, ""),
        ("pci", 2, ""),
    ]


def test_lowest_spare_slot_is_taken_also_when_it_became_spare_last() -> None:
    slots = Slots()
    first = slots.add("pci", "one")
    slots.add("pci")
    slots.give_back(first)

    assert slots.take("pci", "two") == ("pci", 1, "two")
    assert slots.take("pci", "three") == ("pci", 2, "three")


def test_full_bus_says_how_many_slots_it_has() -> None:
    slots = Slots()
    for name in ("one", "two"):
        slots.add("mmio", name)

    with pytest.raises(ConfigurationError, match=r"three: none of the 2 mmio slots .* spare_slots"):
        slots.take("mmio", "three")
    with pytest.raises(ConfigurationError, match="three: none of the 0 pci slots"):
        slots.take("pci", "three")


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        pytest.param((), "0 virtio devices, it has 1", id="none"),
        pytest.param(
            (DISK, Slot("mmio", 1, "block1")), "2 virtio devices, it has 1", id="too many"
        ),
        pytest.param((DISK, Slot("mmio", 2)), r"numbers \[0, 2\]", id="gap"),
        pytest.param((DISK, Slot("pci", 0)), r"pci slots have the numbers \[0\]", id="bridge"),
        pytest.param((DISK, SPARE, SPARE), r"numbers \[0, 1, 1\]", id="one number twice"),
        pytest.param((Slot("mmio", 0, "\x1b[2J"),), "no name", id="no name"),
        pytest.param((Slot("mmio", 40, "block0"),), "number is 40, must be 0 to 31", id="number"),
    ],
)
def test_slots_that_no_machine_has_are_refused(saved: tuple[Slot, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Slots.saved(saved, devices=1)


def test_two_devices_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="two of its devices have the same name"):
        Slots.saved((DISK, Slot("pci", 1, "block0")), devices=2)


def test_saved_slots_are_those_that_they_were() -> None:
    assert list(Slots.saved((DISK, Slot("pci", 1), SPARE), devices=1)) == [
        DISK,
        SPARE,
        Slot("pci", 1),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"transport": "pci"},
        {"disks": (DiskConfig("a.img", transport="pci"),)},
        {"rng_transport": "pci"},
        {"console_transport": "pci", "console": "virtio"},
        {"console_transport": "pci", "agent": "init"},
        {"devices": (DeviceConfig(Entropy, "pci"),)},
    ],
    ids=lambda change: "+".join(change),
)
def test_one_device_on_pci_makes_a_machine_with_pci(change: dict[str, Any]) -> None:
    assert MachineConfig(**change).uses_pci


@pytest.mark.parametrize(
    "change",
    [{}, {"rng": False, "rng_transport": "pci"}, {"console_transport": "pci"}],
    ids=["default", "no rng", "no console"],
)
def test_device_that_is_not_there_needs_no_pci(change: dict[str, Any]) -> None:
    assert not MachineConfig(**change).uses_pci


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: DiskConfig.parse("a.img,transport=isa"), "disk a.img: transport 'isa': must be"),
        (lambda isa: DeviceConfig(Entropy, isa), "device: transport 'isa': must be mmio or pci"),
        (lambda isa: MachineConfig(rng_transport=isa), "rng: transport 'isa'"),
        (lambda isa: MachineConfig(console_transport=isa), "console: transport 'isa'"),
    ],
    ids=["disk", "device", "rng", "console"],
)
def test_another_transport_is_refused(make: Callable[[Any], object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make("isa")
