"""A confined process serves its shares, and reaches nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

from vmm.sandbox import host

SCRIPT = """
import errno, os, sys
from tests.unit.vmm.share.shared import Shared
from pathlib import Path
from vmm.sandbox.process import ProcessSandbox
from vmm.share.shares import open_folders

inside, writable = Path(sys.argv[1]), sys.argv[2] == "rw"
sandbox = ProcessSandbox("require")
shared = Shared(inside, writable=writable, shared_locks=True)
sandbox.enter(folders=open_folders([shared.system]))
fuse = shared.fuse
u64 = lambda number: fuse.pack("Q", number)

def refused(call):
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno]
    except Exception as error:
        return errno.errorcode[error.errno]
    return "done"

print("read", fuse.read(fuse.open(fuse.lookup(1, b"file").node), 0, 100))
print("list", sorted(fuse.names(1)))
print("xattr", refused(lambda: fuse.ask(23, 1, fuse.pack("II", 99, 0))))
print("out", refused(lambda: open("/etc/passwd")))
print("above", refused(lambda: os.open("../secret", os.O_RDONLY, dir_fd=shared.system.root_fd)))
print("make", refused(lambda: (inside.parent / "new").touch()))
if writable:
    node, handle = fuse.create(1, b"made", mode=0o640)
    fuse.write(handle, 0, b"by the guest")
    fuse.ask(9, 1, fuse.pack("II", 0o755, 0) + b"folder\\0")
    fuse.ask(6, 1, b"link\\0made\\0")
    fuse.ask(13, 1, u64(node) + b"again\\0")
    fuse.ask(12, 1, u64(fuse.lookup(1, b"folder").node) + b"again\\0moved\\0")
    fuse.setattr(node, 1 | 8 | 32, size=6, mode=0o600, mtime=5)
    fuse.ask(21, node, fuse.pack("II", 1, 0) + b"user.a\\0x")
    fuse.ask(32, 1, fuse.pack("QQQQIIII", handle, 1, 0, 9, 1, 7, 0, 0))
    fuse.ask(10, 1, b"link\\0")
    print("changed", os.fstat(handle and shared.system._handles.file(handle).fd).st_size)
else:
    print("write", refused(lambda: os.open("file", os.O_WRONLY, dir_fd=shared.system.root_fd)))
"""


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("not for the guest")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "file").write_text("content")
    return tmp_path / "inside"


def serve(inside: Path, how: str) -> dict[str, str]:
    if host.missing():
        pytest.skip(f"needs a whole sandbox: {host.missing()[0]}")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(inside), how], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def test_a_share_for_writing_is_served_in_the_sandbox(inside: Path) -> None:
    told = serve(inside, "rw")

    assert told == {
        "read": "b'content'",
        "list": "[b'file']",
        "xattr": "done",
        "out": "EACCES",
        "above": "EACCES",
        "make": "EACCES",
        "changed": "6",
    }
    assert (inside / "made").read_text() == "by the"
    assert (inside / "folder" / "moved").stat().st_nlink == 2


def test_a_share_for_reading_is_not_changed_by_who_breaks_out_of_the_device(inside: Path) -> None:
    told = serve(inside, "ro")

    assert told == {
        "read": "b'content'",
        "list": "[b'file']",
        "xattr": "done",
        "out": "EACCES",
        "above": "EACCES",
        "make": "EACCES",
        "write": "EACCES",
    }
