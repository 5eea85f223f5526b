"""A host that cannot run guests is refused with the reason and the remedy."""

import os
from pathlib import Path

import pytest

from vmm.kvm.system import Kvm, KvmUnavailable


def open_files() -> set[str]:
    links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return {os.readlink(link) for link in links if link.is_symlink()}  # one was of the listing


def test_device_that_is_not_there_is_refused_with_the_modules_to_load(tmp_path: Path) -> None:
    path = tmp_path / "kvm"

    with pytest.raises(KvmUnavailable, match=f"cannot open {path}: .* load kvm_here, or turn on"):
        Kvm({}, "kvm_here", str(path))


def test_other_device_is_refused() -> None:
    with pytest.raises(KvmUnavailable, match="/dev/null is not a KVM device"):
        Kvm({}, "kvm_here", "/dev/null")


def test_refused_device_is_closed_again(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")

    with pytest.raises(KvmUnavailable, match="is not a KVM device"):
        Kvm({}, "kvm_here", str(file))

    assert str(file) not in open_files()
