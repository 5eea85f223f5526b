"""A report names the driver that a guest's kernel may lack, for devices that nobody touched."""

from types import SimpleNamespace
from typing import Any

import pytest

from transport.mmio.registers import VirtioMmio
from vmm.ending.untouched import untouched


def transport(name: str, device_id: int, reached: int, *, mmio: bool = False) -> Any:
    one: Any = VirtioMmio.__new__(VirtioMmio) if mmio else SimpleNamespace()
    one.name, one.reached, one.device = name, reached, SimpleNamespace(device_id=device_id)
    return one


def test_devices_with_a_driver_are_no_matter() -> None:
    assert untouched([transport("block0", 2, 0xF), transport("entropy", 4, 0x3)]) == []


def test_a_device_that_only_its_bus_knows_lacks_its_own_driver() -> None:
    [line] = untouched([transport("block0", 2, 0x1), transport("entropy", 4, 0xF)])

    assert line == (
        "no driver of the guest ever touched block0: has its kernel CONFIG_VIRTIO_BLK, or its"
        " initrd the module virtio_blk?"
    )


@pytest.mark.parametrize(
    ("mmio", "kind", "option"),
    [(False, "pci", "CONFIG_VIRTIO_PCI"), (True, "mmio", "CONFIG_VIRTIO_MMIO")],
)
def test_a_bus_that_nobody_looked_at_lacks_the_driver_of_the_transport(
    mmio: bool, kind: str, option: str
) -> None:
    [line] = untouched(
        [transport("block0", 2, 0, mmio=mmio), transport("entropy", 4, 0, mmio=mmio)]
    )

    assert f"touched block0, entropy (transport {kind}): has its kernel {option}, or" in line


def test_each_bus_is_told_by_itself() -> None:
    [line] = untouched([transport("block0", 2, 0, mmio=True), transport("entropy", 4, 0xF)])

    assert "block0 (transport mmio)" in line


def test_a_device_of_no_known_kind_is_named_without_a_guess() -> None:
    assert untouched([transport("dice0", 77, 0x1)]) == ["no driver of the guest ever touched dice0"]
