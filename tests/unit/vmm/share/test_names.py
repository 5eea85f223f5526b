"""Names in a shared directory: found, made, removed and renamed, and never outside of it."""

import errno
import os
import resource
import stat
from pathlib import Path

import pytest

from tests.unit.vmm.share.conftest import Share
from tests.unit.vmm.share.shared import SMALL
from virtio.testing.fuse import FuseError
from vmm.share import limits

CREAT, EXCL, RDWR = 0o100, 0o200, 2
NOREPLACE, EXCHANGE = 1, 2


def error_of(call: object, *arguments: object, **named: object) -> int:
    with pytest.raises(FuseError) as told:
        call(*arguments, **named)  # type: ignore[operator]
    return told.value.errno


@pytest.mark.parametrize("name", [b"..", b".", b"", b"a/b", b"/etc", b"../etc"])
def test_a_name_that_is_no_component_is_refused(share: Share, name: bytes) -> None:
    fuse = share().fuse

    assert error_of(fuse.lookup, 1, name) == errno.EINVAL


def test_a_name_of_256_bytes_is_too_long(share: Share) -> None:
    fuse = share().fuse

    assert error_of(fuse.lookup, 1, b"n" * 256) == errno.ENAMETOOLONG
    assert error_of(fuse.lookup, 1, b"n" * 255) == errno.ENOENT


def test_a_name_without_an_end_is_refused(share: Share) -> None:
    fuse = share().fuse

    assert error_of(fuse.ask, 1, 1, b"name") == errno.EINVAL


def test_a_symbolic_link_is_told_and_never_followed(share: Share, tmp_path: Path) -> None:
    (tmp_path / "way out").symlink_to("/etc")
    fuse = share().fuse

    link = fuse.lookup(1, b"way out")

    assert stat.S_ISLNK(link.attributes.mode)
    assert fuse.ask(5, link.node) == b"/etc"
    assert error_of(fuse.lookup, link.node, b"passwd") == errno.ENOTDIR
    assert error_of(fuse.open, link.node) == errno.ENXIO


