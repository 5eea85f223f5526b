"""Kernels with Multiboot headers: what is taken, what they are told, and what is refused.

Numbers are typed from the Multiboot Specification 0.6.96 and the Multiboot2 Specification 2.0.
"""

import struct
from pathlib import Path
from typing import Any

import pytest

from tests.unit.vmm.x86.boot.test_elf import elf, program_header
from virtio.errors import ConfigurationError
from virtio.memory import FlatMemory
from vmm.x86.boot.boot import BootSource, write_boot
from vmm.x86.boot.entry import EntryPoint, entry_regs
from vmm.x86.boot.kernel import LoadedKernel, load_kernel

RAM = 8 << 20
CODE = 0x200000


def header1(flags: int = 0, *words: int, checksum: int | None = None) -> bytes:
    checksum = -(0x1BADB002 + flags) & 0xFFFFFFFF if checksum is None else checksum
    return struct.pack(f"<{3 + len(words)}I", 0x1BADB002, flags, checksum, *words)


def tag(kind: int, body: bytes = b"", *, optional: bool = False) -> bytes:
    size = 8 + len(body)
    return struct.pack("<HHI", kind, optional, size) + body + bytes(-size % 8)


def header2(*tags: bytes, architecture: int = 0, length: int | None = None, off: int = 0) -> bytes:
    body = b"".join(tags) + tag(0)
    length = 16 + len(body) if length is None else length
    checksum = -(0xE85250D6 + architecture + length) + off & 0xFFFFFFFF
    return struct.pack("<IIII", 0xE85250D6, architecture, length, checksum) + body


def elf64(body: bytes, at: int = CODE) -> bytes:
    """An ELF whose only segment is ``body``, at byte 0x1000 of the file."""
    return elf([program_header(1, 0x1000, at, len(body), len(body) + 64)], body, entry=at)


def elf32(body: bytes, *, machine: int = 3, at: int = CODE) -> bytes:
    head = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIIIIIHHHHHH", 2, machine, 1, at, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    head += struct.pack("<IIIIIIII", 1, 0x1000, at, at, len(body), len(body) + 64, 5, 0x1000)
    return head.ljust(0x1000, b"\0") + body


def load(directory: Path, image: bytes, protocol: Any = "auto") -> tuple[LoadedKernel, bytearray]:
    ram = bytearray(b"\xee") * RAM
    (directory / "kernel").write_bytes(image)
    return load_kernel(directory / "kernel", FlatMemory([(0, ram)]), protocol=protocol), ram


def refusal(directory: Path, image: bytes, protocol: Any = "auto") -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(directory, image, protocol)
    return str(caught.value)


@pytest.mark.parametrize("make", [elf32, elf64])
@pytest.mark.parametrize(
    ("header", "protocol"), [(header1(3), "multiboot"), (header2(), "multiboot2")]
)
def test_elf_with_a_header_is_loaded_by_its_segments(
    tmp_path: Path, make: Any, header: bytes, protocol: str
) -> None:
    kernel, ram = load(tmp_path, make(header + b"CODE"))

    assert kernel[:4] == (CODE, protocol, CODE, CODE + len(header) + 68)
    assert ram[CODE : kernel.end] == header + b"CODE" + bytes(64)
    assert ram[kernel.end] == 0xEE


def test_a_header_with_addresses_loads_a_file_that_is_no_elf(tmp_path: Path) -> None:
    # The header is at byte 16 of the file, which goes to 0x200000 from its byte 0 on.
    header = header1(1 << 16, CODE + 16, CODE, CODE + 60, CODE + 100, CODE + 56)
    image = b"A" * 16 + header + b"B" * 12 + b"not loaded"

    kernel, ram = load(tmp_path, image)

    assert kernel[:4] == (CODE + 56, "multiboot", CODE, CODE + 100)
    assert ram[CODE : CODE + 101] == image[:60] + bytes(40) + b"\xee"


def test_a_file_is_loaded_to_its_end_where_the_header_names_none(tmp_path: Path) -> None:
    header = header1(1 << 16, CODE, CODE, 0, 0, CODE + 32)

    kernel, ram = load(tmp_path, b"ab" * 8 + header + b"the end")

    assert ram[CODE : kernel.end] == header + b"the end"


def test_tags_of_version_2_name_addresses_and_entry(tmp_path: Path) -> None:
    addresses = struct.pack("<IIII", CODE + 8, 0xFFFFFFFF, 0, 0)  # from the beginning of the file
    header = header2(tag(2, addresses), tag(3, struct.pack("<I", CODE + 80)))

    kernel, ram = load(tmp_path, bytes(8) + header + bytes(30))

    assert kernel[:3] == (CODE + 80, "multiboot2", CODE)
    assert ram[CODE + 8 : CODE + 8 + len(header)] == header


