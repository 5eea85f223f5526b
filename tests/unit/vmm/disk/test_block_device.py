"""A block device of the host as a disk, by a loop device over a file."""

import errno
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from virtio.block import Block
from virtio.errors import ConfigurationError
from vmm.config import MachineConfig
from vmm.devices import disk_device
from vmm.disk.block_device import BlockDevice
from vmm.disk.disk import DiskConfig
from vmm.disk.opening import open_image
from vmm.disk.overlay import BaseDisk

SIZE = 1 << 20


@contextmanager
def loop(file: Path, *options: str) -> Iterator[str]:
    """Give a loop device over a file."""
    command = ["losetup", "--find", "--show", *options, str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        pytest.skip("losetup is not installed")
    if done.returncode:
        pytest.skip(f"no loop device can be made here: {done.stderr.strip()}")
    device = done.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"\x11" * SIZE)
    return path


@pytest.fixture
def device(file: Path) -> Iterator[str]:
    with loop(file) as device:
        yield device


def data(disk: BaseDisk, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    disk.readv([memoryview(buffer)], offset)
    return bytes(buffer)


def test_a_device_is_a_disk_of_its_size(device: str) -> None:
    with open_image(device) as disk:
        disk.writev([memoryview(b"x" * 512)], 512)
        disk.flush()

        assert isinstance(disk, BlockDevice)
        assert disk.size_bytes == SIZE
        assert data(disk, 0, 1536) == b"\x11" * 512 + b"x" * 512 + b"\x11" * 512


def test_what_is_written_is_on_the_device_when_it_is_closed(device: str, file: Path) -> None:
    with open_image(device) as disk:
        disk.writev([memoryview(b"y" * 4096)], 8192)
        disk.flush()

    assert file.read_bytes()[8192 : 8192 + 4096] == b"y" * 4096


def test_the_guest_gets_the_blocks_of_the_device(file: Path) -> None:
    with loop(file, "--sector-size", "4096") as device, open_image(device) as disk:
        planned = disk_device(DiskConfig(device), disk, MachineConfig())

        assert isinstance(planned.device, Block)
        assert planned.device.blk_size == 4096
        assert planned.device.physical_block_exp == 0
        assert isinstance(planned.source, DiskConfig)
        assert planned.source.block_size == 4096  # which a snapshot keeps


def test_smaller_blocks_than_the_device_has_are_refused(file: Path) -> None:
    with (
        loop(file, "--sector-size", "4096") as device,
        open_image(device) as disk,
        pytest.raises(ConfigurationError, match=r"block size 512: .* has blocks of 4096"),
    ):
        Block(disk, block_size=512)


def test_a_discard_gives_the_storage_back(device: str, file: Path) -> None:
    with open_image(device) as disk:
        before = file.stat().st_blocks
        disk.discard(0, SIZE // 2)

        assert disk.can_unmap
        assert file.stat().st_blocks < before


def test_zeroes_keep_or_give_back_the_storage_as_asked(device: str, file: Path) -> None:
    with open_image(device) as disk:
        disk.write_zeroes(0, 65536, unmap=False)
        disk.write_zeroes(131072, 65536, unmap=True)

        zeroed = data(disk, 0, 65536), data(disk, 131072, 65536)
        assert zeroed == (bytes(65536), bytes(65536))
        assert data(disk, 65536, 65536) == b"\x11" * 65536


@pytest.mark.parametrize("unmap", [False, True])
def test_parts_of_blocks_are_zeroed_too_and_nothing_beside_them(file: Path, unmap: bool) -> None:
    with loop(file, "--sector-size", "4096") as device, open_image(device) as disk:
        disk.write_zeroes(512, 8192, unmap=unmap)
        disk.discard(16384 + 512, 4096)

        assert data(disk, 0, 9216) == b"\x11" * 512 + bytes(8192) + b"\x11" * 512
        assert data(disk, 16384, 8192) == b"\x11" * 8192


def test_a_device_that_cannot_discard_stays_as_it_is(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "cannot")

    with open_image(device) as disk:
        monkeypatch.setattr("fcntl.ioctl", refuse)
        disk.discard(0, 65536)

        assert not disk.can_unmap
        assert data(disk, 0, 4096) == b"\x11" * 4096


def test_a_read_only_device_is_refused_for_writing_and_fine_for_reading(file: Path) -> None:
    with loop(file, "--read-only") as device:
        with pytest.raises(ConfigurationError, match="',ro'"):
            open_image(device)
        with open_image(device, read_only=True) as disk:
            assert data(disk, 0, 512) == b"\x11" * 512
            assert not disk.can_unmap


def test_a_second_writer_of_a_device_is_refused_with_the_holder(device: str) -> None:
    with open_image(device), pytest.raises(ConfigurationError, match="in use by this process"):
        open_image(device)


def test_a_device_that_the_host_has_mounted_is_refused(tmp_path: Path) -> None:
    image, folder = tmp_path / "ext2", tmp_path / "mnt"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", str(image)], check=True)
    with loop(image) as device:
        if subprocess.run(["mount", device, str(folder)], check=False).returncode:
            pytest.skip("nothing can be mounted here")
        try:
            with pytest.raises(ConfigurationError, match="the host uses the device"):
                open_image(device)
            with DiskConfig(device, lock=False).open() as disk:
                assert disk.size_bytes == 4 << 20
        finally:
            subprocess.run(["umount", str(folder)], check=True)


def test_a_volatile_disk_leaves_the_device_as_it_was(device: str) -> None:
    with DiskConfig(device, volatile=True).open() as disk:
        disk.writev([memoryview(b"z" * 512)], 0)
        assert data(disk, 0, 512) == b"z" * 512
    with open(device, "rb") as again:
        assert again.read(512) == b"\x11" * 512


def test_a_snapshot_has_a_copy_of_what_the_device_held(device: str) -> None:
    with open_image(device) as disk, disk.frozen() as frozen:
        disk.writev([memoryview(b"x" * 512)], 0)

        assert data(frozen, 0, 512) == b"\x11" * 512
        assert frozen.size_bytes == SIZE


def test_descriptors_of_a_refused_device_are_closed(file: Path) -> None:
    with loop(file, "--read-only") as device:
        before: Sequence[str] = os.listdir("/proc/self/fd")
        with pytest.raises(ConfigurationError):
            open_image(device)
        assert os.listdir("/proc/self/fd") == before
