"""Fuzz the FUSE requests of a guest, against a directory of the host that it must not leave.

Input: steps of ``u8 opcode, u8 node or handle, u8 length, u8 room``, then so many bytes of a body.
Numbers below 8 at the beginning of a body stand for nodes and handles that exist. After each step:
one answer came, as long as it says, or none where none is due; after all: nothing outside the
directory was changed or told, and what is open is bounded.
"""

import os
import shutil
import struct
import tempfile
from functools import cache
from pathlib import Path

from tests.fuzz.targets import assert_one_line
from virtio.errors import ConfigurationError
from virtio.fs import Fs
from virtio.testing.bench import Bench
from virtio.testing.fuse import FuseDriver
from vmm.share.directory import HostDirectory
from vmm.share.limits import Limits

STEP = struct.Struct("<BBBB")
MAX_STEPS = 40
SECRET = b"what stands outside of the share"
MEMORY = "/dev/shm"
LIMITS = Limits(nodes=32, handles=8, cached=4, pinned=4)
RESTORE = 255
UNANSWERED = (2, 36, 42)
SETLKW, FALLOCATE = 33, 43
OPCODES = 64
ROOMS = (0, 1, 16, 64, 104, 128, 160, 4096)


@cache
def playground() -> Path:
    """Return a folder of this process, which is removed at its end."""
    memory = MEMORY if os.path.isdir(MEMORY) else None  # where fsync(2) takes no time
    folder = tempfile.TemporaryDirectory(prefix="fuse-requests-", dir=memory)
    playground.folder = folder  # type: ignore[attr-defined]  # kept as long as the process
    path = Path(folder.name)
    (path / "secret").write_bytes(SECRET)
    return path


def fresh_share() -> Path:
    """Return a new directory with some of everything in it."""
    share = playground() / "share"
    if share.exists():
        share.chmod(0o700)
        for folder, folders, _ in os.walk(share):
            for name in folders:  # which the guest may have closed to everybody
                if not os.path.islink(os.path.join(folder, name)):
                    os.chmod(os.path.join(folder, name), 0o700)
        shutil.rmtree(share)
    (share / "a" / "b").mkdir(parents=True)
    (share / "file").write_bytes(b"content")
    (share / "a" / "file").write_bytes(b"other")
    (share / "out").symlink_to("../secret")
    os.mkfifo(share / "fifo")
    return share


class Guest:
    """A driver with a session, which checks what comes back."""

    def __init__(self) -> None:
        self.share = fresh_share()
        self.system = HostDirectory(
            str(self.share), writable=True, shared_locks=True, limits=LIMITS
        )
        self.bench = Bench(Fs(self.system, "share"), memory_bytes=1 << 20)
        self.fuse = FuseDriver(self.bench)
        self.fuse.init()
        for path in (b"a", b"a/b", b"file", b"out", b"fifo"):
            self.fuse.walk(path)
        self.fuse.open(self.fuse.lookup(1, b"file").node, 2)
        self.fuse.open(1, directory=True)

    def step(self, opcode: int, node: int, body: bytes, room: int) -> None:
        """Send one request, and take its answer."""
        if opcode == RESTORE:
            self.restore()
            return
        opcode %= OPCODES
        if opcode == FALLOCATE:
            body = body[:18] + bytes(6) + body[24:]  # lest a run fills the disk
        message = self.fuse.message(opcode, node, body)
        writable = [16, ROOMS[room % 8]] if ROOMS[room % 8] else [16]
        self.bench.drivers[1].add([message], [] if opcode in UNANSWERED else writable)
        for _ in range(200):
            self.bench.serve()
            self.bench.loop.advance(0.01)
            used = self.bench.drivers[1].collect()
            if used or opcode == SETLKW:  # a lock may be waited for
                break
            os.sched_yield()
        for one in used:
            assert SECRET not in one.data, "a file outside was read"
            if one.length:
                self.fuse.parse(one)
        assert len(self.system._nodes) <= LIMITS.nodes
        assert self.system._nodes.open_count <= LIMITS.cached + LIMITS.pinned + 1
        assert len(self.system._handles) <= LIMITS.handles

    def restore(self) -> None:
        """Save the session and go on with it in another device."""
        system = HostDirectory(str(self.share), writable=True, shared_locks=True, limits=LIMITS)
        self.bench.restore_into(Fs(system, "share"))
        self.system.close()
        self.system = system

    def close(self) -> None:
        """End the session, and see that nothing was changed outside, or is left open."""
        self.bench.reset()
        self.system.close()
        assert sorted(os.listdir(playground())) == ["secret", "share"]
        assert (playground() / "secret").read_bytes() == SECRET
        assert (playground() / "secret").stat().st_nlink == 1


def one_input(data: bytes) -> None:
    """Run one input."""
    guest = Guest()
    try:
        at = 0
        for _ in range(MAX_STEPS):
            if at + STEP.size > len(data):
                break
            opcode, node, length, room = STEP.unpack_from(data, at)
            at += STEP.size
            guest.step(opcode, node & 15, data[at : at + length], room)
            at += length
    except ConfigurationError as error:
        assert_one_line(error)
    finally:
        guest.close()
