"""What stands in guest memory at kernel entry, by offsets typed from the specifications."""

import gzip
import mmap
import struct
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from virtio.memory import FlatMemory
from vmm.x86.boot.boot import BootSource, write_boot
from vmm.x86.boot.e820 import memory_map
from vmm.x86.boot.entry import EntryPoint
from vmm.x86.boot.initrd import place_initrd
from vmm.x86.boot.kernel import LoadedKernel
from vmm.x86.boot.zero_page import write_zero_page
from vmm.x86.layout import VirtioMmioWindow

RAM = 4 << 20
WINDOWS = [VirtioMmioWindow(0xC0001000, 5)]
LINE = b"quiet virtio_mmio.device=4K@0xc0001000:5\0"

ELF_HEAD = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
    "<HHIQQQIHHHHHH", 2, 62, 1, 0x100000, 64, 0, 0, 64, 56, 2, 0, 0, 0
)
LOAD = struct.pack("<IIQQQQQQ", 1, 7, 176, 0x100000, 0x100000, 16, 0x1234, 4096)
NOTE = struct.pack("<IIQQQQQQ", 4, 4, 192, 0, 0, 20, 20, 4)
CODE = b"0123456789abcdef"
PVH_NOTE = struct.pack("<III", 4, 4, 18) + b"Xen\0" + struct.pack("<I", 0x100004)
VMLINUX = ELF_HEAD + LOAD + NOTE + CODE + PVH_NOTE


def boot(
    directory: Path, *, initrd: Path | bytes | None = None, protocol: str, cpus: int = 1
) -> tuple[EntryPoint, bytearray]:
    (directory / "vmlinux").write_bytes(VMLINUX)
    ram = bytearray(b"\xee") * RAM
    source = BootSource(directory / "vmlinux", initrd, "quiet", protocol)  # type: ignore[arg-type]
    return write_boot(FlatMemory([(0, ram)]), source, apic_ids=range(cpus), windows=WINDOWS), ram


def test_64_bit_entry_gets_the_zero_page_in_rsi(tmp_path: Path) -> None:
    entry, ram = boot(tmp_path, protocol="linux64")

    assert entry == EntryPoint("linux64", 0x100000, rsi=0x7000, rbx=0, rsp=0x8FF0)
    assert ram[0x100000:0x100010] == CODE
    assert ram[0x20000 : 0x20000 + len(LINE)] == LINE
    assert ram[0x9FC00:0x9FC04] == b"_MP_"


def test_zero_page_of_an_elf_kernel(tmp_path: Path) -> None:
    _, ram = boot(tmp_path, initrd=b"I" * 0x1001, protocol="linux64")
    page = ram[0x7000:0x8000]

    expected = bytearray(4096)
    expected[0x1E8] = 4
    expected[0x1FE:0x200] = b"\x55\xaa"
    expected[0x202:0x206] = b"HdrS"
    expected[0x210] = 0xFF
    expected[0x218:0x220] = struct.pack("<II", 0x3FE000, 0x1001)
    expected[0x228:0x22C] = struct.pack("<I", 0x20000)
    expected[0x230:0x234] = struct.pack("<I", 0x1000000)
    expected[0x238:0x23C] = struct.pack("<I", 2047)
    expected[0x2D0:0x2E4] = struct.pack("<QQI", 0, 0x9FC00, 1)
    expected[0x2E4:0x2F8] = struct.pack("<QQI", 0x9FC00, 0x40400, 2)
    expected[0x2F8:0x30C] = struct.pack("<QQI", 0x100000, 0x300000, 1)
    expected[0x30C:0x320] = struct.pack("<QQI", 0xEEC00000, 0x10000000, 2)
    assert page == expected


def test_zero_page_without_initrd_names_none(tmp_path: Path) -> None:
    _, ram = boot(tmp_path, protocol="linux64")

    assert ram[0x7218:0x7220] == bytes(8)


