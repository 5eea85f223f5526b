"""qcow2 images: what is taken as one, which files it may have, and what is read and written."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.spec.threads import wait_until
from tests.unit.vmm.disk.nbd import children_named
from virtio.errors import ConfigurationError
from vmm.disk.disk import DiskConfig
from vmm.disk.nbd.library import library
from vmm.disk.overlay import BaseDisk
from vmm.disk.qcow2 import MAGIC, open_layers
from vmm.snapshot.disks import FileIdentity, SavedDisk, check_disks, origins

SIZE = 1 << 20


@pytest.fixture(autouse=True)
def _needs_qemu() -> None:
    for program in ("qemu-img", "qemu-nbd"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (qemu-utils)")
    try:
        library()
    except ConfigurationError as error:
        pytest.skip(str(error))


def qemu_img(*words: object) -> None:
    subprocess.run(["qemu-img", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image that is full of 0x11."""
    raw, path = tmp_path / "raw", tmp_path / "image.qcow2"
    raw.write_bytes(b"\x11" * SIZE)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, path)
    return path


@pytest.fixture
def overlay(tmp_path: Path, image: Path) -> Iterator[Path]:
    path = tmp_path / "overlay.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image.name, path)
    yield path
    wait_until(lambda: not children_named(str(tmp_path)))  # nothing is left behind