def test_tags_that_may_be_left_out_are(tmp_path: Path) -> None:
    wants = tag(1, struct.pack("<III", 1, 6, 15))
    framebuffer = tag(5, bytes(12), optional=True)
    image = elf32(header2(wants, tag(6), tag(4, bytes(4)), framebuffer, tag(99, optional=True)))

    assert load(tmp_path, image)[0].protocol == "multiboot2"


def test_version_2_is_taken_where_both_are_there_unless_the_user_says_so(tmp_path: Path) -> None:
    image = elf64(header1() + bytes(4) + header2())

    assert load(tmp_path, image)[0].protocol == "multiboot2"
    assert load(tmp_path, image, "multiboot")[0].protocol == "multiboot"
    assert load(tmp_path, image, "elf64")[0].protocol == "elf64"


@pytest.mark.parametrize("make", [elf32, elf64])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (header1(4), "asks for a video mode (flag 2), and the machine has no display"),
        (header1(0x8001), "needs flags 0x8000, which mean nothing here"),
        (header2(architecture=4), "is for architecture 4, must be 0"),
        (header2(length=8), "has 8 bytes, must be 16 to 4096"),
        (header2(length=4000), "truncated: its Multiboot2 header ends at"),
        (header2(tag(5, bytes(12))), "needs what tag 5 asks for, which there is none of here"),
        (header2(tag(7)), "needs what tag 7 asks for"),
        (header2(tag(1, struct.pack("<II", 6, 8))), "asks for information of type 8"),
        (header2(struct.pack("<HHI", 4, 0, 4)), "tag 4 of its Multiboot2 header has 4 bytes"),
        (header2(length=16), "has no end tag"),
    ],
)
def test_what_no_machine_here_has_is_refused(
    tmp_path: Path, make: Any, body: bytes, message: str
) -> None:
    assert message in refusal(tmp_path, make(body))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (elf32(b"CODE"), "is a 32-bit ELF file: a 64-bit one, or a Multiboot header, is needed"),
        (elf32(header1(3, checksum=7)), "has checksum 0x7, must be 0xe4524ffb"),
        (elf32(header2(off=1)), "Multiboot2 header at byte 4096 has a wrong checksum"),
        (elf32(bytes(5000) + header1()), "header is at byte 9096, must be in the first 8192: put"),
        (elf32(header1()[:-2]), "truncated: its Multiboot header ends at byte 4108"),
        (elf32(header1(1 << 16, CODE)), "truncated: its Multiboot header ends at byte 4128"),
        (elf32(header1(), machine=40), "is an ELF file for Arm, not x86-64"),
        (elf32(header1(), at=0x9000), "overlaps the boot area, which ends at 0x100000"),
        (elf32(header1(), at=0x7FF000), ""),
        (elf32(header1(), at=0xA00000), "RAM too small: the kernel ends at"),
        (elf32(header1(), at=0xC0000000), "is outside RAM, which ends at 0xc0000000 at most"),
        (header1(3), "its Multiboot header has no addresses, and the file is no ELF"),
        (header1(1 << 16, CODE, CODE + 4, 0, 0, CODE), "which does not fit"),
        (header1(1 << 16, CODE + 4, CODE, 0, 0, CODE), "which does not fit"),
        (header1(1 << 16, CODE, CODE, CODE - 4, 0, CODE), "must be in ascending order"),
        (header1(1 << 16, CODE, CODE, 0, CODE + 4, CODE), "must be in ascending order"),
        (header1(1 << 16, CODE, CODE, CODE + 99, 0, CODE), "truncated: its segment at 0x200000"),
        (header1(1 << 16, CODE, CODE, 0, 0, CODE + 32), "entry 0x200020 is in no loaded segment"),
        (header1(1 << 16, 0x7C00, 0x7C00, 0, 0, 0x7C00), "overlaps the boot area"),
        (header2(tag(2, struct.pack("<IIII", CODE, CODE, 0, 0))), "has addresses and no entry"),
    ],
)
def test_a_kernel_that_cannot_be_started_says_why(
    tmp_path: Path, image: bytes, message: str
) -> None:
    if message:
        assert message in refusal(tmp_path, image)
    else:
        assert load(tmp_path, image)[0].start == 0x7FF000


@pytest.mark.parametrize("protocol", ["multiboot", "multiboot2"])
def test_a_protocol_that_the_file_is_not_for_is_refused(tmp_path: Path, protocol: str) -> None:
    assert f"has no {protocol.title()} header" in refusal(tmp_path, elf64(b"CODE"), protocol)


def test_a_disk_image_with_a_boot_loader_in_it_is_told_as_what_it_is(tmp_path: Path) -> None:
    image = bytes(510) + b"\x55\xaa" + header1(checksum=1) + bytes(9000) + header1()

    assert "looks like a boot sector or disk image" in refusal(tmp_path, image)
    assert "has checksum 0x1" in refusal(tmp_path, image, "multiboot")


