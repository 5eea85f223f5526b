"""Core files, read back by the ELF specification."""

import os
import stat
import struct
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm.dump.core_file import Note, Segment, new_core, write_core

PAGE = 4096


@pytest.fixture
def memory() -> int:
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 64 * PAGE)
    os.pwrite(fd, b"low", 0)
    os.pwrite(fd, b"high", 40 * PAGE)
    return fd


def dumped(path: Path, memory: int) -> bytes:
    segments = [
        Segment(0xFFFF_8880_0000_0000, 0, 32 * PAGE, 0),
        Segment(0xFFFF_8881_0000_0000, 1 << 32, 32 * PAGE, 32 * PAGE),
    ]
    with new_core(path) as target:
        write_core(target, memory, 62, [Note(b"VMCOREINFO", 0, b"hello")], segments)
    os.close(memory)
    return path.read_bytes()


def test_each_region_is_a_segment_with_its_bytes(tmp_path: Path, memory: int) -> None:
    data = dumped(tmp_path / "core", memory)
    kind, machine = struct.unpack_from("<16xHH", data)
    size, count = struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", data, 64 + size * one) for one in range(count)]
    found = [
        (virtual, physical, data[offset : offset + length])
        for kind, _, offset, virtual, physical, length, *_ in headers
        if kind == 1
    ]

    assert data.startswith(b"\x7fELF\x02\x01\x01")
    assert (kind, machine) == (4, 62)
    assert [one[:2] for one in found] == [
        (0xFFFF_8880_0000_0000, 0),
        (0xFFFF_8881_0000_0000, 1 << 32),
    ]
    assert found[0][2] == b"low".ljust(32 * PAGE, b"\0")
    assert found[1][2] == (bytes(8 * PAGE) + b"high").ljust(32 * PAGE, b"\0")


def test_a_note_has_its_name_and_its_bytes(tmp_path: Path, memory: int) -> None:
    data = dumped(tmp_path / "core", memory)
    kind, _, offset, _, _, length, *_ = struct.unpack_from("<IIQQQQQQ", data, 64)

    assert (kind, length) == (4, 12 + 12 + 8)
    assert data[offset : offset + length] == (
        struct.pack("<III", 11, 5, 0) + b"VMCOREINFO\0\0" + b"hello\0\0\0"
    )


def test_holes_of_memory_are_holes_of_the_file_and_only_its_owner_reads_it(
    tmp_path: Path, memory: int
) -> None:
    dumped(tmp_path / "core", memory)
    status = (tmp_path / "core").stat()

    assert status.st_size == 65 * PAGE
    assert status.st_blocks * 512 < 32 * PAGE
    assert stat.S_IMODE(status.st_mode) == 0o600


def test_a_file_that_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "core").write_text("mine")
    with pytest.raises(ConfigurationError, match="core: exists; choose a new name"):
        new_core(tmp_path / "core").__enter__()

    assert (tmp_path / "core").read_text() == "mine"


@pytest.mark.parametrize("path", ["", ".", "/", ".."])
def test_a_folder_is_no_name_for_a_file(path: str) -> None:
    with pytest.raises(ConfigurationError, match="exists; choose a new name"):
        new_core(Path(path)).__enter__()


def test_a_dump_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_core(tmp_path / "core") as target:
        os.write(target, bytes(1 // 0))

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"core file .*: No such file or directory"):
        new_core(tmp_path / "none" / "core").__enter__()
