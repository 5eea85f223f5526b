"""A share in a snapshot: paths and handles, opened again where they are still there."""

import errno
import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.unit.vmm.share.conftest import Share
from tests.unit.vmm.share.shared import Shared
from tests.unit.vmm.share.test_names import error_of
from virtio.errors import ConfigurationError
from virtio.fs import Fs
from virtio.testing.fuse import FuseDriver
from vmm.share.directory import HostDirectory
from vmm.snapshot.plain import to_plain


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("content")
    (tmp_path / "other").write_text("other")
    return tmp_path


def test_nodes_and_handles_are_there_again(share: Share, tree: Path) -> None:
    shared = share()
    fuse = shared.fuse
    node = fuse.walk(b"a/b/file").node
    handle = fuse.open(node, 2)
    folder = fuse.open(fuse.lookup(1, b"a").node, directory=True)

    again = shared.restored()

    assert fuse.getattr(node).size == 7
    assert fuse.read(handle, 0, 100) == b"content"
    assert fuse.write(handle, 0, b"CON") == 3
    assert b"b" in {one.name for one in fuse.list(folder, plus=False)}
    assert fuse.walk(b"a/b/file").node == node
    assert fuse.create(1, b"new")[0] > node
    again.close()


def test_what_vanished_is_stale_and_the_rest_is_not(share: Share, tree: Path) -> None:
    shared = share()
    fuse = shared.fuse
    node, other = fuse.walk(b"a/b/file").node, fuse.lookup(1, b"other").node
    handle = fuse.open(node)
    (tree / "a" / "b" / "file").unlink()

    again = shared.restored()

    assert error_of(fuse.getattr, node) == errno.ESTALE
    assert error_of(fuse.read, handle, 0, 1) == errno.ESTALE
    fuse.release(handle)
    assert fuse.getattr(other).size == 5
    again.close()


def test_another_kind_of_file_under_the_name_is_stale(share: Share, tree: Path) -> None:
    shared = share()
    fuse = shared.fuse
    node = fuse.lookup(1, b"other").node
    (tree / "other").unlink()
    (tree / "other").mkdir()

    again = shared.restored()

    assert error_of(fuse.getattr, node) == errno.ESTALE
    assert fuse.lookup(1, b"other").node != node
    again.close()


def test_a_removed_file_that_was_open_is_stale(share: Share, tree: Path) -> None:
    shared = share()
    fuse = shared.fuse
    node = fuse.lookup(1, b"other").node
    handle = fuse.open(node)
    fuse.ask(10, 1, b"other\0")

    again = shared.restored()

    assert error_of(fuse.getattr, node) == errno.ESTALE
    assert error_of(fuse.getattr, node, handle) == errno.ESTALE
    again.close()


