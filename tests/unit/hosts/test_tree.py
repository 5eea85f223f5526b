"""What is put on a disk of the hardware host: files, what their links name, and their libraries."""

import os
from pathlib import Path

import pytest

from tests.hosts.tree import Tree, libraries, listed, make_ext4
from vmm.image.debian import find_tool


@pytest.fixture
def files(tmp_path: Path) -> Path:
    top = tmp_path.resolve() / "from"
    (top / "usr" / "lib").mkdir(parents=True)
    (top / "usr" / "lib" / "one").write_text("one")
    (top / "usr" / "other").write_text("other")
    (top / "lib").symlink_to(top / "usr" / "lib")
    (top / "usr" / "lib" / "link").symlink_to("../other")
    return top


def below(tree: Tree, target: Path, top: Path) -> set[str]:
    tree.write(target)
    copied = target / top.relative_to("/")
    return {str(path.relative_to(copied)) for path in copied.rglob("*")}


def test_file_reached_through_a_linked_folder_comes_with_the_link(
    files: Path, tmp_path: Path
) -> None:
    tree = Tree()
    tree.add(files / "lib" / "one")
    target = tmp_path / "to"
    target.mkdir()

    assert below(tree, target, files) == {"lib", "usr", "usr/lib", "usr/lib/one"}
    assert (target / files.relative_to("/") / "lib").readlink() == files / "usr" / "lib"


def test_link_comes_with_what_it_names(files: Path, tmp_path: Path) -> None:
    tree = Tree()
    tree.add(files / "lib" / "link")
    target = tmp_path / "to"
    target.mkdir()

    assert below(tree, target, files) == {"lib", "usr", "usr/lib", "usr/lib/link", "usr/other"}


def test_folder_comes_with_what_is_wanted_in_it(files: Path, tmp_path: Path) -> None:
    tree = Tree()
    tree.add(files / "usr", lambda path: path.name != "one")
    target = tmp_path / "to"
    target.mkdir()

    assert below(tree, target, files) == {"usr", "usr/lib", "usr/lib/link", "usr/other"}


def test_changed_file_gives_another_identity(files: Path) -> None:
    def identity() -> list[str]:
        tree = Tree()
        tree.add(files)
        return list(tree.identity())

    before, again = identity(), identity()
    status = (files / "usr" / "other").stat()
    (files / "usr" / "other").write_text("OTHER")
    os.utime(files / "usr" / "other", ns=(status.st_atime_ns, status.st_mtime_ns))

    assert before == again
    assert identity() != before


def test_libraries_of_a_program_are_those_that_it_is_loaded_with() -> None:
    found = {path.name for path in libraries([Path("/bin/sh")])}

    assert "libc.so.6" in found
    assert any(name.startswith("ld-linux") for name in found)


def test_what_ldd_lists_is_taken_from_the_lines_with_a_file() -> None:
    output = (
        "/bin/one:\n\tlinux-vdso.so.1 (0x00007ffc)\n"
        "\tlibc.so.6 => /lib/libc.so.6 (0x00007f01)\n\t/lib64/ld.so.2 (0x00007f02)\n"
        "/bin/two:\n\tnot a dynamic executable\n\tlibgone.so => not found\n"
    )

    assert listed(output) == ["/lib/libc.so.6", "/lib64/ld.so.2"]


@pytest.mark.skipif(find_tool("debugfs") is None, reason="debugfs is not installed")
def test_disk_keeps_the_times_of_its_files(files: Path, tmp_path: Path) -> None:
    from tests.hosts.errand import debugfs

    os.utime(files / "usr" / "other", (1_000_000_000, 1_000_000_000))
    make_ext4(files, tmp_path / "image", 8 << 20)

    assert "mtime: 0x3b9aca00" in debugfs(tmp_path / "image", "stat /usr/other")
