"""Each table goes through ACPI's own compiler: disassembled and compiled again it is the same."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.vmm.x86.acpi import machines
from vmm.x86.acpi.fadt import fadt
from vmm.x86.acpi.madt import madt
from vmm.x86.acpi.mcfg import mcfg
from vmm.x86.acpi.table import rsdp, xsdt
from vmm.x86.acpi.tables import dsdt

pytestmark = pytest.mark.skipif(
    shutil.which("iasl") is None, reason="needs iasl, of the Debian package acpica-tools"
)

TABLES = {
    "dsdt of a small machine": dsdt(machines.SMALL),
    "dsdt with virtio-mmio": dsdt(machines.MMIO),
    "dsdt with PCI": dsdt(machines.PCI),
    "dsdt of the largest machine": dsdt(machines.LARGE),
    "fadt": fadt(0xA2000),
    "madt": madt(range(4)),
    "mcfg": mcfg(),
    "xsdt": xsdt([0xA2000, 0xA3000]),
}

# A pointer cannot be disassembled: it is no table.
ROOT_POINTER = """
[0008] Signature : "RSD PTR "
[0001] Checksum : 00
[0006] Oem ID : "PYVMM "
[0001] Revision : 02
[0004] RSDT Address : 00000000
[0004] Length : 00000024
[0008] XSDT Address : 000000123456789A
[0001] Extended Checksum : 00
[0003] Reserved : 000000
"""


def iasl(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["iasl", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def as_made_by(creator: bytes, table: bytes) -> bytes:
    """Return a table with another's name and revision of its creator, and the right checksum."""
    data = bytearray(table)
    data[28:36] = creator
    data[9] = 0
    data[9] = -sum(data) & 0xFF
    return bytes(data)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_disassembled_and_compiled_again_is_the_same(name: str, tmp_path: Path) -> None:
    table = TABLES[name]
    (tmp_path / "ours.dat").write_bytes(table)

    iasl(tmp_path, "-d", "ours.dat")
    iasl(tmp_path, "-p", "theirs", "ours.dsl")

    theirs = (tmp_path / "theirs.aml").read_bytes()
    assert theirs == as_made_by(theirs[28:36], table)


def test_the_compiler_has_nothing_to_remark_on_the_devices(tmp_path: Path) -> None:
    (tmp_path / "ours.dat").write_bytes(TABLES["dsdt of the largest machine"])

    iasl(tmp_path, "-d", "ours.dat")
    said = iasl(tmp_path, "-p", "theirs", "ours.dsl")

    assert "0 Errors, 0 Warnings, 0 Remarks, 0 Optimizations" in said


def test_the_root_pointer_is_what_the_compiler_makes_of_its_source(tmp_path: Path) -> None:
    (tmp_path / "pointer.asl").write_text(ROOT_POINTER)

    iasl(tmp_path, "-p", "theirs", "pointer.asl")

    assert (tmp_path / "theirs.aml").read_bytes() == rsdp(0x123456789A)
