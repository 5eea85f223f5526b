"""The memory file of a snapshot: what is left out of it, and that it is the same memory."""

import os
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm.snapshot.folder import SnapshotFolder
from vmm.snapshot.memory import MEMORY_FILE, SavedMemory, open_memory, save_memory

PAGE = 4096
PAGES = 1024


def saved(tmp_path: Path, pages: bytes, unused: list[tuple[int, int]]) -> SavedMemory:
    """Save a memory whose pages are full of these bytes, the others of zeros that were written."""
    memory = os.memfd_create("memory")
    try:
        content = b"".join(bytes([one]) * PAGE for one in pages)
        os.pwrite(memory, content.ljust(PAGES * PAGE, b"\0"), 0)
        with SnapshotFolder(tmp_path) as folder:
            return save_memory(memory, PAGES * PAGE, folder, unused)
    finally:
        os.close(memory)


def test_pages_of_zeros_are_no_part_of_the_file(tmp_path: Path) -> None:
    memory = saved(tmp_path, b"ab\0c", [])

    file = tmp_path / MEMORY_FILE
    assert file.read_bytes()[: 4 * PAGE : PAGE] == b"ab\0c"
    assert file.stat().st_size == PAGES * PAGE
    assert file.stat().st_blocks * 512 == 3 * PAGE
    assert memory.data == ((0, 4 * PAGE),)  # with a hole that is read in no time


def test_unused_pages_are_zeros_in_the_file(tmp_path: Path) -> None:
    saved(tmp_path, b"abcd", [(PAGE, 2 * PAGE)])

    assert (tmp_path / MEMORY_FILE).read_bytes()[: 4 * PAGE : PAGE] == b"a\0\0d"


@pytest.mark.parametrize("unused", [[], [(PAGE, PAGE)], [(PAGE, (PAGES - 1) * PAGE)]])
def test_memory_with_parts_left_out_is_found_undamaged(
    tmp_path: Path, unused: list[tuple[int, int]]
) -> None:
    memory = saved(tmp_path, b"abcd" + bytes(200) + b"e", unused)

    with SnapshotFolder(tmp_path) as folder:
        os.close(open_memory(memory, folder))
        with (tmp_path / MEMORY_FILE).open("r+b") as file:
            file.write(b"z")
        with pytest.raises(ConfigurationError, match="its checksum is wrong"):
            open_memory(memory, folder)


def test_memory_in_many_pieces_is_kept_in_few_parts(tmp_path: Path) -> None:
    memory = saved(tmp_path, b"a\0" * (PAGES // 2), [])

    assert memory.data == ((0, (PAGES - 1) * PAGE),)
    assert (tmp_path / MEMORY_FILE).stat().st_blocks * 512 == PAGES // 2 * PAGE
