"""A file is complete under its name, or as it was before."""

import os
from pathlib import Path

import pytest

from tests.others import powerless_script
from virtio.errors import ConfigurationError
from vmm.host.new_file import replace_file


def test_file_is_made_and_replaced(tmp_path: Path) -> None:
    replace_file(tmp_path / "file", b"one")
    replace_file(tmp_path / "file", b"two")

    assert (tmp_path / "file").read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["file"]


def test_file_that_is_too_large_leaves_what_was_there(tmp_path: Path) -> None:
    replace_file(tmp_path / "file", b"before")

    line = powerless_script(
        f"""
        import resource
        from pathlib import Path
        from vmm.host.new_file import replace_file
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        replace_file(Path({str(tmp_path / "file")!r}), bytes(8192))
        """
    )

    assert line == f"ConfigurationError: {tmp_path / 'file'}: File too large"
    assert (tmp_path / "file").read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["file"]


def test_device_is_written_to_and_stays(tmp_path: Path) -> None:
    read, write = os.pipe()
    replace_file(Path(f"/dev/fd/{write}"), b"through a pipe")

    assert os.read(read, 100) == b"through a pipe"
    os.close(read)
    os.close(write)


def test_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")

    replace_file(tmp_path / "link", b"data")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"data"


@pytest.mark.parametrize("name", ["missing/file", "."])
def test_place_that_takes_no_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{tmp_path}"):
        replace_file(tmp_path / name, b"data")
