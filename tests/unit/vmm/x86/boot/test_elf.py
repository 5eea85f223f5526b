"""ELF kernels: what is loaded where, how they are entered, and what is refused.

Images are built here from the field lists of the System V ABI, not from the loader's structures.
"""

import struct
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from virtio.memory import FlatMemory
from vmm.x86.boot.kernel import LoadedKernel, load_kernel

RAM = 8 << 20
DIRTY = 0xEE


def program_header(
    kind: int, offset: int, address: int, file_size: int, memory_size: int, align: int = 4
) -> bytes:
    return struct.pack(
        "<IIQQQQQQ", kind, 7, offset, address, address, file_size, memory_size, align
    )


def elf(
    headers: list[bytes],
    body: bytes = b"",
    *,
    entry: int = 0x100000,
    ident: bytes = b"\x7fELF\x02\x01\x01",
    kind: int = 2,
    machine: int = 62,
    table: int = 64,
    header_size: int = 56,
    count: int | None = None,
) -> bytes:
    count = len(headers) if count is None else count
    sizes = struct.pack("<HHHHHH", 64, header_size, count, 0, 0, 0)
    start = ident.ljust(16, b"\0") + struct.pack("<HHIQQQI", kind, machine, 1, entry, table, 0, 0)
    return (start + sizes + b"".join(headers)).ljust(0x1000, b"\0") + body


