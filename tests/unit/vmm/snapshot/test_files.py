"""The files of a snapshot: what is damaged, old or of another host is refused with the reason."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm.snapshot.memory import SavedMemory, open_memory, save_memory
from vmm.snapshot.state_file import read_state, write_state
from vmm.x86.host_identity import HostIdentity

CONTENT = {"host": {"vendor": "A"}, "numbers": [1, 2, 3]}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    write_state(path, CONTENT)
    return path


def test_a_state_file_is_one_line_and_json(state: Path) -> None:
    head, body = state.read_text().split("\n", 1)

    assert head.startswith("pyvmm-snapshot 2 sha256=")
    assert body == '{"host":{"vendor":"A"},"numbers":[1,2,3]}'
    assert read_state(state) == CONTENT


@pytest.mark.parametrize("at", [70, 100, -1])
def test_one_changed_byte_is_found(state: Path, at: int) -> None:
    data = bytearray(state.read_bytes())
    data[at] ^= 1
    state.write_bytes(data)

    with pytest.raises(ConfigurationError, match="damaged: its checksum is wrong"):
        read_state(state)


def test_a_cut_off_file_is_found(state: Path) -> None:
    os.truncate(state, 110)

    with pytest.raises(ConfigurationError, match="damaged"):
        read_state(state)


def test_another_version_is_named(state: Path) -> None:
    state.write_bytes(state.read_bytes().replace(b"snapshot 2 ", b"snapshot 7 ", 1))

    with pytest.raises(ConfigurationError, match="version 7, this program reads version 2"):
        read_state(state)


@pytest.mark.parametrize("content", [b"", b"\x7fELF" + bytes(200), b"pyvmm-snapshot 2\n{}"])
def test_another_file_is_no_state(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)

    with pytest.raises(ConfigurationError, match="not the state of a machine"):
        read_state(tmp_path / "other")


def test_a_missing_state_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="absent: No such file"):
        read_state(tmp_path / "absent")


MEBIBYTE = 1 << 20


@pytest.fixture
def memory(tmp_path: Path) -> tuple[SavedMemory, Path]:
    """16 MiB with a page of data at 4 MiB and one at the end."""
    fd = os.memfd_create("memory")
    os.ftruncate(fd, 16 * MEBIBYTE)
    os.pwrite(fd, b"a" * 4096, 4 * MEBIBYTE)
    os.pwrite(fd, b"b" * 4096, 16 * MEBIBYTE - 4096)
    saved = save_memory(fd, 16 * MEBIBYTE, tmp_path / "memory")
    os.close(fd)
    return saved, tmp_path / "memory"


def test_memory_is_sparse_and_comes_back(memory: tuple[SavedMemory, Path]) -> None:
    saved, path = memory
    fd = open_memory(saved, path)

    assert os.pread(fd, 4097, 4 * MEBIBYTE) == b"a" * 4096 + b"\0"
    assert os.pread(fd, 4096, 16 * MEBIBYTE - 4096) == b"b" * 4096
    assert path.stat().st_blocks * 512 < MEBIBYTE
    assert saved.data == ((4 * MEBIBYTE, 4096), (16 * MEBIBYTE - 4096, 4096))
    os.close(fd)


def test_a_changed_page_is_found(memory: tuple[SavedMemory, Path]) -> None:
    saved, path = memory
    with open(path, "r+b") as file:
        file.seek(4 * MEBIBYTE + 17)
        file.write(b"x")

    with pytest.raises(ConfigurationError, match="damaged: its checksum is wrong"):
        open_memory(saved, path)


def test_memory_of_another_size_is_found(memory: tuple[SavedMemory, Path]) -> None:
    saved, path = memory
    os.truncate(path, 8 * MEBIBYTE)

    with pytest.raises(ConfigurationError, match="damaged: 8388608 bytes, 16777216 are expected"):
        open_memory(saved, path)


class TestHostIdentity:
    def test_this_host_is_like_itself(self) -> None:
        HostIdentity.of_this_host().check("snapshot")

    def test_another_model_is_named(self) -> None:
        other = replace(HostIdentity.of_this_host(), name="Other CPU")

        with pytest.raises(ConfigurationError, match="taken on another host: name 'Other CPU'"):
            other.check("snapshot")

    def test_a_feature_that_is_missing_is_named(self) -> None:
        here = HostIdentity.of_this_host()

        with pytest.raises(ConfigurationError, match="they differ in avx9000"):
            replace(here, flags=(*here.flags, "avx9000")).check("snapshot")

    def test_it_is_read_from_cpuinfo(self, tmp_path: Path) -> None:
        path = tmp_path / "cpuinfo"
        path.write_text(
            "processor\t: 0\nvendor_id\t: V\ncpu family\t: 6\nmodel\t\t: 167\n"
            "model name\t: A CPU @ 2\nstepping\t: 1\nflags\t\t: sse fpu\n\nprocessor\t: 1\n"
        )

        found = HostIdentity.of_this_host(path)

        assert (found.vendor, found.family, found.model) == ("V", "6", "167")
        assert (found.name, found.stepping, found.flags) == ("A CPU @ 2", "1", ("fpu", "sse"))
