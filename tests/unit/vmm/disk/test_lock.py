"""Locks of images: who is refused, what is said of the holder, and that QEMU respects them."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm.disk.disk import DiskConfig
from vmm.disk.overlay import OverlayDisk
from vmm.disk.raw import RawDisk

HOLD = """
import sys
from vmm.disk.raw import RawDisk
with RawDisk.open(sys.argv[1], read_only=sys.argv[2] == "ro"):
    print("open", flush=True)
    sys.stdin.read()
"""

qemu_io = pytest.mark.skipif(
    shutil.which("qemu-io") is None, reason="qemu-io is not installed (qemu-utils)"
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(bytes(65536))
    return path


@contextmanager
def held(image: Path, how: str) -> Iterator[int]:
    """Have another process use an image, and give its number."""
    command = [sys.executable, "-c", HOLD, str(image), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        yield process.pid
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.parametrize(("how", "does"), [("rw", "writes"), ("ro", "reads")])
def test_a_writer_is_refused_with_the_holder_and_what_it_does(
    image: Path, how: str, does: str
) -> None:
    with held(image, how) as process, pytest.raises(ConfigurationError) as refused:
        RawDisk.open(str(image))

    told = rf"disk {image}: in use by process {process} \(.*python.*\), which {does} it: .*lock=off"
    assert re.fullmatch(told + r".*", str(refused.value))
    RawDisk.open(str(image)).close()


def test_a_reader_is_refused_while_another_process_writes(image: Path) -> None:
    with (
        held(image, "rw") as process,
        pytest.raises(ConfigurationError, match=f"by process {process} "),
    ):
        RawDisk.open(str(image), read_only=True)


def test_readers_of_several_processes_share(image: Path) -> None:
    with held(image, "ro"), RawDisk.open(str(image), read_only=True) as opened:
        assert opened.size_bytes == 65536


def test_a_holder_that_proc_does_not_show_is_told_as_such(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(image, "rw"):
        monkeypatch.setattr("os.listdir", lambda *_: [])
        with pytest.raises(ConfigurationError, match="another process, which /proc does not show"):
            RawDisk.open(str(image))


@pytest.mark.parametrize("options", ["", ",ro", ",volatile"])
def test_who_insists_gets_the_image_all_the_same(image: Path, options: str) -> None:
    with held(image, "rw"), DiskConfig.parse(f"{image}{options},lock=off").open() as opened:
        assert opened.size_bytes == 65536


def test_who_insists_locks_nothing_for_others(image: Path) -> None:
    with DiskConfig.parse(f"{image},lock=off").open(), RawDisk.open(str(image)) as opened:
        assert opened.size_bytes == 65536


def test_a_lock_is_on_or_off() -> None:
    with pytest.raises(ConfigurationError, match="lock=maybe: must be on or off"):
        DiskConfig.parse("a,lock=maybe")


def test_a_refused_image_stays_free_for_its_holder(image: Path) -> None:
    with RawDisk.open(str(image), read_only=True):
        with pytest.raises(ConfigurationError):
            RawDisk.open(str(image))
        RawDisk.open(str(image), read_only=True).close()


def test_an_overlay_and_its_copies_only_read(image: Path) -> None:
    with (
        OverlayDisk(RawDisk.open(str(image), read_only=True)) as overlay,
        overlay.frozen() as frozen,
        OverlayDisk(frozen.share()) as clone,
        held(image, "ro"),
    ):
        clone.writev([memoryview(bytes(512))], 0)


def test_a_lock_outlives_the_process_that_took_it_in_its_child(image: Path) -> None:
    readable, writable = os.pipe()
    disk = RawDisk.open(str(image))
    child = os.fork()
    if not child:
        os.close(writable)
        os.read(readable, 1)
        os._exit(0)
    os.close(readable)
    disk.close()
    try:
        with pytest.raises(ConfigurationError, match=f"in use by process {child} .*writes it"):
            RawDisk.open(str(image))
    finally:
        os.close(writable)
        os.waitpid(child, 0)
    RawDisk.open(str(image)).close()


def _qemu(image: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["qemu-io", *options, "-f", "raw", "-c", "read 0 512", str(image)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@qemu_io
def test_qemu_does_not_write_what_we_write_or_read(image: Path) -> None:
    with RawDisk.open(str(image)):
        assert 'Failed to get "write" lock' in _qemu(image).stderr
    with RawDisk.open(str(image), read_only=True):
        assert 'Failed to get "write" lock' in _qemu(image).stderr
        assert "read 512/512" in _qemu(image, "-r").stdout
    assert "read 512/512" in _qemu(image).stdout


@qemu_io
@pytest.mark.parametrize("read_only", [False, True])
def test_we_do_not_use_what_qemu_writes(image: Path, read_only: bool) -> None:
    command = ["qemu-io", "-f", "raw", str(image)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("read 0 512\n")
        process.stdin.flush()
        while "read 512/512" not in process.stdout.readline():
            pass
        told = rf"process {process.pid} \('qemu-io.*which writes it"
        with pytest.raises(ConfigurationError, match=told):
            RawDisk.open(str(image), read_only=read_only)
        process.stdin.close()
