"""Files go into guest RAM from file to file where the host can, and read where it cannot."""

import ctypes
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from virtio.memory import FlatMemory, GuestMemory, MemoryAccessError
from vmm.memory import PAGE_BYTES, GuestRam
from vmm.x86.boot.image_file import open_image

HIGH = 1 << 32
REGIONS = [(0, 2 * PAGE_BYTES), (HIGH, 2 * PAGE_BYTES)]
CONTENT = bytes(range(256)) * 8


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    with GuestRam(REGIONS) as ram:
        yield ram


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(CONTENT)
    return tmp_path / "file"


def content(memory: GuestMemory, address: int, length: int) -> bytes:
    with memory.view(address, length) as view:
        return bytes(view)


@pytest.mark.parametrize("address", [0, 5, PAGE_BYTES, HIGH, HIGH + PAGE_BYTES + 7])
def test_a_part_of_a_file_comes_to_its_address(ram: GuestRam, path: Path, address: int) -> None:
    with path.open("rb") as file:
        assert ram.receive(file.fileno(), 3, address, 1000) == 1000

    assert content(ram, address, 1001) == CONTENT[3:1003] + b"\0"


def test_a_file_that_ends_gives_what_it_has(ram: GuestRam, path: Path) -> None:
    with path.open("rb") as file:
        assert ram.receive(file.fileno(), 2000, HIGH, 1000) == len(CONTENT) - 2000


def test_nothing_comes_to_where_no_ram_is(ram: GuestRam, path: Path) -> None:
    with path.open("rb") as file, pytest.raises(MemoryAccessError):
        ram.receive(file.fileno(), 0, PAGE_BYTES, PAGE_BYTES + 1)


def test_nothing_comes_from_what_cannot_be_sent(ram: GuestRam) -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, b"x")
        assert ram.receive(reader, 0, 0, 1) == 0
    finally:
        os.close(reader)
        os.close(writer)


def test_the_file_below_a_copy_stays_as_it_is(ram: GuestRam, path: Path) -> None:
    origin = ram.copy()
    try:
        with GuestRam(REGIONS, origin) as copy, open_image(path, "initrd") as image:
            image.load(copy, 100, 0, len(CONTENT))
            assert content(copy, 100, len(CONTENT)) == CONTENT
        assert os.pread(origin, len(CONTENT), 100) == bytes(len(CONTENT))
    finally:
        os.close(origin)


def test_an_image_is_the_same_in_any_memory(ram: GuestRam, path: Path) -> None:
    flat = FlatMemory([(0, bytearray(PAGE_BYTES))])
    with open_image(path, "initrd") as image:
        for memory in (ram, flat):
            image.load(memory, 9, 1, 300)
            assert content(memory, 9, 300) == CONTENT[1:301]
            with pytest.raises(ConfigurationError, match="truncated: it ends at byte 2048"):
                image.load(memory, 0, 2000, 100)


def smaps_flags(address: int) -> set[str]:
    found = Path("/proc/self/smaps").read_text()
    for entry in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", found, flags=re.MULTILINE):
        bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", entry)
        if bounds and int(bounds[1], 16) <= address < int(bounds[2], 16):
            return set(re.findall(r"VmFlags: (.*)", entry)[0].split())
    raise AssertionError(f"{address:#x} is not mapped")


def test_ram_is_in_no_core_file_and_in_no_child() -> None:
    with GuestRam([(0, 4096)]) as ram, ram.view(0, 1) as view:
        flags = smaps_flags(ctypes.addressof(ctypes.c_char.from_buffer(view)))

    assert {"dd", "dc"} <= flags


def test_files_of_memory_keep_their_size_and_copies_their_content() -> None:
    with GuestRam([(0, 4096)]) as ram:
        copy = ram.copy()
        try:
            with pytest.raises(PermissionError):
                os.ftruncate(copy, 0)
            with pytest.raises(PermissionError):
                os.pwrite(copy, b"x", 0)
            with GuestRam([(0, 4096)], copy) as restored, restored.view(0, 1) as view:
                view[0] = 1
        finally:
            os.close(copy)


