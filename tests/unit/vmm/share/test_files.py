"""Open files and directories of a share: data, holes, locks, listings, and what is refused."""

import errno
import fcntl
import os
import stat
import time
from pathlib import Path

import pytest

from tests.unit.vmm.share.conftest import Share
from tests.unit.vmm.share.shared import SMALL, Shared
from tests.unit.vmm.share.test_names import error_of
from virtio.testing.fuse import FuseDriver, FuseError

RDONLY, WRONLY, RDWR, TRUNC, APPEND = 0, 1, 2, 0o1000, 0o2000
SIZE, MODE, UID, GID = 8, 1, 2, 4
ATIME, MTIME, ATIME_NOW, MTIME_NOW = 16, 32, 128, 256
KILL_SUIDGID = 1 << 11
GIB = 1 << 30
SEEK_DATA, SEEK_HOLE = 3, 4
WRITE_CACHE, WRITE_KILL = 1, 4
READ_LOCK, WRITE_LOCK, UNLOCK = 0, 1, 2


def answer(shared: Shared, unique: int) -> bytes:
    """Wait for an answer that a thread brings."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        shared.bench.loop.advance()
        answers = shared.fuse.collect()
        if answers:
            found = answers[unique]
            if isinstance(found, FuseError):
                raise found
            return found
    raise TimeoutError


def ask(shared: Shared, opcode: int, body: bytes) -> bytes:
    unique = shared.fuse.send(opcode, 1, body)
    shared.bench.serve()
    return answer(shared, unique)


def read(shared: Shared, handle: int, offset: int, size: int) -> bytes:
    """READ, whether the host has it in memory or not."""
    unique = shared.fuse.send(15, 1, shared.fuse.pack("QQIIQII", handle, offset, size, *[0] * 4))
    shared.bench.serve()
    return answer(shared, unique)


def test_a_file_beyond_4_gib_is_written_read_and_measured(share: Share, tmp_path: Path) -> None:
    shared = share()
    node, handle = shared.fuse.create(1, b"large")

    assert shared.fuse.write(handle, 5 * GIB, b"far away") == 8

    assert shared.fuse.getattr(node).size == 5 * GIB + 8
    assert read(shared, handle, 5 * GIB - 4, 12) == bytes(4) + b"far away"
    assert (tmp_path / "large").stat().st_blocks < 100


def test_data_and_holes_are_found(share: Share, tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 20)
        os.pwrite(file.fileno(), b"data", 512 << 10)
    shared = share()
    handle = shared.fuse.open(shared.fuse.lookup(1, b"sparse").node)

    def seek(offset: int, whence: int) -> int:
        body = shared.fuse.pack("QQII", handle, offset, whence, 0)
        return shared.fuse.unpack("Q", ask(shared, 46, body))[0]

    assert seek(0, SEEK_DATA) == 512 << 10
    assert seek(512 << 10, SEEK_HOLE) == (512 << 10) + 4096
    with pytest.raises(FuseError) as told:
        seek(1 << 20, SEEK_DATA)
    assert told.value.errno == errno.ENXIO


def test_storage_is_punched_out(share: Share, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * (1 << 20))
    shared = share()
    handle = shared.fuse.open(shared.fuse.lookup(1, b"file").node, RDWR)

    ask(shared, 43, shared.fuse.pack("QQQII", handle, 4096, 8192, 3, 0))

    assert (tmp_path / "file").read_bytes()[4095:12289] == b"x" + bytes(8192) + b"x"
    body = shared.fuse.pack("QQQII", handle, 0, 4096, 0x40, 0)
    assert error_of(shared.fuse.ask, 43, 1, body) == errno.EOPNOTSUPP


def test_a_range_is_copied_on_the_host(share: Share, tmp_path: Path) -> None:
    (tmp_path / "from").write_bytes(b"0123456789")
    shared = share()
    source = shared.fuse.open(shared.fuse.lookup(1, b"from").node)
    node, target = shared.fuse.create(1, b"to")

    body = shared.fuse.pack("QQQQQQQ", source, 2, node, target, 0, 5, 0)

    assert shared.fuse.unpack("I", ask(shared, 47, body)) == (5,)
    assert (tmp_path / "to").read_bytes() == b"23456"


def test_appending_goes_to_the_end_that_the_host_knows(share: Share, tmp_path: Path) -> None:
    fuse = share().fuse
    _, handle = fuse.create(1, b"log", WRONLY | APPEND)
    fuse.write(handle, 0, b"guest ")
    with open(tmp_path / "log", "ab") as log:
        log.write(b"host ")

    fuse.write(handle, 6, b"guest again")

    assert (tmp_path / "log").read_bytes() == b"guest host guest again"


def test_a_page_of_the_guests_goes_where_it_was(share: Share, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"0123456789")
    fuse = share().fuse
    handle = fuse.open(fuse.lookup(1, b"log").node, RDWR | APPEND)

    fuse.write(handle, 2, b"xx", flags=WRITE_CACHE)

    assert (tmp_path / "log").read_bytes() == b"01xx456789"


def test_opening_empties_a_file_only_when_asked_to(share: Share, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    fuse = share().fuse
    node = fuse.lookup(1, b"file").node

    fuse.open(node, RDWR)
    assert (tmp_path / "file").read_text() == "content"
    fuse.open(node, RDWR | TRUNC)
    assert (tmp_path / "file").read_text() == ""


def test_attributes_are_changed(share: Share, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    fuse = share().fuse
    node = fuse.lookup(1, b"file").node

    changed = fuse.setattr(
        node, SIZE | MODE | ATIME | MTIME, size=3, mode=0o640, atime=5, mtime=7, mtimensec=9
    )

    status = (tmp_path / "file").stat()
    assert (changed.size, changed.mode & 0o7777, changed.mtime) == (3, 0o640, 7)
    assert (status.st_atime_ns, status.st_mtime_ns) == (5 * 10**9, 7 * 10**9 + 9)


def test_a_time_before_1970_stays_one(share: Share, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fuse = share().fuse

    told = fuse.setattr(fuse.lookup(1, b"file").node, MTIME, mtime=2**64 - 2, mtimensec=5)

    assert (tmp_path / "file").stat().st_mtime_ns == -2 * 10**9 + 5
    assert (told.mtime, told.mtimensec) == (2**64 - 2, 5)


def test_one_time_is_now_and_the_other_stays(share: Share, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.utime(tmp_path / "file", ns=(1, 2))
    fuse = share().fuse

    fuse.setattr(fuse.lookup(1, b"file").node, MTIME | MTIME_NOW)

    status = (tmp_path / "file").stat()
    assert status.st_atime_ns == 1
    assert status.st_mtime_ns > 10**18


def test_the_mode_of_a_file_that_nobody_may_read_is_changed(share: Share, tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0)
    fuse = share().fuse

    fuse.setattr(fuse.lookup(1, b"file").node, MODE, mode=0o600)

    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_the_owner_of_a_symbolic_link_is_changed(share: Share, tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to("target")
    fuse = share().fuse

    fuse.setattr(fuse.lookup(1, b"link").node, UID | GID, uid=12, gid=34)

    assert (tmp_path / "link").lstat().st_uid == 12
    assert (tmp_path / "target").stat().st_uid == 0


def test_a_write_takes_set_user_id_when_the_guest_says_so(share: Share, tmp_path: Path) -> None:
    (tmp_path / "tool").touch()
    (tmp_path / "tool").chmod(0o6755)
    fuse = share().fuse
    node = fuse.lookup(1, b"tool").node
    handle = fuse.open(node, RDWR)

    fuse.write(handle, 0, b"root's")
    expected = 0o6755 if os.geteuid() == 0 else 0o755
    assert (tmp_path / "tool").stat().st_mode & 0o7777 == expected
    fuse.write(handle, 0, b"user's", flags=WRITE_KILL)

    assert (tmp_path / "tool").stat().st_mode & 0o7777 == 0o755


def test_extended_attributes_are_kept_with_the_file(share: Share, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fuse = share().fuse
    node = fuse.lookup(1, b"file").node

    fuse.ask(21, node, fuse.pack("II", 5, 0) + b"user.name\0value")

    assert os.getxattr(tmp_path / "file", "user.name") == b"value"
    assert fuse.ask(22, node, fuse.pack("II", 100, 0) + b"user.name\0") == b"value"
    assert fuse.unpack("I", fuse.ask(22, node, fuse.pack("II", 0, 0) + b"user.name\0")) == (5,)
    body = fuse.pack("II", 4, 0) + b"user.name\0"
    assert error_of(fuse.ask, 22, node, body) == errno.ERANGE
    assert fuse.ask(23, node, fuse.pack("II", 100, 0)) == b"user.name\0"
    fuse.ask(24, node, b"user.name\0")
    assert error_of(fuse.ask, 22, node, fuse.pack("II", 9, 0) + b"user.name\0") == errno.ENODATA


def test_access_lists_of_the_host_are_not_the_guests(share: Share, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fuse = share().fuse
    node = fuse.lookup(1, b"file").node

    body = fuse.pack("II", 1, 0) + b"system.posix_acl_access\0x"

    assert error_of(fuse.ask, 21, node, body) == errno.EOPNOTSUPP


def test_a_large_directory_is_listed_in_parts(share: Share, tmp_path: Path) -> None:
    expected = {b"file number %d" % number for number in range(5000)}
    for name in expected:
        (tmp_path / os.fsdecode(name)).touch()
    fuse = share().fuse

    assert set(fuse.names(1)) == expected
    assert sorted(fuse.names(1, plus=True)) == sorted(expected)


def test_a_listing_goes_on_from_any_offset_and_begins_anew(share: Share, tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / str(number)).touch()
    fuse = share().fuse
    handle = fuse.open(1, directory=True)
    first = fuse.list(handle, 0, plus=False, size=400)
    second = fuse.list(handle, first[-1].offset, plus=False, size=400)

    assert fuse.list(handle, first[2].offset, plus=False, size=400)[0] == first[3]
    assert fuse.list(handle, first[-1].offset, plus=False, size=400) == second
    (tmp_path / "new").touch()
    again, offset = set(), 0
    while listed := fuse.list(handle, offset, plus=False):
        again |= {one.name for one in listed}
        offset = listed[-1].offset
    assert b"new" in again


def test_a_listing_tells_of_each_entry_what_a_lookup_does(share: Share, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("four")
    fuse = share().fuse
    handle = fuse.open(1, directory=True)

    listed = {one.name: one for one in fuse.list(handle, plus=True)}

    entry = listed[b"file"].entry
    assert entry is not None
    assert (entry.attributes.size, entry.node) == (4, fuse.lookup(1, b"file").node)
    assert listed[b"."].entry is not None
    assert listed[b"."].entry.node == 0


def test_huge_sizes_of_a_listing_and_a_read_are_cut_to_the_room(
    share: Share, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10000)
    shared = share()
    fuse = shared.fuse
    handle = fuse.open(fuse.lookup(1, b"file").node)
    folder = fuse.open(1, directory=True)
    huge = 0xFFFF_FFFF

    data = fuse.ask(15, 1, fuse.pack("QQIIQII", handle, 0, huge, 0, 0, 0, 0), room=100)
    listing = fuse.ask(44, 1, fuse.pack("QQIIQII", folder, 0, huge, 0, 0, 0, 0), room=100)

    assert data == b"x" * 100
    assert listing == b""


@pytest.mark.parametrize("offset", [2**63 - 1, 2**63, 2**64 - 1])
def test_offsets_that_no_file_has_are_refused(share: Share, tmp_path: Path, offset: int) -> None:
    (tmp_path / "file").touch()
    fuse = share().fuse
    handle = fuse.open(fuse.lookup(1, b"file").node, RDWR)

    assert error_of(fuse.write, handle, offset, b"xx") in (errno.EINVAL, errno.EFBIG)
    assert error_of(fuse.read, handle, offset, 2) == errno.EINVAL


def test_a_write_that_claims_more_than_it_brings_is_refused(share: Share, tmp_path: Path) -> None:
    fuse = share().fuse
    _, handle = fuse.create(1, b"file")

    def write(size: int) -> None:
        fuse.ask(16, 1, fuse.pack("QQIIQII", handle, 0, size, 0, 0, 0, 0) + b"four")

    assert error_of(write, 5) == errno.EINVAL
    assert error_of(write, (1 << 20) + 1) == errno.EINVAL
    assert (tmp_path / "file").read_bytes() == b""


def test_a_guest_with_too_many_open_files_is_told_so(share: Share, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fuse = share(limits=SMALL).fuse
    node = fuse.lookup(1, b"file").node
    handles = [fuse.open(node) for _ in range(SMALL.handles)]

    assert error_of(fuse.open, node) == errno.EMFILE
    assert error_of(fuse.open, 1, directory=True) == errno.EMFILE
    fuse.release(handles[0])
    assert fuse.open(node)


CHANGES = {
    "symlink": lambda fuse, node: fuse.ask(6, 1, b"link\0target\0"),
    "mknod": lambda fuse, node: fuse.ask(8, 1, fuse.pack("IIII", 0o100644, 0, 0, 0) + b"new\0"),
    "mkdir": lambda fuse, node: fuse.ask(9, 1, fuse.pack("II", 0o755, 0) + b"new\0"),
    "unlink": lambda fuse, node: fuse.ask(10, 1, b"file\0"),
    "rmdir": lambda fuse, node: fuse.ask(11, 1, b"folder\0"),
    "rename": lambda fuse, node: fuse.ask(12, 1, fuse.pack("Q", 1) + b"file\0new\0"),
    "rename2": lambda fuse, node: fuse.ask(45, 1, fuse.pack("QII", 1, 0, 0) + b"file\0new\0"),
    "link": lambda fuse, node: fuse.ask(13, 1, fuse.pack("Q", node) + b"new\0"),
    "setattr": lambda fuse, node: fuse.setattr(node, MODE, mode=0o600),
    "setxattr": lambda fuse, node: fuse.ask(21, node, fuse.pack("II", 1, 0) + b"user.a\0x"),
    "removexattr": lambda fuse, node: fuse.ask(24, node, b"user.kept\0"),
    "create": lambda fuse, node: fuse.create(1, b"new"),
    "open to write": lambda fuse, node: fuse.open(node, WRONLY),
    "open to empty": lambda fuse, node: fuse.open(node, RDONLY | TRUNC),
    "write": lambda fuse, node: fuse.write(fuse.open(node), 0, b"x"),
    "fallocate": lambda fuse, node: fuse.ask(43, 1, bytes(32)),
    "copy": lambda fuse, node: fuse.ask(47, 1, bytes(56)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_share_for_reading_is_not_changed(share: Share, tmp_path: Path, change: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("content")
    os.setxattr(tmp_path / "file", "user.kept", b"x")
    before = (tmp_path / "file").stat()
    fuse = share(writable=False).fuse
    node = fuse.lookup(1, b"file").node

    assert error_of(CHANGES[change], fuse, node) == errno.EROFS

    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert (tmp_path / "file").stat() == before


def test_space_is_told(share: Share, tmp_path: Path) -> None:
    fuse = share().fuse

    fields = fuse.unpack("QQQQQIII", fuse.ask(17))

    assert fields[0] == os.statvfs(tmp_path).f_blocks
    assert fields[6] == 255


def test_changes_are_made_stable(share: Share) -> None:
    shared = share()
    _, handle = shared.fuse.create(1, b"file")
    folder = shared.fuse.open(1, directory=True)

    assert ask(shared, 20, shared.fuse.pack("QII", handle, 0, 0)) == b""
    assert ask(shared, 30, shared.fuse.pack("QII", folder, 1, 0)) == b""
    assert ask(shared, 50, bytes(8)) == b""


def test_a_file_closed_while_a_thread_reads_it_is_not_another_one_there(
    share: Share, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("right")
    (tmp_path / "other").write_text("wrong")
    shared = share()
    handle = shared.fuse.open(shared.fuse.lookup(1, b"file").node)
    work = shared.system.read(handle, 0, 100)

    shared.fuse.release(handle)
    shared.fuse.open(shared.fuse.lookup(1, b"other").node)
    before = len(os.listdir("/proc/self/fd"))

    assert work() == b"right"
    assert len(os.listdir("/proc/self/fd")) == before - 1


# Locks


def lock(fuse: FuseDriver, handle: int, owner: int, kind: int, opcode: int = 32) -> bytes:
    return fuse.ask(opcode, 1, lock_body(fuse, handle, owner, kind))


def lock_body(fuse: FuseDriver, handle: int, owner: int, kind: int) -> bytes:
    return fuse.pack("QQQQIIII", handle, owner, 0, 99, kind, 7, 0, 0)


def test_locks_are_offered_only_if_they_are_shared(share: Share, tmp_path: Path) -> None:
    locks = 1 << 1 | 1 << 10

    assert share().fuse.init()["flags"] & locks == 0
    assert share(shared_locks=True).fuse.init()["flags"] & locks == locks


def test_owners_in_the_guest_lock_each_other_out(share: Share) -> None:
    fuse = share(shared_locks=True).fuse
    _, handle = fuse.create(1, b"file")
    lock(fuse, handle, 1, WRITE_LOCK)
    lock(fuse, handle, 1, WRITE_LOCK)

    assert error_of(lock, fuse, handle, 2, WRITE_LOCK) == errno.EAGAIN
    told = fuse.unpack("QQII", lock(fuse, handle, 2, WRITE_LOCK, opcode=31))
    assert told[:3] == (0, 99, WRITE_LOCK)
    fuse.ask(25, 1, fuse.pack("QIIQ", handle, 0, 0, 1))  # FLUSH: owner 1 closes
    lock(fuse, handle, 2, WRITE_LOCK)


def test_a_lock_of_the_host_is_waited_for(share: Share, tmp_path: Path) -> None:
    shared = share(shared_locks=True)
    fuse = shared.fuse
    _, handle = fuse.create(1, b"file")
    with open(tmp_path / "file", "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        unique = fuse.send(33, 1, lock_body(fuse, handle, 1, WRITE_LOCK))
        shared.bench.serve()
        shared.bench.loop.advance(10)
        assert fuse.collect() == {}

    shared.bench.loop.advance(1)

    assert fuse.collect() == {unique: b""}


def test_waiting_for_a_lock_is_interrupted(share: Share) -> None:
    shared = share(shared_locks=True)
    fuse = shared.fuse
    _, handle = fuse.create(1, b"file")
    lock(fuse, handle, 1, WRITE_LOCK)
    unique = fuse.send(33, 1, lock_body(fuse, handle, 2, READ_LOCK))
    shared.bench.serve()

    fuse.tell(36, 1, fuse.pack("Q", unique))

    [ended] = fuse.collect().values()
    assert isinstance(ended, FuseError)
    assert ended.errno == errno.EINTR
    lock(fuse, handle, 1, UNLOCK)
    shared.bench.loop.advance(1)
    lock(fuse, handle, 3, WRITE_LOCK)


def test_a_special_file_is_no_file_for_its_size(share: Share, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    fuse = share().fuse
    fifo = fuse.lookup(1, b"fifo")

    assert stat.S_ISFIFO(fifo.attributes.mode)
    assert error_of(fuse.setattr, fifo.node, SIZE, size=0) == errno.EINVAL