def test_zero_page_of_a_bzimage_carries_its_setup_header() -> None:
    ram = bytearray(b"\xee") * 0x10000
    header = bytes(range(123))
    kernel = LoadedKernel(0x100000, "linux64", 0x100000, 0x200000, header)

    write_zero_page(FlatMemory([(0, ram)]), kernel, None, memory_map([(0, RAM)]))

    page = ram[0x7000:0x8000]
    assert page[0x1F1:0x210] == header[:0x1F]
    assert page[0x210] == 0xFF
    assert page[0x211:0x228] == header[0x20:0x37]
    assert page[0x228:0x22C] == b"\0\0\x02\0"
    assert page[0x22C:0x26C] == header[0x3B:]
    assert page[0x1EF] == 0
    assert page[0x26C:0x2D0] == bytes(0x64)


def test_pvh_entry_gets_the_start_info_in_rbx(tmp_path: Path) -> None:
    entry, ram = boot(tmp_path, initrd=b"I" * 0x1001, protocol="auto")

    assert entry == EntryPoint("pvh", 0x100004, rsi=0, rbx=0x6000, rsp=0)
    info = struct.unpack_from("<IIIIQQQQII", ram, 0x6000)
    assert info == (0x336EC578, 1, 0, 1, 0x6040, 0x20000, 0, 0x7000, 4, 0)
    assert struct.unpack_from("<QQQQ", ram, 0x6040) == (0x3FE000, 0x1001, 0, 0)
    assert ram[0x20000 : 0x20000 + len(LINE)] == LINE


def test_pvh_memory_map_is_that_of_e820(tmp_path: Path) -> None:
    _, ram = boot(tmp_path, protocol="pvh")

    assert list(struct.iter_unpack("<QQII", ram[0x7000:0x7060])) == [
        (0, 0x9FC00, 1, 0),
        (0x9FC00, 0x40400, 2, 0),
        (0x100000, 0x300000, 1, 0),
        (0xEEC00000, 0x10000000, 2, 0),
    ]


def test_pvh_without_initrd_has_no_module(tmp_path: Path) -> None:
    _, ram = boot(tmp_path, protocol="pvh")

    assert struct.unpack_from("<IQ", ram, 0x600C) == (0, 0)


def test_pvh_leaves_the_page_tables_place_alone(tmp_path: Path) -> None:
    _, ram = boot(tmp_path, protocol="pvh")

    assert ram[0x9000:0xC000] == b"\xee" * 0x3000


def test_initrd_file_stands_at_the_top_of_ram(tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(b"I" * 0x1001)

    _, ram = boot(tmp_path, initrd=tmp_path / "initrd", protocol="pvh")

    assert ram[0x3FDFFF:0x400000] == b"\xee" + b"I" * 0x1001 + b"\xee" * 0xFFF


def test_initrd_stays_below_the_images_limit() -> None:
    kernel = LoadedKernel(0x100000, "pvh", 0x100000, 0x200000, initrd_addr_max=0x2FFFFF)

    assert place_initrd(0x1000, FlatMemory([(0, bytearray(RAM))]), kernel) == 0x2FF000


def test_initrd_that_just_fits_is_loaded(tmp_path: Path) -> None:
    _, ram = boot(tmp_path, initrd=b"I" * (0x400000 - 0x102000), protocol="pvh")

    assert ram[0x102000:] == b"I" * (0x400000 - 0x102000)
    assert ram[0x101FFF] == 0xEE


def test_initrd_that_reaches_the_kernel_is_refused_with_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        boot(tmp_path, initrd=b"I" * (0x400000 - 0x101000), protocol="pvh")

    assert str(caught.value) == (
        "initrd: has 3141632 bytes; between the end of the kernel at 0x101234 and 0x400000 there "
        "is room for 3141068: give the machine more RAM"
    )


def test_initrd_larger_than_ram_is_refused(tmp_path: Path) -> None:
    (tmp_path / "initrd").touch()
    with (tmp_path / "initrd").open("wb") as file:
        file.truncate(1 << 40)

    with pytest.raises(ConfigurationError, match="has 1099511627776 bytes"):
        boot(tmp_path, initrd=tmp_path / "initrd", protocol="pvh")


def test_empty_initrd_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="initrd: is empty"):
        boot(tmp_path, initrd=b"", protocol="pvh")


def test_missing_initrd_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"initrd /.*/none: cannot be opened: No such"):
        boot(tmp_path, initrd=tmp_path / "none", protocol="pvh")