def test_the_magic_number_in_a_plain_elf_is_no_header(tmp_path: Path) -> None:
    image = elf64(b"\x90" + header1() + bytes(3) + header1(checksum=1))

    assert load(tmp_path, image)[0].protocol == "elf64"


def boot(directory: Path, image: bytes, **source: Any) -> tuple[EntryPoint, bytearray]:
    ram = bytearray(RAM)
    (directory / "kernel").write_bytes(image)
    boot_source = BootSource(directory / "kernel", **source)
    return write_boot(FlatMemory([(0, ram)]), boot_source, apic_ids=range(2)), ram


def test_version_1_tells_memory_modules_and_command_line(tmp_path: Path) -> None:
    module = b"\x1f\x8b is no stream: a module is loaded as it is"
    source = {"initrd": module, "cmdline": "console=ttyS0 mine", "own_cmdline": "mine"}
    entry, ram = boot(tmp_path, elf32(header1(3) + b"CODE"), **source)

    assert (entry.rip, entry.rax, entry.rbx, entry.rsp) == (CODE, 0x2BADB002, entry.rbx, 0)
    info = struct.unpack_from("<7I", ram, entry.rbx)
    assert info[0] == 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9
    assert info[1:3] == (639, (RAM >> 10) - 1024)
    assert text(ram, info[4]) == b"mine"
    start, end, name, zero = struct.unpack_from("<4I", ram, info[6])
    assert (info[5], bytes(ram[start:end]), start % 4096, zero) == (1, module, 0, 0)
    assert text(ram, name) == b"initrd"
    length, entries = struct.unpack_from("<II", ram, entry.rbx + 44)
    found = list(struct.iter_unpack("<IQQI", ram[entries : entries + length]))
    assert found[0] == (20, 0, 0x9FC00, 1)
    assert (20, 0x100000, RAM - 0x100000, 1) in found
    assert text(ram, struct.unpack_from("<I", ram, entry.rbx + 64)[0]) == b"pyvmm"


def test_version_2_tells_the_same_and_the_root_pointer_in_tags(tmp_path: Path) -> None:
    source = {"initrd": b"data", "own_cmdline": "mine", "acpi": True}
    entry, ram = boot(tmp_path, elf32(header2() + b"CODE"), **source)

    assert (entry.rip, entry.rax) == (CODE, 0x36D76289)
    assert entry.rbx % 8 == 0
    total, zero = struct.unpack_from("<II", ram, entry.rbx)
    tags, position = {}, entry.rbx + 8
    while position < entry.rbx + total:
        kind, size = struct.unpack_from("<II", ram, position)
        tags[kind] = bytes(ram[position + 8 : position + size])
        position += size + -size % 8
    assert (zero, position, list(tags)[-1]) == (0, entry.rbx + total, 0)
    assert tags[1] == b"mine\0"
    assert tags[2] == b"pyvmm\0"
    assert tags[4] == struct.pack("<II", 639, (RAM >> 10) - 1024)
    start, end = struct.unpack_from("<II", tags[3])
    assert (bytes(ram[start:end]), tags[3][8:]) == (b"data", b"initrd\0")
    assert tags[6][:8] == struct.pack("<II", 24, 0)
    assert struct.pack("<QQII", 0x100000, RAM - 0x100000, 1, 0) in tags[6]
    assert tags[15] == ram[0xE0000:0xE0024]
    assert tags[14] == tags[15][:20]


def test_a_plain_elf_is_entered_as_a_function_of_the_start_info(tmp_path: Path) -> None:
    entry, ram = boot(tmp_path, elf64(b"CODE"), cmdline="console=ttyS0", own_cmdline="a b")

    regs = entry_regs(entry)
    assert (entry.rip, regs.rdi, regs.rsi) == (CODE, 0x6000, 0)
    assert regs.rsp % 16 == 8
    assert ram[regs.rsp : regs.rsp + 8] == bytes(8)
    magic, version = struct.unpack_from("<II", ram, regs.rdi)
    assert (magic, version) == (0x336EC578, 1)
    assert text(ram, struct.unpack_from("<Q", ram, regs.rdi + 24)[0]) == b"a b"


def test_a_plain_elf_finds_four_gigabytes_mapped(tmp_path: Path) -> None:
    _, ram = boot(tmp_path, elf64(b"CODE"))

    pointers = struct.unpack_from("<5Q", ram, struct.unpack_from("<Q", ram, 0x9000)[0] & ~0xFFF)
    assert [pointer & 0xFFF for pointer in pointers] == [3, 3, 3, 3, 0]
    for address in (0, 0x3FE00000, 0x40000000, 0xC0000000, 0xFEE00000):
        directory = pointers[address >> 30] & ~0xFFF
        [page] = struct.unpack_from("<Q", ram, directory + (address >> 21 & 511) * 8)
        assert page == address | 0x83


def text(ram: bytearray, address: int) -> bytes:
    return bytes(ram[address : ram.index(0, address)])
