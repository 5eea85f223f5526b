"""Kernels other than Linux find the disk of their machine, by PCI and by ACPI, and end it."""

from pathlib import Path

import pytest

from tests.guest.own_kernel import own_kernel
from vmm import DiskConfig, End, Machine, MachineConfig

DEADLINE = 120.0
TEXT = "text in the first sector\n"


@pytest.mark.parametrize(
    ("bits", "boot", "find", "transport"),
    [
        (64, "auto", "ports", "pci"),
        (64, "elf64", "ecam", "pci"),
        (64, "auto", "mmio", "mmio"),
        (32, "auto", "mmio", "mmio"),
        (32, "multiboot", "ports", "pci"),
        (32, "auto", "ecam", "pci"),
    ],
)
def test_a_kernel_of_ones_own_reads_a_disk(
    tmp_path: Path, bits: int, boot: str, find: str, transport: str
) -> None:
    image = tmp_path / "disk"
    image.write_bytes(TEXT.encode().ljust(4096, b"\0"))
    config = MachineConfig(
        kernel=own_kernel("disk", bits=bits),
        boot=boot,  # type: ignore[arg-type]
        cmdline=f"{find:6}off" if transport == "mmio" else f"{find:6}42",
        transport=transport,  # type: ignore[arg-type]
        disks=(DiskConfig(str(image)),),
        memory_bytes=32 << 20,
    )

    with Machine(config) as machine:
        machine.boot()
        ending = machine.wait(DEADLINE)
        said = machine.console.history().decode()

    assert said == f"the disk says: {TEXT}"
    by_acpi, by_status = (End.POWER_OFF, 0), (End.REPORTED, 42)
    assert (ending.end, ending.status) == (by_acpi if transport == "mmio" else by_status)


def test_a_machine_without_a_disk_shows_none(tmp_path: Path) -> None:
    config = MachineConfig(kernel=own_kernel("disk", bits=64), cmdline="ports ", transport="pci")

    with Machine(config) as machine:
        machine.boot()
        ending = machine.wait(DEADLINE)

    assert (ending.status, machine.console.history()) == (3, b"no disk\n")