def test_a_directory_that_became_a_link_is_not_entered(share: Share, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    fuse = share().fuse
    folder = fuse.lookup(1, b"folder").node
    (tmp_path / "folder").rmdir()
    (tmp_path / "folder").symlink_to("/etc")

    assert error_of(fuse.lookup, folder, b"passwd") == errno.ESTALE


@pytest.mark.parametrize("flags", [0, RDWR])
def test_a_fifo_is_not_opened_on_the_host(share: Share, tmp_path: Path, flags: int) -> None:
    os.mkfifo(tmp_path / "fifo")
    fuse = share().fuse

    assert error_of(fuse.open, fuse.lookup(1, b"fifo").node, flags) == errno.ENXIO


def test_a_device_is_not_made_but_a_fifo_and_a_whiteout_are(share: Share, tmp_path: Path) -> None:
    fuse = share().fuse

    def mknod(name: bytes, mode: int, device: int) -> None:
        fuse.ask(8, 1, fuse.pack("IIII", mode, device, 0, 0) + name + b"\0")

    assert error_of(mknod, b"null", stat.S_IFCHR | 0o666, 0x103) == errno.EPERM
    assert error_of(mknod, b"sda", stat.S_IFBLK | 0o666, 0x800) == errno.EPERM
    mknod(b"fifo", stat.S_IFIFO | 0o600, 0)
    assert (tmp_path / "fifo").is_fifo()


def test_what_is_made_has_the_mode_that_the_guest_says(share: Share, tmp_path: Path) -> None:
    fuse = share().fuse
    before = os.umask(0o077)
    try:
        fuse.create(1, b"file", mode=0o666)
        fuse.ask(9, 1, fuse.pack("II", 0o777, 0o002) + b"folder\0")
    finally:
        os.umask(before)

    assert (tmp_path / "file").stat().st_mode & 0o7777 == 0o666
    assert (tmp_path / "folder").stat().st_mode & 0o7777 == 0o775


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_what_root_makes_is_the_guests_users(share: Share, tmp_path: Path) -> None:
    fuse = share().fuse
    fuse.uid, fuse.gid = 1234, 5678

    fuse.create(1, b"file")
    fuse.ask(6, 1, b"link\0target\0")

    for name in ("file", "link"):
        status = (tmp_path / name).lstat()
        assert (status.st_uid, status.st_gid) == (1234, 5678)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_a_set_group_id_directory_hands_on_its_group(share: Share, tmp_path: Path) -> None:
    (tmp_path / "group").mkdir()
    os.chown(tmp_path / "group", 0, 4321)
    (tmp_path / "group").chmod(0o2775)
    fuse = share().fuse
    fuse.gid = 5678
    group = fuse.lookup(1, b"group").node

    fuse.ask(9, group, fuse.pack("II", 0o755, 0) + b"below\0")

    status = (tmp_path / "group" / "below").stat()
    assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (4321, 0o2755)


def test_create_opens_what_is_there_unless_it_must_be_new(share: Share, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    fuse = share().fuse

    node, handle = fuse.create(1, b"file", RDWR | CREAT)

    assert fuse.read(handle, 0, 100) == b"content"
    assert node == fuse.lookup(1, b"file").node
    assert error_of(fuse.create, 1, b"file", RDWR | CREAT | EXCL) == errno.EEXIST


def test_create_does_not_follow_a_link(share: Share, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path.parent / "made by the guest")
    fuse = share().fuse

    assert error_of(fuse.create, 1, b"out", RDWR | CREAT) == errno.ENXIO
    assert not (tmp_path.parent / "made by the guest").exists()


def test_two_names_of_a_file_are_one_node(share: Share, tmp_path: Path) -> None:
    fuse = share().fuse
    node, _ = fuse.create(1, b"one")

    linked = fuse.entry(fuse.ask(13, 1, fuse.pack("Q", node) + b"two\0"))

    assert linked.node == node == fuse.lookup(1, b"two").node
    assert linked.attributes.nlink == 2


def test_a_link_to_a_symbolic_link_is_one_of_the_link(share: Share, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    fuse = share().fuse
    link = fuse.lookup(1, b"link").node

    fuse.ask(13, 1, fuse.pack("Q", link) + b"again\0")

    assert os.readlink(tmp_path / "again") == "nowhere"


def test_rename_moves_what_is_below(share: Share, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("x")
    fuse = share().fuse
    file = fuse.walk(b"a/b/file").node

    fuse.ask(12, 1, fuse.pack("Q", 1) + b"a\0c\0")

    assert fuse.getattr(file).size == 1
    assert fuse.lookup(1, b"c").node == fuse.walk(b"c").node
    assert (tmp_path / "c" / "b" / "file").exists()


def test_rename_with_flags(share: Share, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1")
    (tmp_path / "two").write_text("22")
    fuse = share().fuse
    one, two = fuse.lookup(1, b"one").node, fuse.lookup(1, b"two").node

    def rename(flags: int) -> None:
        fuse.ask(45, 1, fuse.pack("QII", 1, flags, 0) + b"one\0two\0")

    assert error_of(rename, NOREPLACE) == errno.EEXIST
    assert error_of(rename, 0x100) == errno.EINVAL
    rename(EXCHANGE)

    assert (tmp_path / "one").read_text() == "22"
    assert (fuse.lookup(1, b"one").node, fuse.lookup(1, b"two").node) == (two, one)
    assert (fuse.getattr(one).size, fuse.getattr(two).size) == (1, 2)


def test_a_removed_file_lives_while_the_guest_knows_it(share: Share, tmp_path: Path) -> None:
    fuse = share().fuse
    node, handle = fuse.create(1, b"file")
    fuse.write(handle, 0, b"content")

    fuse.ask(10, 1, b"file\0")

    assert not (tmp_path / "file").exists()
    assert fuse.getattr(node).nlink == 0
    assert fuse.read(handle, 0, 100) == b"content"
    assert fuse.read(fuse.open(node), 0, 100) == b"content"


def test_a_replaced_file_lives_while_the_guest_knows_it(share: Share) -> None:
    fuse = share().fuse
    old, handle = fuse.create(1, b"old")
    fuse.write(handle, 0, b"old content")
    fuse.release(handle)
    fuse.create(1, b"new")

    fuse.ask(12, 1, fuse.pack("Q", 1) + b"new\0old\0")

    assert fuse.read(fuse.open(old), 0, 100) == b"old content"


def test_a_removed_directory_is_told_of_as_long_as_it_is_known(share: Share) -> None:
    fuse = share().fuse
    fuse.ask(9, 1, fuse.pack("II", 0o755, 0) + b"folder\0")
    folder = fuse.lookup(1, b"folder").node

    fuse.ask(11, 1, b"folder\0")

    assert fuse.getattr(folder).nlink == 0
    assert error_of(fuse.lookup, folder, b"x") == errno.ENOENT


def test_a_directory_that_is_not_empty_stays(share: Share, tmp_path: Path) -> None:
    (tmp_path / "folder" / "below").mkdir(parents=True)
    fuse = share().fuse

    assert error_of(fuse.ask, 11, 1, b"folder\0") == errno.ENOTEMPTY
    assert error_of(fuse.ask, 10, 1, b"folder\0") == errno.EISDIR


def test_a_forgotten_node_is_none_any_more(share: Share, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fuse = share().fuse
    node = fuse.lookup(1, b"file").node
    assert fuse.lookup(1, b"file").node == node

    fuse.forget(node, 1)
    assert fuse.getattr(node).size == 0
    fuse.tell(42, 0, fuse.pack("IIQQ", 1, 0, node, 1))

    assert error_of(fuse.getattr, node) == errno.ESTALE
    assert fuse.lookup(1, b"file").node != node


def test_the_root_is_never_forgotten(share: Share) -> None:
    fuse = share().fuse

    fuse.forget(1, 2**64 - 1)

    assert stat.S_ISDIR(fuse.getattr(1).mode)


def test_a_file_that_the_host_replaced_is_stale_until_it_is_looked_up(
    share: Share, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("old")
    fuse = share().fuse
    node = fuse.lookup(1, b"file").node
    (tmp_path / "new").write_text("newer")
    (tmp_path / "new").rename(tmp_path / "file")

    assert error_of(fuse.open, node) == errno.ESTALE
    assert fuse.lookup(1, b"file").attributes.size == 5


def test_a_guest_that_knows_too_many_files_is_told_so(share: Share, tmp_path: Path) -> None:
    for number in range(SMALL.nodes):
        (tmp_path / str(number)).touch()
    shared = share(limits=SMALL)
    fuse = shared.fuse
    nodes = [fuse.lookup(1, b"%d" % number).node for number in range(SMALL.nodes - 1)]

    assert error_of(fuse.lookup, 1, b"%d" % (SMALL.nodes - 1)) == errno.ENFILE
    assert len(fuse.names(1, plus=True)) == SMALL.nodes
    fuse.forget(nodes[0], 2)
    assert fuse.lookup(1, b"%d" % (SMALL.nodes - 1)).node


def test_known_files_take_few_descriptors(share: Share, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "file").write_text(str(number))
    shared = share(limits=SMALL)
    fuse = shared.fuse
    before = len(os.listdir("/proc/self/fd"))
    files = [fuse.walk(b"%d/file" % number).node for number in range(20)]

    for number, node in enumerate(files):
        handle = fuse.open(node)
        assert fuse.read(handle, 0, 10) == b"%d" % number
        fuse.release(handle)

    assert len(os.listdir("/proc/self/fd")) - before <= SMALL.cached


def test_removed_files_take_few_descriptors(share: Share, tmp_path: Path) -> None:
    shared = share(limits=SMALL)
    fuse = shared.fuse
    before = len(os.listdir("/proc/self/fd"))
    nodes = []
    for number in range(20):
        node, handle = fuse.create(1, b"%d" % number)
        fuse.release(handle)
        fuse.ask(10, 1, b"%d\0" % number)
        nodes.append(node)

    assert len(os.listdir("/proc/self/fd")) - before <= SMALL.cached + SMALL.pinned
    assert fuse.getattr(nodes[0]).nlink == 0
    assert error_of(fuse.getattr, nodes[-1]) == errno.ESTALE


def test_a_deep_tree_is_walked_without_recursion(share: Share, tmp_path: Path) -> None:
    fuse = share(limits=SMALL._replace(nodes=3000)).fuse
    node = 1
    for _ in range(2000):
        node = fuse.entry(fuse.ask(9, node, fuse.pack("II", 0o755, 0) + b"d\0")).node

    assert stat.S_ISDIR(fuse.getattr(node).mode)
    while node != 1:  # so that pytest can remove it, which does recurse
        node -= 1
        fuse.ask(11, node, b"d\0")


def test_a_new_session_knows_nothing_of_the_one_before(share: Share, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    shared = share()
    node = shared.fuse.lookup(1, b"file").node
    handle = shared.fuse.open(node)
    before = len(os.listdir("/proc/self/fd"))

    shared.fuse.init()

    assert error_of(shared.fuse.getattr, node) == errno.ESTALE
    assert error_of(shared.fuse.read, handle, 0, 1) == errno.EBADF
    assert len(os.listdir("/proc/self/fd")) < before


@pytest.mark.parametrize("shares", [1, 3, 16])
def test_shares_together_take_half_of_the_descriptors(
    shares: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (8192, 8192))

    each = limits.limits_for(shares)

    assert shares * (each.handles + each.cached + each.pinned) <= 4096
    assert min(each.handles, each.cached, each.pinned) >= 16


def test_walks_to_files_leave_no_parents_behind(share: Share, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for number in range(40):
        (tmp_path / "a" / "b" / str(number)).touch()
    shared = share(limits=SMALL)
    fuse = shared.fuse

    for number in range(40):
        a = fuse.lookup(1, b"a").node
        b = fuse.lookup(a, b"b").node
        fuse.lookup(b, b"%d" % number)
        fuse.forget(b)
        fuse.forget(a)
        assert error_of(fuse.getattr, b) == errno.ESTALE

    assert len(shared.system._nodes) == 1 + 2 + 40
    restored = shared.restored()
    assert len(restored.system._nodes) == 1 + 2 + 40
    for node in range(2, 60):
        fuse.forget(node, 9)
    assert len(restored.system._nodes) == 1
    restored.close()


def test_directories_that_the_host_moves_into_each_other_make_no_circle(
    share: Share, tmp_path: Path
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    fuse = share(limits=SMALL).fuse
    a = fuse.lookup(1, b"a").node
    b = fuse.lookup(a, b"b").node
    (tmp_path / "a" / "b").rename(tmp_path / "b")
    (tmp_path / "a").rename(tmp_path / "b" / "a")

    assert fuse.lookup(1, b"b").node == b
    assert fuse.lookup(b, b"a").node == a
    assert fuse.names(a) == []
    for node in range(3):  # so many that the descriptors of both are closed meanwhile
        (tmp_path / f"{node}").mkdir()
        fuse.names(fuse.lookup(1, b"%d" % node).node)
    assert fuse.getattr(a).nlink == 2


def test_a_hundred_thousand_names_are_listed_each_once(share: Share, tmp_path: Path) -> None:
    for start in range(0, 100_000, 10_000):
        first = tmp_path / f"name {start:05}"
        first.touch()
        for number in range(start + 1, start + 10_000):  # which take less time than files
            os.link(first, tmp_path / f"name {number:05}")

    names = share().fuse.names(1, plus=True, size=1 << 16)

    assert sorted(names) == [b"name %05d" % number for number in range(100_000)]