def note(name: bytes, kind: int, descriptor: bytes, alignment: int = 4) -> bytes:
    head = struct.pack("<III", len(name), len(descriptor), kind) + name
    data = head.ljust(-(-len(head) // alignment) * alignment, b"\0") + descriptor
    return data.ljust(-(-len(data) // alignment) * alignment, b"\0")


def simple() -> bytes:
    return elf([program_header(1, 0x1000, 0x100000, 4, 4)], b"CODE")


def with_notes(notes: bytes, alignment: int = 4) -> bytes:
    load = program_header(1, 0x1000, 0x100000, 0x20, 0x20)
    notes_header = program_header(4, 0x1020, 0, len(notes), len(notes), alignment)
    return elf([load, notes_header], b"\x90" * 0x20 + notes)


def load(directory: Path, image: bytes, protocol: str = "auto", ram: int = RAM) -> LoadedKernel:
    memory = FlatMemory([(0, bytearray(ram))])
    return load_into(memory, directory, image, protocol)


def load_into(
    memory: FlatMemory, directory: Path, image: bytes, protocol: str = "auto"
) -> LoadedKernel:
    (directory / "vmlinux").write_bytes(image)
    return load_kernel(directory / "vmlinux", memory, protocol=protocol)  # type: ignore[arg-type]


def refusal(directory: Path, image: bytes, protocol: str = "auto", ram: int = RAM) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(directory, image, protocol, ram)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_segments_stand_at_their_physical_addresses_and_bss_is_cleared(tmp_path: Path) -> None:
    headers = [
        program_header(1, 0x1000, 0x100000, 4, 4),
        program_header(1, 0x1004, 0x200000, 4, 0x21000),
    ]
    ram = bytearray([DIRTY]) * RAM

    loaded = load_into(FlatMemory([(0, ram)]), tmp_path, elf(headers, b"CODEDATA"))

    assert ram[0xFFFFF:0x100005] == bytes([DIRTY]) + b"CODE" + bytes([DIRTY])
    assert ram[0x200000:0x221001] == b"DATA" + bytes(0x21000 - 4) + bytes([DIRTY])
    assert loaded == LoadedKernel(0x100000, "elf64", 0x100000, 0x221000, None, 2047, 0xBFFFFFFF)


def test_pvh_entry_is_preferred_when_the_note_is_there(tmp_path: Path) -> None:
    image = with_notes(note(b"Xen\0", 18, struct.pack("<I", 0x100008)))

    loaded = load(tmp_path, image)

    assert (loaded.protocol, loaded.entry) == ("pvh", 0x100008)


def test_pvh_note_with_8_bytes_behind_other_notes_is_found(tmp_path: Path) -> None:
    notes = note(b"Linux\0", 18, b"abc") + note(b"Xen\0", 5, b"2.6\0")
    notes += note(b"Xen\0", 18, struct.pack("<Q", 0x100010))

    assert load(tmp_path, with_notes(notes)).entry == 0x100010


def test_notes_aligned_to_8_bytes_are_walked(tmp_path: Path) -> None:
    notes = note(b"GNU\0", 5, b"0123", 8) + note(b"Xen\0", 18, struct.pack("<I", 0x100004), 8)

    assert load(tmp_path, with_notes(notes, 8)).entry == 0x100004


def test_linux64_is_taken_on_request_despite_the_note(tmp_path: Path) -> None:
    image = with_notes(note(b"Xen\0", 18, struct.pack("<I", 0x100008)))

    loaded = load(tmp_path, image, "linux64")

    assert (loaded.protocol, loaded.entry) == ("linux64", 0x100000)


def test_pvh_without_a_note_is_refused(tmp_path: Path) -> None:
    assert "no PVH entry note (CONFIG_PVH)" in refusal(tmp_path, simple(), "pvh")


@pytest.mark.parametrize("descriptor", [b"", b"\0", b"\0" * 5, b"\0" * 16])
def test_pvh_note_of_another_size_is_refused(tmp_path: Path, descriptor: bytes) -> None:
    assert "must be 4 or 8" in refusal(tmp_path, with_notes(note(b"Xen\0", 18, descriptor)))


def test_pvh_entry_outside_the_segments_is_refused(tmp_path: Path) -> None:
    image = with_notes(note(b"Xen\0", 18, struct.pack("<I", 0x5000)))

    assert "PVH entry 0x5000 is in no loaded segment" in refusal(tmp_path, image)


@pytest.mark.parametrize(
    "sizes", [(0xFFFFFFFF, 4, 18), (4, 0xFFFFFFFF, 1), (0, 0, 0), (0xFFFFFFFF, 0xFFFFFFFF, 18)]
)
def test_hostile_note_sizes_find_no_pvh_entry(tmp_path: Path, sizes: tuple[int, int, int]) -> None:
    assert load(tmp_path, with_notes(struct.pack("<III", *sizes))).protocol == "elf64"


def test_segment_of_zero_bytes_is_left_out(tmp_path: Path) -> None:
    headers = [program_header(1, 0, 0, 0, 0), program_header(1, 0x1000, 0x100000, 4, 4)]

    assert load(tmp_path, elf(headers, b"CODE")).start == 0x100000


def test_kernel_that_ends_with_ram_is_loaded(tmp_path: Path) -> None:
    image = elf([program_header(1, 0x1000, 0x100000, 4, RAM - 0x100000)], b"CODE")

    assert load(tmp_path, image).end == RAM


def test_kernel_that_ends_one_byte_past_ram_is_refused(tmp_path: Path) -> None:
    image = elf([program_header(1, 0x1000, 0x100000, 4, RAM - 0x100000 + 1)], b"CODE")

    assert "RAM too small" in refusal(tmp_path, image)


def test_too_small_ram_is_refused_with_what_is_needed(tmp_path: Path) -> None:
    image = elf([program_header(1, 0x1000, 0x1000000, 4, 0x180001)], b"CODE", entry=0x1000000)

    message = refusal(tmp_path, image)

    assert "RAM too small: the kernel ends at 0x1180001 and needs at least 18 MiB" in message
    assert "the machine has 8 MiB" in message


def test_nothing_is_written_when_ram_is_too_small(tmp_path: Path) -> None:
    headers = [
        program_header(1, 0x1000, 0x100000, 4, 4),
        program_header(1, 0x1000, 0x900000, 4, 4),
    ]
    ram = bytearray(RAM)

    with pytest.raises(ConfigurationError):
        load_into(FlatMemory([(0, ram)]), tmp_path, elf(headers, b"CODE"))

    assert ram == bytes(RAM)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ((0x1000, 0x100000, 4, 3), "more bytes in the file (0x4)"),
        ((0x1000, 0x100000, 5, 5), "truncated"),
        ((0xFFFFFFFFFFFFFFFF, 0x100000, 4, 4), "truncated"),
        ((0x1000, 0x100000, 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF), "truncated"),
        ((0x1000, 0xFFFFF, 4, 4), "overlaps the boot area, which ends at 0x100000"),
        ((0x1000, 0, 4, 0x200000), "overlaps the boot area"),
        ((0x1000, 0xBFFFFFFD, 4, 4), "outside RAM, which ends at 0xc0000000"),
        ((0x1000, 0xFFFFFFFFFFFFFFFF, 4, 4), "outside RAM"),
        ((0x1000, 0x100000, 4, 0xFFFFFFFFFFFFFFFF), "outside RAM"),
        ((0x1000, 0x1_0000_0000, 4, 4), "outside RAM"),
    ],
)
def test_hostile_segment_is_refused(
    tmp_path: Path, header: tuple[int, int, int, int], reason: str
) -> None:
    assert reason in refusal(tmp_path, elf([program_header(1, *header)], b"CODE"))


def test_overlapping_segments_are_refused(tmp_path: Path) -> None:
    headers = [
        program_header(1, 0x1000, 0x100003, 1, 1),
        program_header(1, 0x1000, 0x100000, 4, 4),
    ]

    assert "two segments overlap at 0x100003" in refusal(tmp_path, elf(headers, b"CODE"))


@pytest.mark.parametrize("entry", [0, 0xFFFFF, 0x100004, 0xFFFFFFFF81000000])
def test_entry_outside_the_segments_is_refused(tmp_path: Path, entry: int) -> None:
    image = elf([program_header(1, 0x1000, 0x100000, 4, 4)], b"CODE", entry=entry)

    assert "is in no loaded segment" in refusal(tmp_path, image)


def test_linux64_kernel_past_the_boot_page_tables_is_refused(tmp_path: Path) -> None:
    image = elf([program_header(1, 0x1000, 0x40000000, 4, 4)], b"CODE", entry=0x40000000)

    assert "maps memory below 0x40000000 only" in refusal(tmp_path, image, "linux64")


def test_linux_without_a_pvh_note_is_known_by_the_first_line_of_its_log(tmp_path: Path) -> None:
    banner = b"....Linux version 6.1.0 (someone)"
    image = elf([program_header(1, 0x1000, 0x100000, len(banner), 0x1000)], banner)

    assert load(tmp_path, image).protocol == "linux64"
    assert load(tmp_path, image, "elf64").protocol == "elf64"


def test_an_entry_that_is_a_virtual_address_is_found_in_memory(tmp_path: Path) -> None:
    high = 0xFFFFFFFF80100000
    header = struct.pack("<IIQQQQQQ", 1, 5, 0x1000, high, 0x200000, 0x40, 0x40, 0x1000)
    image = elf([header], bytes(0x40), entry=high + 0x20)

    assert load(tmp_path, image).entry == 0x200020


@pytest.mark.parametrize("count", [0, 65, 0xFFFF])
def test_program_header_count_out_of_bounds_is_refused(tmp_path: Path, count: int) -> None:
    assert f"has {count} program headers" in refusal(tmp_path, elf([], count=count))


@pytest.mark.parametrize("size", [0, 32, 55, 57, 0xFFFF])
def test_program_headers_of_another_size_are_refused(tmp_path: Path, size: int) -> None:
    assert f"of {size} bytes" in refusal(tmp_path, elf([], count=1, header_size=size))


@pytest.mark.parametrize("table", [0xFFFFFFFFFFFFFFFF, 0x1000, 0xFC9])
def test_program_headers_past_the_file_are_refused(tmp_path: Path, table: int) -> None:
    message = refusal(tmp_path, elf([], count=1, table=table))

    assert "truncated: its program header table" in message


def test_no_loadable_segment_is_refused(tmp_path: Path) -> None:
    image = elf([program_header(6, 0, 0x100000, 4, 4)])

    assert "nothing to load" in refusal(tmp_path, image)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"machine": 183}, "is an ELF file for Arm64, not x86-64"),
        ({"machine": 243}, "is an ELF file for RISC-V, not x86-64"),
        ({"machine": 3}, "is an ELF file for i386, not x86-64"),
        ({"machine": 999}, "is an ELF file for machine 999, not x86-64"),
        ({"ident": b"\x7fELF\x01\x01\x01"}, "is a 32-bit ELF file"),
        ({"ident": b"\x7fELF\x02\x02\x01"}, "is a big-endian ELF file"),
        ({"kind": 1}, "is an object file or kernel module"),
        ({"kind": 3}, "is a shared library or a PIE program"),
        ({"kind": 4}, "is a core"),
        ({"kind": 77}, "is an ELF file of type 77"),
    ],
)
def test_elf_file_of_another_kind_is_named(
    tmp_path: Path, fields: dict[str, int | bytes], reason: str
) -> None:
    image = elf([program_header(1, 0x1000, 0x100000, 4, 4)], b"CODE", **fields)  # type: ignore[arg-type]

    assert reason in refusal(tmp_path, image)


def test_dynamically_linked_program_is_refused(tmp_path: Path) -> None:
    headers = [program_header(3, 0, 0, 4, 4), program_header(1, 0x1000, 0x100000, 4, 4)]

    assert "dynamically linked program" in refusal(tmp_path, elf(headers, b"CODE"))


@pytest.mark.parametrize("length", [4, 16, 63])
def test_file_shorter_than_its_elf_header_is_refused(tmp_path: Path, length: int) -> None:
    assert "truncated: its ELF header ends at byte 64" in refusal(tmp_path, simple()[:length])


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    image = with_notes(note(b"Xen\0", 18, struct.pack("<I", 0x100008)))

    for length in range(1, len(image), 37):
        refusal(tmp_path, image[:length])
