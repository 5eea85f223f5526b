"""Files as wholes: transfers that arrive in pieces are completed, and holes are left out."""

import os
import threading
from pathlib import Path

import pytest

from vmm.host.files import copy_data, extents, move_all, write_all

BLOCK = 4096


def test_move_all_goes_on_after_a_transfer_in_part(tmp_path: Path) -> None:
    moved: list[tuple[list[bytes], int]] = []

    def three_bytes(fd: int, views: object, offset: int) -> int:
        assert isinstance(views, list)
        moved.append(([bytes(view) for view in views], offset))
        return 3

    move_all(three_bytes, -1, [memoryview(b"abcd"), memoryview(b"ef")], 100)

    assert moved == [([b"abcd", b"ef"], 100), ([b"d", b"ef"], 103)]


def test_move_all_from_a_file_that_is_too_short_is_an_io_error(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(b"abc")
    with path.open("rb") as file, pytest.raises(OSError, match="ends at byte 3") as caught:
        move_all(os.preadv, file.fileno(), [memoryview(bytearray(8))], 0)

    assert caught.value.errno == 5


def test_write_all_waits_where_somebody_made_the_pipe_non_blocking() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    data = os.urandom(1 << 20)
    writer = threading.Thread(target=write_all, args=(writing, data))

    writer.start()
    with os.fdopen(reading, "rb") as source:
        received = source.read(len(data))
    writer.join()
    os.close(writing)

    assert received == data


def test_extents_leave_holes_out(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb+") as file:
        file.truncate(64 * BLOCK)
        os.pwrite(file.fileno(), b"x" * BLOCK, 32 * BLOCK)

        found = list(extents(file.fileno(), 64 * BLOCK))

    assert found == [(32 * BLOCK, BLOCK)]


def test_copy_keeps_content_and_size(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb+") as file, target.open("wb+") as copy:
        file.truncate(64 * BLOCK)
        os.pwrite(file.fileno(), b"x", 40 * BLOCK + 7)

        copy_data(file.fileno(), copy.fileno(), 64 * BLOCK)

    assert target.read_bytes() == source.read_bytes()
