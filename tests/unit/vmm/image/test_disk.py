"""Disk images made from a folder, read back with debugfs."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm.image import demo_disk, disk, make_disk
from vmm.image.debian import find_tool

needs_mke2fs = pytest.mark.skipif(
    find_tool("mke2fs") is None, reason="mke2fs (Debian package e2fsprogs) is not installed"
)


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """Return a folder with a file, and one in a folder whose name has a blank."""
    folder = tmp_path / "content"
    (folder / "a b").mkdir(parents=True)
    (folder / "README").write_text("hello\n")
    (folder / "a b" / "nested").write_text("deep\n")
    return folder


def debugfs(image: Path, command: str) -> str:
    """Return what debugfs prints for ``command``."""
    tool = find_tool("debugfs")
    assert tool is not None
    done = subprocess.run([tool, "-R", command, image], capture_output=True, text=True, check=True)
    return done.stdout


@needs_mke2fs
def test_image_holds_the_files_and_is_sparse(content: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"

    make_disk(content, image, 8 << 20, label="mine")

    assert debugfs(image, "cat /README") == "hello\n"
    assert debugfs(image, 'cat "/a b/nested"') == "deep\n"
    assert image.stat().st_size == 8 << 20
    assert image.stat().st_blocks * 512 < 1 << 20


@needs_mke2fs
def test_file_system_is_sound_after_the_times_are_set(content: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"

    make_disk(content, image, 8 << 20)

    check = find_tool("e2fsck")
    assert check is not None
    assert subprocess.run([check, "-fn", image], capture_output=True).returncode == 0


@needs_mke2fs
def test_same_content_gives_same_bytes_later(
    content: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_disk(content, tmp_path / "first", 8 << 20)
    copy = tmp_path / "copy"
    shutil.copytree(content, copy, copy_function=shutil.copyfile)
    later = time.time() + 5
    while (copy / "README").stat().st_ctime_ns == (content / "README").stat().st_ctime_ns:
        assert time.time() < later
        (copy / "README").touch()

    make_disk(copy, tmp_path / "second", 8 << 20)

    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@needs_mke2fs
def test_content_that_does_not_fit_is_an_error(content: Path, tmp_path: Path) -> None:
    (content / "big").write_bytes(bytes(range(256)) * 4096)

    with pytest.raises(ConfigurationError, match=r"mke2fs failed for .*/image: "):
        make_disk(content, tmp_path / "image", 512 << 10)


@needs_mke2fs
def test_demo_disk_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))

    first = demo_disk()
    inode = first.stat().st_ino

    assert demo_disk().stat().st_ino == inode
    assert "demonstration disk" in debugfs(first, "cat /README")
    assert [path.name for path in first.parent.iterdir()] == ["disk.img"]


def test_missing_mke2fs_names_the_package(
    content: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(disk, "_NEEDS", {"no-such-mke2fs": "e2fsprogs"})

    with pytest.raises(ConfigurationError, match=r"apt-get install e2fsprogs$"):
        make_disk(content, tmp_path / "image", 8 << 20)


def test_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nothing: not a folder"):
        make_disk(tmp_path / "nothing", tmp_path / "image", 8 << 20)
