"""A disk that fails on purpose, and what Linux and its file system make of it."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from virtio import Block
from vmm.disk.raw import RawDisk
from vmm.image import make_disk
from vmm.testing import FaultyDisk, Guest

MEBIBYTE = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FaultyDisk]:
    """A file system of 8 MiB."""
    content, image = tmp_path / "content", tmp_path / "disk.img"
    content.mkdir()
    (content / "README").write_text("intact\n")
    make_disk(content, image, 8 * MEBIBYTE)
    with RawDisk.open(str(image)) as raw:
        yield FaultyDisk(raw)


def test_a_bad_sector_is_an_io_error_there_and_nowhere_else(guest: Guest, disk: FaultyDisk) -> None:
    disk.fail_reads(range(10_000, 10_001))
    guest.plug(Block(disk))

    bad = guest.run(["dd", "if=/dev/vda", "of=/dev/null", "bs=512", "skip=10000", "count=1"])
    good = guest.run(["dd", "if=/dev/vda", "of=/dev/null", "bs=512", "skip=12000", "count=1"])

    assert bad.returncode == 1
    assert "Input/output error" in str(bad.stderr)
    assert good.returncode == 0


def test_a_torn_write_leaves_the_old_content_behind_it(guest: Guest, disk: FaultyDisk) -> None:
    guest.plug(Block(disk))
    write = "dd if=/tmp/new of=/dev/vda bs=4096 seek=1000 count=1 oflag=direct conv=notrunc"
    guest.write_file("/tmp/new", b"n" * 4096)
    disk.tear_write(8000, keep_bytes=512)

    guest.sh(write)

    found = guest.run(
        ["dd", "if=/dev/vda", "bs=4096", "skip=1000", "count=1", "iflag=direct"], text=False
    )
    assert found.stdout == b"n" * 512 + bytes(3584)


def test_a_slow_flush_is_waited_for(guest: Guest, disk: FaultyDisk) -> None:
    disk.before_flush(lambda: time.sleep(0.5))
    guest.plug(Block(disk))
    guest.sh("mount -t ext4 /dev/vda /mnt && echo news > /mnt/news")

    started = time.monotonic()
    guest.sh("sync")

    assert time.monotonic() - started >= 0.5
    assert disk.flushes >= 1


def test_ext4_tells_who_syncs_that_data_was_lost(guest: Guest, disk: FaultyDisk) -> None:
    guest.plug(Block(disk))
    guest.sh("mount -t ext4 /dev/vda /mnt")
    disk.fail_writes()

    written = guest.run(["dd", "if=/dev/zero", "of=/mnt/new", "bs=4096", "count=4", "conv=fsync"])

    assert written.returncode == 1
    assert "Input/output error" in str(written.stderr)
    assert guest.sh("cat /mnt/README") == "intact"