def test_mp_table_names_every_cpu(tmp_path: Path) -> None:
    _, ram = boot(tmp_path, protocol="pvh", cpus=3)

    assert ram[0x9FC14:0x9FC16] == struct.pack("<H", 268 + 3 * 20)


def test_no_view_of_guest_ram_outlives_a_boot_or_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(VMLINUX[:-1])
    mapping = mmap.mmap(-1, RAM)
    memory = FlatMemory([(0, memoryview(mapping))])

    with pytest.raises(ConfigurationError) as caught:
        write_boot(memory, BootSource(tmp_path / "vmlinux"), apic_ids=range(1))
    memory.release()
    mapping.close()

    assert "truncated" in str(caught.value)


ACPI_PARAMETER = b"acpi_no_auto_serialize\0"


def boot_with_acpi(
    directory: Path, *, code: bytes = b"", cmdline: str = "quiet", protocol: str = "linux64"
) -> bytearray:
    content = bytearray(VMLINUX + code)
    struct.pack_into("<Q", content, 64 + 32, 16 + 20 + len(code))  # p_filesz of the first segment
    (directory / "vmlinux").write_bytes(content)
    ram = bytearray(RAM)
    source = BootSource(directory / "vmlinux", None, cmdline, protocol, acpi=True)  # type: ignore[arg-type]
    write_boot(FlatMemory([(0, ram)]), source, apic_ids=range(1), windows=WINDOWS)
    return ram


def test_a_kernel_is_told_where_acpi_begins(tmp_path: Path) -> None:
    zero_page = boot_with_acpi(tmp_path)[0x7000:0x8000]
    start_info = boot_with_acpi(tmp_path, protocol="pvh")[0x6000:0x6038]

    assert struct.unpack_from("<Q", zero_page, 0x70) == (0xE0000,)
    assert struct.unpack_from("<Q", start_info, 32) == (0xE0000,)


def test_a_kernel_with_acpi_is_not_told_of_its_devices_twice(tmp_path: Path) -> None:
    ram = boot_with_acpi(tmp_path, code=ACPI_PARAMETER)

    assert ram[0x20000:0x20006] == b"quiet\0"
    assert ram[0xE0000:0xE0008] == b"RSD PTR "


@pytest.mark.parametrize("cmdline", ["acpi=off", "quiet acpi=off", 'ro "acpi=off" quiet'])
def test_a_kernel_whose_acpi_is_off_is_told_on_the_command_line(
    tmp_path: Path, cmdline: str
) -> None:
    ram = boot_with_acpi(tmp_path, code=ACPI_PARAMETER, cmdline=cmdline)

    assert b" virtio_mmio.device=4K@0xc0001000:5\0" in ram[0x20000:0x20100]


def test_a_kernel_without_acpi_has_the_mp_table_and_the_command_line(tmp_path: Path) -> None:
    ram = boot_with_acpi(tmp_path)

    assert ram[0x20000 : 0x20000 + len(LINE)] == LINE
    assert ram[0x9FC00:0x9FC04] == b"_MP_"
    assert ram[0xE0000:0xE0008] == b"RSD PTR "


def test_without_acpi_there_are_no_tables(tmp_path: Path) -> None:
    _, ram = boot(tmp_path, protocol="linux64")

    assert ram[0xE0000:0xE0008] == b"\xee" * 8
    assert ram[0x7070:0x7078] == bytes(8)


def test_a_kernels_own_configuration_is_checked_before_it_is_started(tmp_path: Path) -> None:
    held = b"IKCFG_ST" + gzip.compress(b"CONFIG_PCI=y\n")
    load = struct.pack("<IIQQQQQQ", 1, 7, 176, 0x100000, 0x100000, len(held), 0x1234, 4096)
    (tmp_path / "vmlinux").write_bytes(ELF_HEAD + load + bytes(56) + held)
    told: list[str] = []
    source = BootSource(tmp_path / "vmlinux", protocol="linux64", check_config=told.append)
    write_boot(FlatMemory([(0, bytearray(RAM))]), source, apic_ids=[0])

    assert told == ["CONFIG_PCI=y\n"]
