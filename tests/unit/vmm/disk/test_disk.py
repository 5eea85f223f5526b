"""Raw disk images: how they are asked for, opened, read, written, and given back."""

import errno
import logging
import os
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm.disk import raw
from vmm.disk.disk import DiskConfig
from vmm.disk.overlay import BaseDisk
from vmm.disk.raw import RawDisk


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(bytes(range(256)) * 256)
    return path


def read(image: BaseDisk, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    image.readv([memoryview(buffer)], offset)
    return bytes(buffer)


def write(image: BaseDisk, offset: int, data: bytes) -> None:
    image.writev([memoryview(data)], offset)


class TestConfig:
    def test_a_file_name_alone_gives_a_plain_writable_disk(self) -> None:
        assert DiskConfig.parse("a.img") == DiskConfig(
            "a.img",
            read_only=False,
            volatile=False,
            serial="",
            block_size=None,
            queues=1,
            limit=None,
        )

    def test_all_options_are_read(self) -> None:
        config = DiskConfig.parse("a.img,ro,volatile,serial=S-1,block-size=4096,queues=3,limit=2M")

        assert config == DiskConfig("a.img", True, True, "S-1", 4096, 3, 2 << 20)

    def test_a_doubled_comma_stands_for_one(self) -> None:
        config = DiskConfig.parse("a,,b,,,serial=x,,y")

        assert (config.path, config.serial) == ("a,b,", "x,y")

    @pytest.mark.parametrize(
        "text",
        [
            "a,rw",
            "a,ro=1",
            "a,serial",
            "a,block-size=4k",
            "a,limit=",
            "a,limit=-1",
            "a,limit",
            "a,queues=-1",
            "a,",
            ",ro",
            "",
            "a,ro,ro",
        ],
    )
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(ConfigurationError):
            DiskConfig.parse(text)

    def test_an_unknown_option_is_answered_with_those_allowed(self) -> None:
        with pytest.raises(ConfigurationError, match=r"'rw'.*ro, volatile, .*serial="):
            DiskConfig.parse("a,rw")

    def test_a_volatile_disk_leaves_the_file_as_it_was(self, image: Path) -> None:
        before = image.read_bytes()

        with DiskConfig(str(image), volatile=True).open() as opened:
            write(opened, 512, b"x" * 512)
            seen = read(opened, 0, 65536)

        assert seen == before[:512] + b"x" * 512 + before[1024:]
        assert image.read_bytes() == before


class TestOpening:
    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="absent: No such file"):
            RawDisk.open(str(tmp_path / "absent"))

    @pytest.mark.parametrize("read_only", [False, True])
    def test_a_directory_is_refused(self, tmp_path: Path, read_only: bool) -> None:
        with pytest.raises(ConfigurationError, match="a regular file or a block device is needed"):
            RawDisk.open(str(tmp_path), read_only=read_only)

    def test_a_fifo_is_refused_without_waiting(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")

        with pytest.raises(ConfigurationError, match="a regular file or a block device is needed"):
            RawDisk.open(str(tmp_path / "fifo"), read_only=True)

    @pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
    def test_a_file_that_may_not_be_written_gets_the_hint_to_use_ro(
        self, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        def refuse(*arguments: object) -> int:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr("os.open", refuse)

        with pytest.raises(ConfigurationError, match="',ro'"):
            RawDisk.open("image")

    @pytest.mark.parametrize("size", [0, 511])
    def test_an_image_without_a_whole_sector_is_refused(self, tmp_path: Path, size: int) -> None:
        path = tmp_path / "small"
        path.write_bytes(bytes(size))

        with pytest.raises(ConfigurationError, match=f"{size} bytes, at least 512"):
            RawDisk.open(str(path))

    def test_a_broken_last_sector_is_left_out_with_a_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "odd"
        path.write_bytes(bytes(1500))

        with caplog.at_level(logging.WARNING), RawDisk.open(str(path)) as opened:
            size = opened.size_bytes

        assert size == 1024
        assert "the last 476 bytes are no sector" in caplog.text

    def test_a_second_writer_is_refused(self, image: Path) -> None:
        with (
            RawDisk.open(str(image)),
            pytest.raises(ConfigurationError, match="in use by this process"),
        ):
            RawDisk.open(str(image))

    def test_a_reader_beside_a_writer_is_refused(self, image: Path) -> None:
        with RawDisk.open(str(image)), pytest.raises(ConfigurationError, match="which writes it"):
            RawDisk.open(str(image), read_only=True)

    def test_two_readers_are_allowed(self, image: Path) -> None:
        with (
            RawDisk.open(str(image), read_only=True) as one,
            RawDisk.open(str(image), read_only=True) as two,
        ):
            assert read(one, 0, 512) == read(two, 0, 512)

    def test_closing_ends_the_lock(self, image: Path) -> None:
        RawDisk.open(str(image)).close()

        with RawDisk.open(str(image)) as opened:
            assert opened.size_bytes == 65536

    @pytest.mark.usefixtures("nothing_to_collect")
    def test_a_failure_leaves_no_descriptor_open(self, tmp_path: Path) -> None:
        path = tmp_path / "small"
        path.write_bytes(b"")
        before = os.listdir("/proc/self/fd")

        with pytest.raises(ConfigurationError):
            RawDisk.open(str(path))

        assert os.listdir("/proc/self/fd") == before

    def test_a_read_only_disk_is_opened_read_only_on_the_host(self, image: Path) -> None:
        with (
            RawDisk.open(str(image), read_only=True) as opened,
            pytest.raises(OSError, match=os.strerror(errno.EBADF)),
        ):
            write(opened, 0, bytes(512))


class TestData:
    def test_scattered_buffers_are_filled_in_turn(self, image: Path) -> None:
        one, two = bytearray(700), bytearray(324)

        with RawDisk.open(str(image)) as opened:
            opened.readv([memoryview(one), memoryview(two)], 512)

        assert bytes(one + two) == bytes(range(256)) * 4

    def test_more_buffers_than_one_call_takes_are_all_moved(self, image: Path) -> None:
        buffers = [bytearray(1) for _ in range(3072)]

        with RawDisk.open(str(image)) as opened:
            opened.readv([memoryview(one) for one in buffers], 0)

        assert b"".join(buffers) == bytes(range(256)) * 12

    def test_short_reads_are_continued(self, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = os.preadv
        monkeypatch.setattr("os.preadv", lambda fd, views, at: whole(fd, [views[0][:7]], at))

        with RawDisk.open(str(image)) as opened:
            data = read(opened, 3, 100)

        assert data == bytes(range(3, 103))

    def test_short_writes_are_continued(self, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = os.pwritev
        monkeypatch.setattr("os.pwritev", lambda fd, views, at: whole(fd, [views[0][:9]], at))

        with RawDisk.open(str(image)) as opened:
            write(opened, 512, b"abcdefghijklmnopqrstuvwxyz")

        assert image.read_bytes()[512:539] == b"abcdefghijklmnopqrstuvwxyz\x1a"

    def test_an_image_cut_off_meanwhile_is_an_error(self, image: Path) -> None:
        with RawDisk.open(str(image)) as opened:
            os.truncate(image, 4096)

            with pytest.raises(OSError, match="ends at byte 4096"):
                read(opened, 3584, 1024)

    @pytest.mark.parametrize("offset", [65536, 65025, 1 << 63, (1 << 64) - 512, -512])
    def test_nothing_outside_is_touched(self, image: Path, offset: int) -> None:
        with RawDisk.open(str(image)) as opened:
            with pytest.raises(OSError, match="outside"):
                write(opened, offset, bytes(512))
            with pytest.raises(OSError, match="outside"):
                opened.write_zeroes(offset, 512, unmap=True)
            with pytest.raises(OSError, match="outside"):
                opened.discard(offset, 512)

        assert image.stat().st_size == 65536

    def test_flush_syncs_the_file(self, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced: list[int] = []
        monkeypatch.setattr("os.fdatasync", synced.append)

        with RawDisk.open(str(image)) as opened:
            opened.flush()

        assert len(synced) == 1

    def test_rescan_sees_that_the_file_grew(self, image: Path) -> None:
        with RawDisk.open(str(image)) as opened:
            os.truncate(image, 131072)

            assert opened.rescan() == 131072
            assert read(opened, 130560, 512) == bytes(512)


class TestHoles:
    """In memory, where the kernel can punch holes and cannot zero a range otherwise."""

    @pytest.fixture
    def full(self) -> RawDisk:
        opened = RawDisk.scratch(1 << 20)
        write(opened, 0, b"\xff" * (1 << 20))
        return opened

    def blocks(self, opened: RawDisk) -> int:
        return os.fstat(opened.fd).st_blocks

    def test_discard_gives_storage_back(self, full: RawDisk) -> None:
        with full:
            before = self.blocks(full)
            full.discard(0, 1 << 19)

            assert self.blocks(full) == before // 2
            assert full.size_bytes == 1 << 20

    def test_zeroes_with_unmap_give_storage_back(self, full: RawDisk) -> None:
        with full:
            before = self.blocks(full)
            full.write_zeroes(0, 1 << 19, unmap=True)

            assert self.blocks(full) == before // 2
            assert read(full, 0, 1 << 20) == bytes(1 << 19) + b"\xff" * (1 << 19)

    @pytest.mark.parametrize("unmap", [False, True])
    def test_zeroes_reach_exactly_the_range(self, full: RawDisk, unmap: bool) -> None:
        with full:
            full.write_zeroes(512, 150016, unmap=unmap)

            assert read(full, 0, 1 << 20) == b"\xff" * 512 + bytes(150016) + b"\xff" * 898048

    def test_zeroes_without_unmap_keep_storage(self, full: RawDisk) -> None:
        with full:
            before = self.blocks(full)
            full.write_zeroes(0, 1 << 20, unmap=False)

            assert self.blocks(full) == before

    def test_a_host_that_cannot_punch_holes_still_zeroes(
        self, full: RawDisk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(raw, "punch_hole", lambda fd, offset, length: False)
        with full:
            full.write_zeroes(0, 4096, unmap=True)

            assert read(full, 0, 8192) == bytes(4096) + b"\xff" * 4096
            assert not full.can_unmap

    def test_a_host_that_cannot_punch_holes_ignores_discard(
        self, full: RawDisk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(raw, "punch_hole", lambda fd, offset, length: False)
        with full:
            full.discard(0, 4096)

            assert read(full, 0, 4096) == b"\xff" * 4096

    def test_another_failure_to_punch_is_an_error(self, image: Path) -> None:
        with RawDisk.open(str(image), read_only=True) as opened:
            opened.can_unmap = True

            with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
                opened.discard(0, 4096)


class TestFrozen:
    def test_a_copy_keeps_the_moment_and_the_holes(self, tmp_path: Path) -> None:
        path = tmp_path / "sparse"
        with path.open("wb") as file:
            file.truncate(1 << 30)
            file.seek(1 << 29)
            file.write(b"data")

        with RawDisk.open(str(path)) as opened, opened.frozen() as frozen:
            write(opened, 1 << 29, b"x" * 512)

            assert read(frozen, 1 << 29, 512) == b"data" + bytes(508)
            assert frozen.size_bytes == 1 << 30
            assert frozen.read_only
            assert os.fstat(frozen.fd).st_blocks < 8192

    def test_a_read_only_image_is_itself_the_copy(self, image: Path) -> None:
        with RawDisk.open(str(image), read_only=True) as opened:
            frozen = opened.frozen()

        with frozen:
            assert os.path.samestat(os.fstat(frozen.fd), image.stat())
            with pytest.raises(ConfigurationError, match="in use by this process"):
                RawDisk.open(str(image))
        RawDisk.open(str(image)).close()