def test_file_of_memory_has_what_is_in_it_now_also_of_a_copy() -> None:
    with GuestRam([(0, 4096)]) as ram:
        with ram.view(0, 2) as view:
            view[:] = b"xy"
        with ram.file() as file:
            assert os.pread(file, 2, 0) == b"xy"
            with GuestRam([(0, 4096)], file) as restored:
                with restored.view(1, 1) as view:
                    view[:] = b"z"
                with restored.file() as own:
                    assert os.pread(own, 2, 0) == b"xz"
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(own)


def fill(ram: GuestRam, content: bytes) -> None:
    """Fill two pages from address 0 on, a byte each."""
    with ram.view(0, 2 * PAGE_BYTES) as view:
        view[:] = b"".join(bytes([one]) * PAGE_BYTES for one in content)


def first_bytes(file: int) -> bytes:
    """Return the first byte of each of those pages."""
    return os.pread(file, 1, 0) + os.pread(file, 1, PAGE_BYTES)


def test_pages_that_are_given_back_are_zeros_and_take_no_memory(ram: GuestRam) -> None:
    fill(ram, b"ab")

    assert ram.discard(PAGE_BYTES, PAGE_BYTES, zeroed=True)
    with ram.file() as file:
        assert first_bytes(file) == b"a\0"
        assert os.fstat(file).st_blocks * 512 == PAGE_BYTES


def test_page_that_a_copy_gives_back_reads_as_before_it_wrote_there(ram: GuestRam) -> None:
    fill(ram, b"ab")
    with ram.file() as origin, GuestRam(REGIONS, origin) as copy:
        fill(copy, b"cd")
        assert copy.discard(PAGE_BYTES, PAGE_BYTES)

        assert content(copy, 0, 2 * PAGE_BYTES)[::PAGE_BYTES] == b"cb"
        assert copy.written_pages() == [(0, 1)]


def test_copy_gives_back_only_what_then_is_zeros_if_that_is_asked_for(ram: GuestRam) -> None:
    with ram.view(0, 1) as view:
        view[:] = b"a"
    with ram.file() as origin, GuestRam(REGIONS, origin) as copy:
        with copy.view(0, PAGE_BYTES) as view:
            view[:] = b"c" * PAGE_BYTES

        assert not copy.discard(0, PAGE_BYTES, zeroed=True)
        assert copy.discard(0, 2 * PAGE_BYTES, zeroed=True)
        assert content(copy, 0, 2 * PAGE_BYTES)[::PAGE_BYTES] == b"c\0"


def test_what_a_copy_gave_back_is_in_no_copy_of_it_until_it_is_written_again(ram: GuestRam) -> None:
    fill(ram, b"ab")
    with ram.file() as origin, GuestRam(REGIONS, origin) as copy:
        copy.discard(0, 2 * PAGE_BYTES)
        with copy.view(0, 1) as view:
            view[:] = b"x"
        with copy.file() as file:
            assert first_bytes(file) == b"x\0"


def test_nothing_is_given_back_outside_of_ram(ram: GuestRam) -> None:
    with pytest.raises(MemoryAccessError):
        ram.discard(PAGE_BYTES, 2 * PAGE_BYTES)


@pytest.mark.parametrize("is_copy", [False, True])
def test_a_copy_leaves_out_what_is_unused(ram: GuestRam, is_copy: bool) -> None:
    fill(ram, b"ab")
    with ram.file() as origin, GuestRam(REGIONS, origin) as clone:
        fill(clone, b"ab")
        copied = (clone if is_copy else ram).copy([(PAGE_BYTES, 2 * PAGE_BYTES)])
        try:
            assert first_bytes(copied) == b"a\0"
        finally:
            os.close(copied)