def read(disk: BaseDisk, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    disk.readv([memoryview(buffer)], offset)
    return bytes(buffer)


def refusal(text: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        DiskConfig.parse(text).open().close()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_an_image_is_read_and_written(image: Path) -> None:
    with DiskConfig(str(image)).open() as disk:
        assert disk.size_bytes == SIZE
        assert read(disk, 0, SIZE) == b"\x11" * SIZE
        disk.writev([memoryview(b"x" * 4096)], 4096)
        disk.flush()
    with DiskConfig(str(image), read_only=True).open() as disk:
        assert read(disk, 0, 12288) == b"\x11" * 4096 + b"x" * 4096 + b"\x11" * 4096
    qemu_img("check", "-q", image)


@pytest.mark.parametrize("options", ["", ",ro", ",volatile"])
def test_a_confined_machine_may_use_the_socket_of_its_image(image: Path, options: str) -> None:
    with DiskConfig.parse(f"{image}{options}").open() as disk:
        assert disk.sockets == 1  # without one the sandbox ends a process that sends


def test_compressed_clusters_are_read(image: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.qcow2"
    qemu_img("convert", "-c", "-O", "qcow2", image, packed)
    with DiskConfig(str(packed)).open() as disk:
        assert read(disk, 0, SIZE) == b"\x11" * SIZE


def test_a_discard_makes_an_image_read_as_zeros(image: Path) -> None:
    with DiskConfig(str(image)).open() as disk:
        disk.discard(0, 65536)
        disk.write_zeroes(131072, 65536, unmap=True)
        assert read(disk, 0, 65536) == bytes(65536)
        assert read(disk, 131072, 65536) == bytes(65536)


def test_a_backing_file_is_read_and_stays_as_it_is(image: Path, overlay: Path) -> None:
    before = image.read_bytes()
    with DiskConfig(str(overlay)).open() as disk:
        disk.writev([memoryview(b"x" * 512)], 0)
        assert read(disk, 0, 1024) == b"x" * 512 + b"\x11" * 512
    assert image.read_bytes() == before


def test_an_image_is_free_when_its_disk_is_closed_and_nothing_is_left(image: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with DiskConfig(str(image)).open() as disk:
            disk.writev([memoryview(b"x" * 512)], 0)
    assert set(os.listdir("/proc/self/fd")) == before
    assert not children_named(str(image))


def test_a_program_that_serves_an_image_ends_when_its_machine_is_killed(image: Path) -> None:
    code = f"""
import sys, time
from vmm.disk.disk import DiskConfig
disk = DiskConfig({str(image)!r}).open()
print("open", flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        process.kill()
    wait_until(lambda: not children_named(str(image)))


def test_a_program_that_dies_is_an_error_of_requests_and_no_more(image: Path) -> None:
    with DiskConfig(str(image)).open() as disk:
        (number,) = children_named(f'"{image}"')
        os.kill(number, signal.SIGKILL)
        with pytest.raises(OSError, match="NBD server"):
            read(disk, 0, 512)
        with pytest.raises(OSError, match="NBD server"):
            disk.flush()


def test_a_second_writer_is_refused_with_the_holder(image: Path) -> None:
    with DiskConfig(str(image)).open():
        told = refusal(str(image))
        DiskConfig(str(image), read_only=True, lock=False).open().close()
    assert "in use by process" in told
    assert "qemu-nbd" in told


def test_overlays_share_a_backing_file_and_nobody_writes_it(
    image: Path, overlay: Path, tmp_path: Path
) -> None:
    second = tmp_path / "second.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image.name, second)
    with DiskConfig(str(overlay)).open(), DiskConfig(str(second)).open():
        assert "which reads it" in refusal(str(image))


def test_a_volatile_image_stays_as_it_is(image: Path) -> None:
    before = image.read_bytes()
    with DiskConfig(str(image), volatile=True).open() as disk:
        disk.writev([memoryview(b"x" * 512)], 0)
        assert read(disk, 0, 512) == b"x" * 512
    assert image.read_bytes() == before


class TestFormat:
    def test_a_raw_disk_in_which_a_guest_wrote_a_header_is_no_image(self, tmp_path: Path) -> None:
        secret, disk = tmp_path / "secret", tmp_path / "disk.img"
        secret.write_bytes(b"s" * SIZE)
        qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, disk)

        assert "',format=raw' for a raw disk" in refusal(str(disk))
        with DiskConfig.parse(f"{disk},format=raw").open() as opened:
            assert read(opened, 0, 512)[:4] == MAGIC

    def test_a_raw_disk_with_the_name_of_an_image_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "disk.qcow2"
        path.write_bytes(bytes(SIZE))

        assert "is named as a qcow2 image" in refusal(str(path))
        DiskConfig.parse(f"{path},format=raw").open().close()

    def test_who_knows_it_to_be_an_image_says_so(self, image: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        image.rename(other)
        with DiskConfig.parse(f"{other},format=qcow2").open() as disk:
            assert disk.size_bytes == SIZE

    def test_what_is_no_image_cannot_be_one(self, tmp_path: Path) -> None:
        path = tmp_path / "raw"
        path.write_bytes(bytes(SIZE))
        assert "is no qcow2 image" in refusal(f"{path},format=qcow2")
        assert "must be raw or qcow2" in refusal(f"{path},format=vmdk")
        assert "No such file" in refusal(f"{tmp_path}/absent.qcow2")


class TestBacking:
    def test_one_that_is_gone_is_named(self, image: Path, overlay: Path) -> None:
        image.unlink()
        assert f"its backing file {image}: No such file" in refusal(str(overlay))

    def test_a_loop_is_told(self, image: Path, overlay: Path) -> None:
        qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", overlay.name, image)
        assert "its backing files are a loop" in refusal(str(overlay))

    def test_one_outside_of_the_folder_wants_the_users_word(
        self, image: Path, tmp_path: Path
    ) -> None:
        inner = tmp_path / "inner"
        inner.mkdir()
        top = inner / "top.qcow2"
        qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, top)

        assert "is outside of its folder; add ',backing=FOLDER'" in refusal(str(top))
        with DiskConfig.parse(f"{top},backing={tmp_path}").open() as disk:
            assert read(disk, 0, 512) == b"\x11" * 512

    def test_a_link_leads_nobody_outside(self, image: Path, tmp_path: Path) -> None:
        inner = tmp_path / "inner"
        inner.mkdir()
        (inner / "link.qcow2").symlink_to(image)
        top = inner / "top.qcow2"
        qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "link.qcow2", top)

        assert "outside of its folder" in refusal(str(top))

    @pytest.mark.parametrize("name", ["nbd:localhost:10809", 'json:{"driver":"null-co"}'])
    def test_one_that_is_no_file_is_refused(self, image: Path, name: str) -> None:
        qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", name, image)
        assert "is no file: not possible" in refusal(str(image))

    def test_one_whose_format_is_not_said_is_never_guessed_to_be_an_image(
        self, image: Path, overlay: Path
    ) -> None:
        data = bytearray(overlay.read_bytes())
        place = data.index(bytes.fromhex("e2792aca"))
        data[place : place + 4] = b"\x01\x02\x03\x04"  # an extension that nobody knows
        overlay.write_bytes(data)

        assert "qemu-img rebase -u -F" in refusal(str(overlay))

    def test_encrypted_and_split_images_are_refused(self, image: Path, tmp_path: Path) -> None:
        data = bytearray(image.read_bytes())
        image.write_bytes(data[:35] + b"\x01" + data[36:])
        assert "is encrypted" in refusal(str(image))
        image.write_bytes(data[:79] + b"\x04" + data[80:])
        assert "has its data in another file" in refusal(str(image))

    @pytest.mark.parametrize("length", [0, 4, 71, 72, 103])
    def test_an_image_that_is_cut_off_is_one_line(self, image: Path, length: int) -> None:
        os.truncate(image, length)
        refusal(str(image))

    def test_a_name_beyond_the_header_is_refused(self, overlay: Path) -> None:
        data = bytearray(overlay.read_bytes())
        data[8:20] = (1 << 62).to_bytes(8, "big") + (5).to_bytes(4, "big")
        overlay.write_bytes(data)
        with ExitStack() as files, pytest.raises(ConfigurationError, match="is damaged"):
            open_layers(str(overlay), "", files)


class TestSaved:
    def test_a_kept_image_is_known_by_all_of_its_files(self, image: Path, overlay: Path) -> None:
        config = DiskConfig(str(overlay), read_only=True)
        with config.open() as disk:
            (origin,) = origins([config], [disk])
        assert origin is not None
        with origin.open("snapshot", config) as again:
            assert read(again, 0, 512) == b"\x11" * 512
        with DiskConfig(str(image)).open() as below:
            below.writev([memoryview(b"x" * 512)], 0)

        with pytest.raises(ConfigurationError, match="was changed since"):
            origin.open("snapshot", config)

    def test_a_written_image_is_copied_as_the_guest_sees_it(self, overlay: Path) -> None:
        with DiskConfig(str(overlay)).open() as disk, disk.frozen() as frozen:
            disk.writev([memoryview(b"x" * 512)], 0)
            assert read(frozen, 0, SIZE) == b"\x11" * SIZE

    @pytest.mark.parametrize(
        ("config", "told"),
        [
            (DiskConfig("/d/a.qcow2", read_only=True, backing="/etc"), "backing files in '/etc'"),
            (DiskConfig("/d/a.img", read_only=True, format="qcow2"), r"must end in \.qcow2"),
        ],
    )
    def test_a_folder_makes_no_image_of_a_disk_and_opens_no_folder(
        self, config: DiskConfig, told: str
    ) -> None:
        saved = SavedDisk(FileIdentity(config.path, SIZE, "0" * 64), "", ())
        with pytest.raises(ConfigurationError, match=told):
            check_disks([saved], [config], "snapshot", {config.path})
