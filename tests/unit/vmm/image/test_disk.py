"""Disk images made from a folder, read back with debugfs and e2fsck."""

import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.others import powerless_script
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


def check(image: Path) -> None:
    """Let e2fsck look at all of an image, the checksums of its inodes included."""
    tool = find_tool("e2fsck")
    assert tool is not None
    done = subprocess.run([tool, "-fn", image], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


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

    check(image)


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


# Names


NAMES = [
    b"line\nset_inode_field <2> mode 0\nwrite image stolen\n",
    b'quote"d',
    b"it's",
    b"back\\slash",
    b"latin-\xe9",
    "grün".encode(),
    b"-rf",
    b" blank ",
    b"?offset=512",
    b"<12>",
    b"tab\t\r\x1b[31m",
    b"x" * 255,
]


def listed(image: Path) -> dict[bytes, os.stat_result]:
    """Let debugfs copy all of an image to a folder, and return what it is."""
    tool = find_tool("debugfs")
    assert tool is not None
    target = image.parent / "copy of the image"
    target.mkdir()
    subprocess.run([tool, "-R", "rdump / copy", image], check=True, cwd=_linked(target))
    return {
        name: os.lstat(os.path.join(os.fsencode(target), name))
        for name in os.listdir(os.fsencode(target))
    }


def _linked(target: Path) -> Path:
    (target.parent / "copy").symlink_to(target)
    return target.parent


@needs_mke2fs
@pytest.mark.parametrize("name", NAMES)
def test_names_are_bytes(name: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "content"
    folder.mkdir()
    path = os.path.join(os.fsencode(folder), name)
    for where in (path, os.path.join(path, name)):
        os.mkdir(where) if where == path else Path(os.fsdecode(where)).write_text("data")

    make_disk(folder, tmp_path / "image", 8 << 20)

    check(tmp_path / "image")
    assert sorted(listed(tmp_path / "image")) == sorted([name, b"lost+found"])
    inside = os.path.join(os.fsencode(tmp_path / "copy"), name, name)
    assert Path(os.fsdecode(inside)).read_text() == "data"
    assert sorted(os.listdir(tmp_path)) == ["content", "copy", "copy of the image", "image"]


@needs_mke2fs
@pytest.mark.parametrize("name", ["-d", "a?b", "a,b", 'quo"te', "line\nbreak", "blank b"])
def test_folder_and_image_may_have_any_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = Path(f"{name}.images")
    for folder in (Path(name), images):
        folder.mkdir()
    Path(name, "file").write_text("data")

    make_disk(Path(name), images / name, 8 << 20)

    assert sorted(os.listdir()) == sorted([name, f"{name}.images"])
    assert os.listdir(images) == [name]
    shutil.move(images / name, "image")
    assert debugfs(tmp_path / "image", "cat /file") == "data"


# Kinds


@needs_mke2fs
def test_everything_belongs_to_root_at_one_time(content: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(content / "README", 70_000, 70_000)
    os.utime(content / "README", (3_000_000_000, 3_000_000_000))
    (content / "link").symlink_to("README")

    make_disk(content, tmp_path / "image", 8 << 20)

    for name in ("/", "/lost+found", "/README", "/a b", "/a b/nested", "/link"):
        shown = debugfs(tmp_path / "image", f'stat "{name}"')
        assert "User:     0   Group:     0" in shown
        times = [line for line in shown.splitlines() if "time: " in line]
        assert len(times) == 4
        assert [line for line in times if "time: 0x00000001:00000000" not in line] == []
    check(tmp_path / "image")


@needs_mke2fs
def test_links_fifos_and_permissions_stay_what_they_are(content: Path, tmp_path: Path) -> None:
    (content / "tool").write_text("run")
    (content / "tool").chmod(0o4751)
    os.link(content / "tool", content / "a b" / "same")
    os.mkfifo(content / "fifo", 0o640)
    (content / "short").symlink_to("x" * 59)
    (content / "long").symlink_to("y" * 60)
    (content / "nowhere").symlink_to("line\nbreak")

    make_disk(content, tmp_path / "image", 8 << 20)

    found = listed(tmp_path / "image")
    nested = (tmp_path / "copy" / "a b" / "same").lstat()
    assert found[b"tool"].st_size == 3
    assert "Type: regular    Mode:  04751" in debugfs(tmp_path / "image", "stat /tool")
    assert "Links: 2" in debugfs(tmp_path / "image", "stat /tool")
    assert nested.st_size == 3
    assert "Type: FIFO    Mode:  0640" in debugfs(tmp_path / "image", "stat /fifo")
    for name in ("short", "long", "nowhere"):
        assert os.readlink(tmp_path / "copy" / name) == os.readlink(content / name)
    check(tmp_path / "image")


@needs_mke2fs
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make device nodes")
@pytest.mark.parametrize("device", [(5, 1), (136, 200), (259, 65_537)])
def test_device_nodes_keep_their_numbers(
    device: tuple[int, int], content: Path, tmp_path: Path
) -> None:
    os.mknod(content / "node", 0o600 | stat.S_IFCHR, os.makedev(*device))

    make_disk(content, tmp_path / "image", 8 << 20)

    shown = debugfs(tmp_path / "image", "stat /node")
    assert "Type: character special    Mode:  0600" in shown
    assert f"{device[0]:02}:{device[1]:02}" in shown


@needs_mke2fs
def test_many_files_and_holes_are_all_there(content: Path, tmp_path: Path) -> None:
    for number in range(600):
        (content / f"{number} {'n' * 100}").write_text(str(number))
    with (content / "holes").open("wb") as file:
        for offset in range(0, 3 << 20, 200_000):
            file.seek(offset)
            file.write(b"data")

    make_disk(content, tmp_path / "image", 16 << 20)

    check(tmp_path / "image")
    assert len(listed(tmp_path / "image")) == 604
    assert (tmp_path / "copy" / "holes").read_bytes() == (content / "holes").read_bytes()


# Refusals


def test_a_socket_is_named(content: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(content / "a b" / "socket"))

    with pytest.raises(ConfigurationError, match="a b/socket: a socket cannot be put into"):
        make_disk(content, tmp_path / "image", 8 << 20)
    assert not (tmp_path / "image").exists()


def test_a_name_of_two_lines_is_told_in_one(content: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(content / "two\nlines"))

    with pytest.raises(ConfigurationError, match=r"/two\\nlines': a socket cannot be put"):
        make_disk(content, tmp_path / "image", 8 << 20)


def test_a_file_in_the_place_of_lost_and_found_is_refused(content: Path, tmp_path: Path) -> None:
    (content / "lost+found").touch()

    with pytest.raises(ConfigurationError, match=r"lost\+found: must be a folder, for every ext4"):
        make_disk(content, tmp_path / "image", 8 << 20)


@pytest.mark.parametrize("name", ["a b", "README"])
def test_what_cannot_be_read_is_named(content: Path, tmp_path: Path, name: str) -> None:
    (content / name).chmod(0)

    message = powerless_script(
        f"""
        from pathlib import Path
        from vmm.image import make_disk
        make_disk(Path({str(content)!r}), Path("/dev/null"), 8 << 20)
        """
    )

    assert message == f"ConfigurationError: {content / name}: Permission denied"


@needs_mke2fs
def test_a_file_that_changes_meanwhile_is_named(
    content: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = disk._mke2fs

    def changed(*arguments: object) -> None:
        make(*arguments)  # type: ignore[arg-type]
        (content / "README").write_text("HELLO\n")

    monkeypatch.setattr(disk, "_mke2fs", changed)

    with pytest.raises(ConfigurationError, match="README: has another content in it: did the"):
        make_disk(content, tmp_path / "image", 8 << 20)
    assert sorted(os.listdir(tmp_path)) == ["content"]


def remove(folder: Path) -> None:
    (folder / "README").unlink()


def point_elsewhere(folder: Path) -> None:
    (folder / "link").unlink()
    (folder / "link").symlink_to("another")


def fill_the_first_hole(folder: Path) -> None:
    with (folder / "holes").open("r+b") as file:
        file.write(b"x")


def fill_the_last_hole(folder: Path) -> None:
    with (folder / "holes").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")


def add(folder: Path) -> None:
    (folder / "new").touch()


def close_to_others(folder: Path) -> None:
    (folder / "README").chmod(0o600)


def break_a_hard_link(folder: Path) -> None:
    (folder / "copy").write_text("hello\n")
    (folder / "copy").rename(folder / "same")


@needs_mke2fs
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove, "README: No such file or directory: did the folder change"),
        (point_elsewhere, "link: has another content in it"),
        (fill_the_first_hole, "holes: has another content in it"),
        (fill_the_last_hole, "holes: has another content in it"),
    ],
)
def test_what_changes_after_it_was_copied_is_named(
    content: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    message: str,
) -> None:
    (content / "link").symlink_to("README")
    with (content / "holes").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(512 << 10)
        file.write(b"data")
    make = disk._mke2fs

    def changed(*arguments: object) -> None:
        make(*arguments)  # type: ignore[arg-type]
        change(content)

    monkeypatch.setattr(disk, "_mke2fs", changed)

    with pytest.raises(ConfigurationError, match=message):
        make_disk(content, tmp_path / "image", 8 << 20)


@needs_mke2fs
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add, "new: is new in it"),
        (close_to_others, "README: has mode 100600 in it, not 100644"),
        (break_a_hard_link, "same: is no hard link in it"),
    ],
)
def test_what_changes_before_it_is_copied_is_named(
    content: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    message: str,
) -> None:
    (content / "README").chmod(0o644)
    os.link(content / "README", content / "same")
    make = disk._mke2fs

    def changed(folder: Path, *arguments: object) -> None:
        change(content)
        make(folder, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(disk, "_mke2fs", changed)

    with pytest.raises(ConfigurationError, match=message):
        make_disk(content, tmp_path / "image", 8 << 20)


@needs_mke2fs
def test_a_name_that_mke2fs_left_out_is_named(
    content: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = disk._mke2fs

    def without(folder: Path, *arguments: object) -> None:
        (content / "README").unlink()
        make(folder, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(disk, "_mke2fs", without)

    with pytest.raises(ConfigurationError, match="README: is missing in it: did the folder"):
        make_disk(content, tmp_path / "image", 8 << 20)


def test_an_image_in_its_own_folder_is_refused(content: Path) -> None:
    with pytest.raises(ConfigurationError, match="of which it would be a part"):
        make_disk(content, content / "a b" / "image", 8 << 20)
    assert sorted(os.listdir(content / "a b")) == ["nested"]


def test_a_label_that_is_too_long_is_refused(content: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="must have at most 16 bytes"):
        make_disk(content, tmp_path / "image", 8 << 20, label="ü" * 9)


@needs_mke2fs
def test_a_failure_leaves_the_image_that_was_there(content: Path, tmp_path: Path) -> None:
    (tmp_path / "image").write_text("before")
    (content / "big").write_bytes(bytes(range(256)) * 4096)

    with pytest.raises(ConfigurationError, match="mke2fs failed"):
        make_disk(content, tmp_path / "image", 512 << 10)
    assert (tmp_path / "image").read_text() == "before"
    assert sorted(os.listdir(tmp_path)) == ["content", "image"]
