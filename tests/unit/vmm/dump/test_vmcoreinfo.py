"""The note that Linux leaves in memory is found, and tells where the kernel's maps are."""

import os

import pytest

from vmm.dump.vmcoreinfo import find_vmcoreinfo
from vmm.x86 import kernel_segments

PAGE = 4096
NOTE = (
    b"OSRELEASE=6.1.0\nPAGESIZE=4096\nSYMBOL(init_uts_ns)=ffffffff81a8bbe0\n"
    b"SYMBOL(_stext)=ffffffff81000000\nNUMBER(phys_base)=0\nNUMBER(pgtable_l5_enabled)=0\n"
)


def ram(parts: dict[int, bytes]) -> int:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 64 * PAGE)
    for at, data in parts.items():
        os.pwrite(fd, data, at)
    return fd


def test_the_note_is_found_at_the_beginning_of_a_page() -> None:
    assert find_vmcoreinfo(ram({100: NOTE, 7 * PAGE: NOTE})) == NOTE


@pytest.mark.parametrize(
    "parts", [{}, {100: NOTE}, {PAGE: b"OSRELEASE=6.1.0\n"}, {PAGE: NOTE[:60]}]
)
def test_what_only_looks_like_it_is_none(parts: dict[int, bytes]) -> None:
    assert find_vmcoreinfo(ram(parts)) == b""


def test_linux_maps_its_image_and_all_memory() -> None:
    assert kernel_segments(ram({}), NOTE, 0, 64 << 20) == [
        (0xFFFF_FFFF_8000_0000, 0, 64 << 20),
        (0xFFFF_8880_0000_0000, 0, 64 << 20),
    ]
    assert kernel_segments(ram({}), NOTE, 1 << 32, 1 << 20) == [
        (0xFFFF_8881_0000_0000, 1 << 32, 1 << 20)
    ]


def test_a_kernel_that_was_moved_says_so() -> None:
    note = NOTE.replace(b"phys_base)=0", b"phys_base)=16777216").replace(
        b"l5_enabled)=0", b"l5_enabled)=1"
    )

    assert kernel_segments(ram({}), note, 0, 64 << 20) == [
        (0xFFFF_FFFF_8000_0000, 16 << 20, 48 << 20),
        (0xFF11_0000_0000_0000, 0, 64 << 20),
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0xFFFF_9C00_0000_0000, 0xFFFF_9C00_0000_0000), (0x1234, 0xFFFF_8880_0000_0000)],
)
def test_a_direct_map_at_random_is_where_a_variable_says(value: int, expected: int) -> None:
    note = NOTE + b"SYMBOL(page_offset_base)=ffffffff80002000\n"
    memory = ram({2 * PAGE: value.to_bytes(8, "little")})

    assert kernel_segments(memory, note, 0, 64 * PAGE)[-1] == (expected, 0, 64 * PAGE)


def test_without_the_note_addresses_are_physical() -> None:
    assert kernel_segments(ram({}), b"", 1 << 32, 1 << 20) == [(1 << 32, 1 << 32, 1 << 20)]
