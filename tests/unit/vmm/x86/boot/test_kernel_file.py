"""Files that are no kernel: each is refused in one line that says what it looks like."""

import mmap
import os
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from virtio.memory import FlatMemory
from vmm.x86.boot.image_file import open_image
from vmm.x86.boot.kernel import load_kernel


def refusal(path: Path | str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_kernel(path, FlatMemory([(0, bytearray(2 << 20))]))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "vmlinuz")


def test_directory_is_refused(tmp_path: Path) -> None:
    assert "is a directory" in refusal(tmp_path)


def test_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").touch()

    assert "is empty" in refusal(tmp_path / "vmlinuz")


def test_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "vmlinuz")

    assert "is not a regular file" in refusal(tmp_path / "vmlinuz")


def test_device_is_refused() -> None:
    assert "is not a regular file" in refusal("/dev/zero")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(b"x")
    (tmp_path / "vmlinuz").chmod(0)

    assert "Permission denied" in refusal(tmp_path / "vmlinuz")


def test_file_that_shrinks_while_it_is_read_is_refused_and_ram_can_be_closed(
    tmp_path: Path,
) -> None:
    (tmp_path / "vmlinuz").write_bytes(b"x" * 4096)
    mapping = mmap.mmap(-1, 4096)
    view = memoryview(mapping)

    with open_image(tmp_path / "vmlinuz", "kernel") as image:
        os.truncate(tmp_path / "vmlinuz", 1000)
        with pytest.raises(ConfigurationError) as caught:
            image.read_into(view, 0)
    view.release()
    mapping.close()

    assert "truncated: it ends at byte 1000" in str(caught.value)


def test_path_with_a_nul_is_refused() -> None:
    assert "cannot be opened" in refusal("vm\0linuz")


@pytest.mark.parametrize(
    ("content", "look"),
    [
        (b"MZ".ljust(0x38, b"\0") + b"ARM\x64", "an Arm64 kernel Image"),
        (bytes(0x38) + b"ARM\x64", "an Arm64 kernel Image"),
        (bytes(0x38) + b"RSC\x05", "a RISC-V kernel Image"),
        (b"MZ\0\0zimg", "an EFI zboot kernel"),
        (b"MZ" + bytes(0x500), "a PE (EFI or Windows) program"),
        (b"\x1f\x8b\x08\0", "a gzip stream"),
        (b"\xfd7zXZ\0", "an xz stream"),
        (b"BZh91AY", "a bzip2 stream"),
        (b"\x28\xb5\x2f\xfd", "a zstd stream"),
        (b"\x02\x21\x4c\x18", "an lz4 stream"),
        (b"\x5d\0\0\x80", "an lzma stream"),
        (b"#!/bin/sh\n", "a script"),
        (b"070701" + b"0" * 104, "a cpio archive"),
        (b"QFI\xfb", "a qcow2 disk image"),
        (b"!<arch>\ndebian-binary", "a Debian package"),
        (bytes(0x101) + b"ustar", "a tar archive"),
        (bytes(510) + b"\x55\xaa", "a boot sector or disk image"),
        (b"hello there\n", "a text file"),
        (b"\x01\x02\x03", "starts with bytes 01 02 03"),
    ],
)
def test_other_file_is_named_by_what_it_looks_like(
    tmp_path: Path, content: bytes, look: str
) -> None:
    (tmp_path / "vmlinuz").write_bytes(content)

    message = refusal(tmp_path / "vmlinuz")

    assert "is not an x86 kernel (neither ELF vmlinux nor bzImage)" in message
    assert look in message
