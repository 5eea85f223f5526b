"""A disk over another one: what is written stays above, and a copy keeps its moment."""

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm.disk.overlay import OverlayDisk
from vmm.disk.raw import RawDisk
from vmm.host.runs import Run

BLOCKS = 16
SIZE = BLOCKS * 4096 - 512  # the last block is not whole


@pytest.fixture
def content() -> bytes:
    return random.Random(7).randbytes(SIZE)


@pytest.fixture
def image(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "image"
    path.write_bytes(content)
    return path


@pytest.fixture
def overlay(image: Path) -> Iterator[OverlayDisk]:
    with OverlayDisk(RawDisk.open(str(image), read_only=True)) as disk:
        yield disk


def read(disk: OverlayDisk | RawDisk, offset: int = 0, length: int = SIZE) -> bytes:
    data = bytearray(length)
    middle = length // 3
    disk.readv([memoryview(data)[:middle], memoryview(data)[middle:]], offset)
    return bytes(data)


def write(disk: OverlayDisk, offset: int, data: bytes) -> None:
    disk.writev([memoryview(data)[:1], memoryview(data)[1:]], offset)


def test_a_new_overlay_reads_as_its_base(overlay: OverlayDisk, content: bytes) -> None:
    assert read(overlay) == content
    assert overlay.changed_runs() == []


def test_size_of_the_blocks_in_memory_stays(overlay: OverlayDisk) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(overlay._delta, SIZE + 1)
    with pytest.raises(PermissionError):
        os.ftruncate(overlay._delta, 0)


def test_blocks_of_a_frozen_copy_cannot_be_written(overlay: OverlayDisk) -> None:
    write(overlay, 0, b"first")

    with overlay.frozen() as frozen:
        with pytest.raises(PermissionError):
            os.pwrite(frozen._delta, b"x", 0)
        write(overlay, 0, b"later")

        assert read(frozen, 0, 5) == b"first"


@pytest.mark.parametrize(
    ("offset", "length", "runs"),
    [
        (0, 512, [(0, 1)]),
        (4096, 4096, [(1, 1)]),
        (4096 - 512, 1024, [(0, 2)]),
        (512, 3 * 4096, [(0, 4)]),
        (SIZE - 512, 512, [(15, 1)]),
        (0, SIZE, [(0, 16)]),
    ],
)
def test_a_write_changes_its_bytes_and_no_others(
    overlay: OverlayDisk, image: Path, content: bytes, offset: int, length: int, runs: object
) -> None:
    write(overlay, offset, b"w" * length)

    assert read(overlay) == content[:offset] + b"w" * length + content[offset + length :]
    assert overlay.changed_runs() == runs
    assert image.read_bytes() == content


def test_random_work_agrees_with_a_buffer(overlay: OverlayDisk, content: bytes) -> None:
    chance, model = random.Random(11), bytearray(content)
    for _ in range(400):
        offset = chance.randrange(0, SIZE, 512)
        length = min(chance.choice((512, 1024, 4096, 9728)), SIZE - offset)
        data = chance.randbytes(length) if chance.random() < 0.7 else bytes(length)
        if any(data):
            write(overlay, offset, data)
        else:
            overlay.write_zeroes(offset, length, unmap=chance.random() < 0.5)
        model[offset : offset + length] = data

        start = chance.randrange(0, SIZE, 512)
        assert read(overlay, start, SIZE - start) == model[start:]


def test_discarded_blocks_take_no_memory_and_do_not_show_the_base(overlay: OverlayDisk) -> None:
    write(overlay, 0, b"x" * 8 * 4096)

    overlay.discard(0, 8 * 4096)

    assert read(overlay, 0, 8 * 4096) == bytes(8 * 4096)
    assert os.fstat(overlay._delta).st_blocks == 0


def test_a_frozen_copy_does_not_follow_later_writes(overlay: OverlayDisk, content: bytes) -> None:
    write(overlay, 0, b"before")
    with overlay.frozen() as frozen:
        write(overlay, 0, b"later!")

        assert read(frozen, 0, 6) == b"before"
        assert frozen.read_only


def test_two_overlays_over_one_frozen_disk_do_not_meet(overlay: OverlayDisk) -> None:
    write(overlay, 0, b"before")
    frozen = overlay.frozen()
    with OverlayDisk(frozen.share()) as one, OverlayDisk(frozen.share()) as two:
        frozen.close()
        write(one, 0, b"of one")
        write(two, 8192, b"of two")

        assert (read(one, 0, 6), read(two, 0, 6)) == (b"of one", b"before")
        assert two.changed_runs() == [(0, 1), (2, 1)]


def test_layers_are_saved_as_one(overlay: OverlayDisk, tmp_path: Path, content: bytes) -> None:
    write(overlay, 0, b"a" * 4096)
    with OverlayDisk(overlay.share()) as top:
        write(top, 4096, b"b" * 4096)
        with open(tmp_path / "whole", "w+b") as whole, open(tmp_path / "changes", "w+b") as changes:
            top.save(whole.fileno())
            top.save_changes(changes.fileno())

        expected = b"a" * 4096 + b"b" * 4096
        assert (tmp_path / "whole").read_bytes() == expected + content[8192:]
        assert (tmp_path / "changes").read_bytes()[:8192] == expected
        assert top.changed_runs() == [(0, 2)]


@pytest.mark.parametrize(("offset", "length"), [(-512, 512), (SIZE, 512), (SIZE - 512, 1024)])
def test_what_is_outside_is_refused(overlay: OverlayDisk, offset: int, length: int) -> None:
    with pytest.raises(OSError, match="outside"):
        read(overlay, offset, length)
    with pytest.raises(OSError, match="outside"):
        write(overlay, offset, b"x" * length)


def test_the_image_stays_locked_until_the_last_owner_closes(image: Path) -> None:
    overlay = OverlayDisk(RawDisk.open(str(image), read_only=True))
    shared = overlay.share()
    overlay.close()
    overlay.close()

    with pytest.raises(Exception, match="in use by this process"):
        RawDisk.open(str(image))
    shared.close()
    RawDisk.open(str(image)).close()


# The limit

PAGE = 4096


@pytest.fixture
def limited(image: Path) -> Iterator[OverlayDisk]:
    base = RawDisk.open(str(image), read_only=True)
    with OverlayDisk(base, limit_bytes=3 * PAGE) as disk:
        yield disk


def no_room(disk: OverlayDisk, offset: int, data: bytes) -> None:
    before = read(disk)
    with pytest.raises(OSError, match=f"its limit of {3 * PAGE} bytes is used up") as caught:
        write(disk, offset, data)
    assert caught.value.errno == errno.ENOSPC
    assert read(disk) == before


def test_no_more_memory_is_taken_than_the_limit(limited: OverlayDisk, content: bytes) -> None:
    write(limited, 0, b"a" * PAGE)
    write(limited, 3 * PAGE + 100, b"b" * PAGE)  # two blocks, each in part

    no_room(limited, 8 * PAGE, b"c")
    no_room(limited, PAGE - 1, b"cc")
    write(limited, 3 * PAGE, b"d" * 2 * PAGE)  # which has its memory

    assert os.fstat(limited._delta).st_blocks * 512 == 3 * PAGE
    assert read(limited)[3 * PAGE : 5 * PAGE] == b"d" * 2 * PAGE


def test_a_write_larger_than_what_is_left_does_nothing(limited: OverlayDisk) -> None:
    no_room(limited, 0, b"a" * 4 * PAGE)
    no_room(limited, 100, b"a" * 3 * PAGE)
    write(limited, 0, b"a" * 3 * PAGE)


def test_what_is_discarded_makes_room(limited: OverlayDisk) -> None:
    write(limited, 0, b"a" * 3 * PAGE)
    no_room(limited, 4 * PAGE, b"b")

    limited.discard(0, PAGE)
    write(limited, 4 * PAGE, b"b" * PAGE)

    no_room(limited, 0, b"c")


def test_zeroing_a_part_of_a_block_takes_a_block(limited: OverlayDisk) -> None:
    write(limited, 0, b"a" * 3 * PAGE)

    with pytest.raises(OSError, match="is used up"):
        limited.write_zeroes(4 * PAGE, 512, unmap=False)
    limited.write_zeroes(4 * PAGE, PAGE, unmap=False)  # a hole needs none


def test_a_disk_of_15_tib_begins_with_no_memory(tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(15 << 40)
    base = RawDisk.open(str(tmp_path / "large"), read_only=True)

    with OverlayDisk(base) as disk:
        write(disk, (15 << 40) - 512, b"e" * 512)
        assert disk.changed_runs() == [((15 << 28) - 1, 1)]
        assert len(disk._own._chunks) == 1


@pytest.mark.parametrize(
    "own", [[(-1, 1)], [(0, 0)], [(0, 1 << 50)], [(1, 1), (0, 1)], [(0, 2), (1, 1)]]
)
def test_blocks_that_the_disk_does_not_have_are_refused(image: Path, own: list[Run]) -> None:
    with (
        RawDisk.open(str(image), read_only=True) as base,
        pytest.raises(ConfigurationError, match="cannot be its own"),
    ):
        OverlayDisk(base, own=own)