def test_a_copy_of_the_directory_serves_as_well(
    share: Share, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shared = share()
    fuse = shared.fuse
    node = fuse.walk(b"a/b/file").node
    copy = tmp_path_factory.mktemp("copy")
    (copy / "a" / "b").mkdir(parents=True)
    (copy / "a" / "b" / "file").write_text("another content")

    again = shared.restored(copy)

    assert fuse.getattr(node).size == 15
    assert fuse.walk(b"a/b/file").node == node
    again.close()


def test_a_restored_share_for_reading_does_not_write(share: Share, tree: Path) -> None:
    shared = share()
    fuse = shared.fuse
    handle = fuse.open(fuse.lookup(1, b"other").node, 2)

    again = shared.restored(writable=False)

    assert error_of(fuse.write, handle, 0, b"x") == errno.EROFS
    again.close()


def test_names_that_change_after_a_restore_are_followed(share: Share, tree: Path) -> None:
    shared = share()
    fuse = shared.fuse
    node, folder = fuse.walk(b"a/b/file").node, fuse.walk(b"a/b").node

    again = shared.restored()
    fuse.ask(12, 1, fuse.pack("Q", folder) + b"other\0moved\0")
    fuse.ask(12, folder, fuse.pack("Q", 1) + b"file\0up\0")

    assert fuse.getattr(node).size == 7
    assert fuse.lookup(1, b"up").node == node
    again.close()


def test_fifty_clones_each_read_another_file(share: Share, tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / str(number)).write_text(f"file {number}")
    shared = share()
    nodes = [shared.fuse.lookup(1, b"%d" % number).node for number in range(50)]
    handles = [shared.fuse.open(node) for node in nodes]
    state = shared.device.state()
    clones = []

    for number in range(50):
        system = HostDirectory(str(tmp_path))
        device = Fs(system, "share")
        device.restore(state)
        clones.append(system)
        view = memoryview(bytearray(100))
        assert system.try_read(handles[number], 0, [view]) == len(f"file {number}")
        assert bytes(view).rstrip(b"\0") == b"file %d" % number

    for system in clones:
        system.close()


def saved(**changes: Any) -> dict[str, Any]:
    """Return a state with a folder and a file in it, and the file open, with changes."""
    good = {
        "nodes": [[2, 1, b"a", 0o040000, 1], [3, 2, b"file", 0o100000, 1]],
        "handles": [[1, 3, 0, False]],
    }
    return good | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"nodes": None},
        {"nodes": [[2, 1, b"..", 0o040000, 1]]},
        {"nodes": [[2, 1, b"a/b", 0o040000, 1]]},
        {"nodes": [[2, 1, b"", 0o040000, 1]]},
        {"nodes": [[2, 1, b"a", 0o050000, 1]]},
        {"nodes": [[2, 1, "a", 0o040000, 1]]},
        {"nodes": [[1, 1, b"a", 0o040000, 1]]},
        {"nodes": [[2, 2, b"a", 0o040000, 1]]},
        {"nodes": [[2, 3, b"a", 0o040000, 1], [3, 2, b"b", 0o040000, 1]]},
        {"nodes": [[2, 9, b"a", 0o040000, 1]]},
        {"nodes": [[2, 1, b"a", 0o040000, 1]] * 2},
        {"nodes": [[1 << 63, 1, b"a", 0o040000, 1]]},
        {"handles": [[1, 9, 0, False]]},
        {"handles": [[0, 3, 0, False]]},
        {"handles": [[1, 3, 0]]},
        {"handles": [[1, 3, -1, False]]},
        {"handles": [[1, 3, 0, False]] * 2},
    ],
)
def test_a_state_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    system = HostDirectory(str(tmp_path))

    with pytest.raises(ConfigurationError, match=r"^saved"):
        system.restore(saved(**changes))

    system.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_state_is_made_of_plain_values(share: Share, tree: Path) -> None:
    shared = share()
    shared.fuse.open(shared.fuse.walk(b"a/b/file").node)

    assert to_plain(shared.device.state())


def test_random_steps_keep_what_host_and_guest_know_alike(share: Share, tmp_path: Path) -> None:
    """Make, rename, remove and save at random; each known file stays what it was."""
    chance = random.Random(7)
    shared = share()
    fuse = shared.fuse
    names = [b"%d" % number for number in range(6)]
    contents: dict[int, bytes] = {}
    for step in range(120):
        name, other = chance.sample(names, 2)
        action = chance.randrange(4)
        present = {os.fsencode(one) for one in os.listdir(tmp_path)}
        if action == 0 and name not in present:
            node, handle = fuse.create(1, name)
            contents[node] = b"%d" % step
            fuse.write(handle, 0, contents[node])
            fuse.release(handle)
        elif action == 1 and name in present:
            fuse.ask(12, 1, fuse.pack("Q", 1) + name + b"\0" + other + b"\0")
        elif action == 2 and name in present:
            fuse.ask(10, 1, name + b"\0")
        elif action == 3 and {name, other} <= present:
            fuse.ask(45, 1, fuse.pack("QII", 1, 2, 0) + name + b"\0" + other + b"\0")
        for node, content in contents.items():
            assert read_whole(fuse, node) == content
    for name in {os.fsencode(one) for one in os.listdir(tmp_path)}:
        assert read_whole(fuse, fuse.lookup(1, name).node) in contents.values()


def read_whole(fuse: FuseDriver, node: int) -> bytes:
    handle = fuse.open(node)
    data = fuse.read(handle, 0, 100)
    fuse.release(handle)
    return data


def test_no_descriptor_is_left(tree: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    shared = Shared(tree)
    fuse = shared.fuse
    fuse.open(fuse.walk(b"a/b/file").node)
    fuse.open(1, directory=True)
    fuse.ask(10, fuse.walk(b"a/b").node, b"file\0")

    shared.close()

    assert len(os.listdir("/proc/self/fd")) == before
