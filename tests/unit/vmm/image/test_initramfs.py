"""Initramfs images, read back by a parser written from the format's description."""

import os
import socket
import stat
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.others import powerless_script
from virtio.errors import ConfigurationError
from vmm.image import build_initramfs, cpio, default_initramfs, initramfs_from_options
from vmm.image.busybox import is_static
from vmm.image.debian import find_tool
from vmm.image.init import default_init
from vmm.image.initramfs import Initramfs
from vmm.image.options import split_option


class Found(NamedTuple):
    inode: int
    mode: int
    uid: int
    gid: int
    links: int
    time: int
    device: tuple[int, int]
    data: bytes


def unpack(image: bytes) -> dict[str, Found]:
    """Return the members of a newc archive by name, which keep their order."""
    members: dict[str, Found] = {}
    at = 0
    while True:
        assert at % 4 == 0
        assert image[at : at + 6] == b"070701"
        fields = [int(image[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        inode, mode, uid, gid, links, time, size, _, _, major, minor, name_size, check = fields
        assert check == 0
        name = image[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        at = (at + 110 + name_size + 3) & ~3
        data = image[at : at + size]
        assert len(data) == size
        at = (at + size + 3) & ~3
        if name == b"TRAILER!!!\0":
            assert at == len(image)
            return members
        assert name.decode() not in members
        members[name[:-1].decode(errors="surrogateescape")] = Found(
            inode, mode, uid, gid, links, time, (major, minor), data
        )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a folder with a file, a link, a nested file and a FIFO."""
    folder = tmp_path / "tree"
    (folder / "sub").mkdir(parents=True)
    (folder / "tool").write_bytes(b"#!/bin/sh\n")
    (folder / "tool").chmod(0o751)
    (folder / "sub" / "data").write_bytes(b"12345")
    (folder / "sub" / "data").chmod(0o640)
    (folder / "link").symlink_to("../outside")
    os.mkfifo(folder / "fifo", 0o600)
    return folder


def test_file_content_gets_mode_0644_and_folders_above_it() -> None:
    members = unpack(build_initramfs({"/a/b/c": "text"}, init="#!", busybox=False))

    assert members["a/b/c"].data == b"text"
    assert members["a/b/c"].mode == 0o100644
    assert members["a"].mode == 0o40755
    assert members["a/b"].mode == 0o40755


def test_init_is_executable_and_console_is_device_5_1() -> None:
    members = unpack(build_initramfs(init=b"#!/agent", busybox=False))

    assert members["init"].data == b"#!/agent"
    assert members["init"].mode == 0o100755
    assert members["dev/console"].mode == 0o20600
    assert members["dev/console"].device == (5, 1)


def test_tree_keeps_modes_links_and_fifos(tree: Path) -> None:
    image = build_initramfs(directories={"/opt": tree}, init="#!", busybox=False)
    members = unpack(image)

    assert members["opt/tool"].mode == 0o100751
    assert members["opt/sub/data"].mode == 0o100640
    assert members["opt/sub/data"].data == b"12345"
    assert members["opt/link"].mode == 0o120777
    assert members["opt/link"].data == b"../outside"
    assert members["opt/fifo"].mode == 0o10600


def test_tree_for_the_root_lands_there(tree: Path) -> None:
    members = unpack(build_initramfs(directories={"/": tree}, init="#!", busybox=False))

    assert members["sub/data"].data == b"12345"


def test_init_of_a_root_tree_is_kept(tree: Path) -> None:
    (tree / "init").write_text("own")

    members = unpack(build_initramfs(directories={"/": tree}, busybox=False))

    assert members["init"].data == b"own"


def test_folders_come_before_what_they_hold(tree: Path) -> None:
    names = list(unpack(build_initramfs(directories={"/z": tree}, init="#!", busybox=False)))

    assert names.index("z") < names.index("z/sub") < names.index("z/sub/data")


def test_archive_names_no_owner_no_time_and_numbers_inodes_in_order() -> None:
    members = unpack(build_initramfs({"/b": "", "/a": ""}, init="#!", busybox=False))

    assert [member.inode for member in members.values()] == list(range(1, len(members) + 1))
    assert {(m.uid, m.gid, m.time) for m in members.values()} == {(0, 0, 0)}
    assert members["dev"].links == 2


def test_same_input_gives_same_bytes_whatever_the_order_and_the_times(tree: Path) -> None:
    first = build_initramfs(
        {"/x": "1", "/y": "2"}, directories={"/t": tree}, init="#!", busybox=False
    )
    os.utime(tree / "tool", (1, 1))
    again = build_initramfs(
        {"/y": "2", "/x": "1"}, directories={"/t": tree}, init="#!", busybox=False
    )

    assert first == again


def test_later_file_replaces_an_earlier_one() -> None:
    image = Initramfs()
    image.add_file("/a", "old")
    image.add_file("a", "new", 0o600)

    assert unpack(image.to_bytes())["a"][1::6] == (0o100600, b"new")


@pytest.mark.parametrize("path", ["../etc/passwd", "/a/../../b", "/", "", ".", "a\0b"])
def test_paths_that_leave_or_name_no_place_are_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match="must name a place below the root"):
        build_initramfs({path: "x"}, init="#!", busybox=False)


def test_name_that_the_kernel_would_skip_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="4096 bytes long, at most 4095"):
        cpio.archive([cpio.Member("n" * 4096, stat.S_IFREG)])


def test_file_below_a_file_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"/a/b: /a is not a folder"):
        build_initramfs({"/a": "x", "/a/b": "y"}, init="#!", busybox=False)


def test_file_in_place_of_a_full_folder_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"/a: is a folder with something in it"):
        build_initramfs({"/a/b": "y", "/a": "x"}, init="#!", busybox=False)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing: No such file or directory"):
        build_initramfs({"/a": tmp_path / "nothing"}, init="#!", busybox=False)


def test_folder_given_as_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not a file"):
        build_initramfs({"/a": tmp_path}, init="#!", busybox=False)


def test_file_given_as_folder_is_named(tree: Path) -> None:
    with pytest.raises(ConfigurationError, match="tool: not a folder"):
        build_initramfs(directories={"/a": tree / "tool"}, init="#!", busybox=False)


def test_socket_in_a_tree_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sock")

    with pytest.raises(ConfigurationError, match="sock: a socket"):
        build_initramfs(directories={"/a": tree}, init="#!", busybox=False)


def test_busybox_comes_with_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elf = b"\x7fELF\x02".ljust(64, b"\0")
    (tmp_path / "busybox").write_bytes(elf)
    monkeypatch.setattr("vmm.image.busybox._PLACES", (tmp_path / "busybox",))

    members = unpack(build_initramfs(init="#!"))

    assert members["bin/busybox"].data == elf
    assert members["bin/busybox"].mode == 0o100755
    assert members["bin/sh"].data == b"busybox"


def test_init_is_the_script_without_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path))
    monkeypatch.setattr("vmm.image.program.BUILT", tmp_path / "programs")
    monkeypatch.setattr("vmm.image.debian.find_tool", lambda name: None)

    members = unpack(build_initramfs(busybox=False))

    assert members["init"].data.startswith(b"#!/bin/sh\n")
    assert members["init"].mode == 0o100755


@pytest.mark.skipif(find_tool("gcc") is None, reason="gcc is not installed")
def test_init_is_a_small_static_program_with_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path))

    program = default_init()

    assert is_static(program)
    assert program.stat().st_size < 8192
    assert default_init() == program


def test_failing_compiler_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "gcc"
    compiler.write_text("#!/bin/sh\necho 'init.c:1: error: no such thing' >&2; exit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("vmm.image.program.BUILT", tmp_path / "programs")
    monkeypatch.setattr("vmm.image.debian.find_tool", lambda name: str(compiler))

    with pytest.raises(ConfigurationError, match=r"gcc failed .*: error: no such thing"):
        default_init()


def test_default_image_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "busybox").write_bytes(b"\x7fELF\x02".ljust(64, b"\0"))
    monkeypatch.setattr("vmm.image.busybox._PLACES", (tmp_path / "busybox",))
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))

    first = default_initramfs()
    first.write_bytes(b"as it was")

    assert default_initramfs() == first
    assert first.read_bytes() == b"as it was"


def test_missing_busybox_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmm.image.busybox._PLACES", ())
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    with pytest.raises(ConfigurationError, match="apt-get install busybox-static"):
        build_initramfs()


def test_busybox_with_shared_libraries_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "busybox").write_bytes(elf_with_segment(kind=3))
    monkeypatch.setattr("vmm.image.busybox._PLACES", (tmp_path / "busybox",))

    with pytest.raises(ConfigurationError, match="needs libraries"):
        build_initramfs()


@pytest.mark.parametrize(("kind", "static"), [(1, True), (3, False)])
def test_program_is_static_without_an_interpreter(kind: int, static: bool, tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(elf_with_segment(kind))

    assert is_static(tmp_path / "program") is static


def elf_with_segment(kind: int) -> bytes:
    """Return a 64-bit ELF file whose only program header has the given type."""
    header = bytearray(64)
    header[:5] = b"\x7fELF\x02"
    header[32], header[54], header[56] = 64, 56, 1
    return bytes(header) + bytes([kind]) + bytes(55)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/a/prog:/bin/prog", ("/a/prog", "/bin/prog")),
        ("/a/prog", ("/a/prog", "/a/prog")),
        ("/a/with:colon", ("/a/with:colon", "/a/with:colon")),
        ("/a:b:/c", ("/a:b", "/c")),
    ],
)
def test_option_is_split_at_the_guest_path(value: str, expected: tuple[str, str]) -> None:
    source, target = split_option(value, "--file")

    assert (str(source), target) == expected


def test_options_make_the_image(tree: Path) -> None:
    image = initramfs_from_options(
        [f"{tree}/tool:/sbin/"], [f"{tree}/sub:/data"], f"{tree}/tool", busybox=False
    )
    members = unpack(image)

    assert members["sbin/tool"].mode == 0o100751
    assert members["data/data"].data == b"12345"
    assert members["init"].mode == 0o100755


def test_option_without_source_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"--file ':/x': needs SRC"):
        split_option(":/x", "--file")


# What cannot be put in, or not whole


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give file capabilities")
def test_file_capabilities_are_warned_of(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    # VFS_CAP_REVISION_2 with CAP_NET_RAW permitted and effective: linux/capability.h
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(tree / "tool", "security.capability", capability)

    build_initramfs({"/ping": tree / "tool"}, init="#!/bin/sh", busybox=False)
    assert f"{tree}/tool: has file capabilities, which a cpio archive cannot hold" in caplog.text
    caplog.clear()
    build_initramfs(directories={"/": tree}, init="#!/bin/sh", busybox=False)
    assert caplog.text.count("has file capabilities") == 1


def test_file_of_5_gib_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(5 << 30)

    with pytest.raises(ConfigurationError, match="huge: 5368709120 bytes; a file in an initramfs"):
        build_initramfs({"/huge": tmp_path / "huge"}, busybox=False)


@pytest.mark.parametrize("name", ["sub", "tool"])
def test_what_cannot_be_read_in_a_folder_is_named(tree: Path, name: str) -> None:
    (tree / name).chmod(0)

    message = powerless_script(
        f"""
        from pathlib import Path
        from vmm.image import build_initramfs
        build_initramfs(directories={{"/": Path({str(tree)!r})}}, init="", busybox=False)
        """
    )

    assert message == f"ConfigurationError: {tree / name}: Permission denied"
