"""The files of a snapshot: what is damaged, old or of another host is refused with the reason."""

import os
import zlib
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm.snapshot.folder import SnapshotFolder
from vmm.snapshot.memory import SavedMemory, cut_off, open_memory, save_memory
from vmm.snapshot.state_file import read_state, write_state
from vmm.x86.host_identity import HostIdentity

CONTENT = {"host": {"vendor": "A"}, "numbers": [1, 2, 3]}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[SnapshotFolder]:
    with SnapshotFolder(tmp_path) as opened:
        yield opened


@pytest.fixture
def state(folder: SnapshotFolder) -> Path:
    write_state(folder, CONTENT)
    return folder.path / "state"


def test_a_state_file_is_one_line_and_json(folder: SnapshotFolder, state: Path) -> None:
    head, body = state.read_text().split("\n", 1)

    assert head.startswith("pyvmm-snapshot 7 sha256=")
    assert body == '{"host":{"vendor":"A"},"numbers":[1,2,3]}'
    assert read_state(folder) == CONTENT


@pytest.mark.parametrize("at", [70, 100, -1])
def test_one_changed_byte_is_found(folder: SnapshotFolder, state: Path, at: int) -> None:
    data = bytearray(state.read_bytes())
    data[at] ^= 1
    state.write_bytes(data)

    with pytest.raises(ConfigurationError, match="damaged: its checksum is wrong"):
        read_state(folder)


def test_a_cut_off_file_is_found(folder: SnapshotFolder, state: Path) -> None:
    os.truncate(state, 110)

    with pytest.raises(ConfigurationError, match="damaged"):
        read_state(folder)


def test_another_version_is_named(folder: SnapshotFolder, state: Path) -> None:
    state.write_bytes(state.read_bytes().replace(b"snapshot 7 ", b"snapshot 8 ", 1))

    with pytest.raises(ConfigurationError, match="version 8, this program reads version 7"):
        read_state(folder)


@pytest.mark.parametrize("content", [b"", b"\x7fELF" + bytes(200), b"pyvmm-snapshot 7\n{}"])
def test_another_file_is_no_state(folder: SnapshotFolder, content: bytes) -> None:
    (folder.path / "state").write_bytes(content)

    with pytest.raises(ConfigurationError, match="not the state of a machine"):
        read_state(folder)


def test_a_missing_state_is_named(folder: SnapshotFolder) -> None:
    with pytest.raises(ConfigurationError, match="state: No such file"):
        read_state(folder)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "no JSON"),
        (b"\xff", "no JSON"),
        (b'{"a":NaN}', "no JSON"),
        (b'{"a":%s}' % (b"9" * 5000), "no JSON"),
        (b"[]", "no JSON object"),
        (b"[" * 100_000, "lists in lists without end"),
        (b'{"a":' * 100_000, "lists in lists without end"),
        (b"[" + b"[]," * 600_000, "over 1200001 values"),
        (b" " * (64 << 20), "67108953 bytes, at most 67108864 are read"),
    ],
    ids=["cut", "utf8", "nan", "digits", "list", "deep", "deep-objects", "many", "large"],
)
def test_what_would_take_much_memory_is_refused(
    folder: SnapshotFolder, body: bytes, message: str
) -> None:
    head = b"pyvmm-snapshot 7 sha256=%s\n" % sha256(body).hexdigest().encode()
    (folder.path / "state").write_bytes(head + body)

    with pytest.raises(ConfigurationError, match=message) as caught:
        read_state(folder)
    assert "\n" not in str(caught.value)


def test_a_state_that_could_not_be_read_again_is_not_written(folder: SnapshotFolder) -> None:
    with pytest.raises(ConfigurationError, match="cannot be saved: its state has over"):
        write_state(folder, {"a": [[]] * (1 << 20)})


MEBIBYTE = 1 << 20


@pytest.fixture
def memory(folder: SnapshotFolder) -> tuple[SavedMemory, Path]:
    """16 MiB with a page of data at 4 MiB and one at the end."""
    fd = os.memfd_create("memory")
    os.ftruncate(fd, 16 * MEBIBYTE)
    os.pwrite(fd, b"a" * 4096, 4 * MEBIBYTE)
    os.pwrite(fd, b"b" * 4096, 16 * MEBIBYTE - 4096)
    saved = save_memory(fd, 16 * MEBIBYTE, folder)
    os.close(fd)
    return saved, folder.path / "memory"


def test_memory_is_sparse_and_comes_back(
    folder: SnapshotFolder, memory: tuple[SavedMemory, Path]
) -> None:
    saved, path = memory
    fd = open_memory(saved, folder)

    assert os.pread(fd, 4097, 4 * MEBIBYTE) == b"a" * 4096 + b"\0"
    assert os.pread(fd, 4096, 16 * MEBIBYTE - 4096) == b"b" * 4096
    assert path.stat().st_blocks * 512 < MEBIBYTE
    assert saved.data == ((4 * MEBIBYTE, 4096), (16 * MEBIBYTE - 4096, 4096))
    os.close(fd)


def test_a_changed_page_is_found(folder: SnapshotFolder, memory: tuple[SavedMemory, Path]) -> None:
    saved, path = memory
    with open(path, "r+b") as file:
        file.seek(4 * MEBIBYTE + 17)
        file.write(b"x")

    with pytest.raises(ConfigurationError, match="damaged: its checksum is wrong"):
        open_memory(saved, folder)


def test_memory_of_another_size_is_found(
    folder: SnapshotFolder, memory: tuple[SavedMemory, Path]
) -> None:
    saved, path = memory
    os.truncate(path, 8 * MEBIBYTE)

    with pytest.raises(ConfigurationError, match="damaged: 8388608 bytes, 16777216 are expected"):
        open_memory(saved, folder)


@pytest.mark.parametrize(
    "data",
    [
        ((0, 0),),
        ((16 * MEBIBYTE, 1),),
        ((0, 16 * MEBIBYTE + 1),),
        ((4096, 4096), (0, 4096)),
        ((0, 4096), (4095, 4096)),
    ],
)
def test_parts_that_memory_does_not_have_are_refused(
    folder: SnapshotFolder, memory: tuple[SavedMemory, Path], data: tuple[tuple[int, int], ...]
) -> None:
    with pytest.raises(ConfigurationError, match=r"bytes of memory at .* cannot be"):
        open_memory(replace(memory[0], data=data), folder)


def test_holes_that_are_claimed_as_data_are_checked_and_not_read(
    folder: SnapshotFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 255 << 30
    with open(folder.new_file("memory"), "wb") as file:
        file.truncate(size)
        for offset in (5000, 3 * MEBIBYTE, 9 << 30):
            file.seek(offset)
            file.write(b"data")
    read = []

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        read.append(len(buffers[0]))
        assert sum(read) < 8 * MEBIBYTE
        return os_preadv(fd, buffers, offset)

    os_preadv = os.preadv
    monkeypatch.setattr(os, "preadv", preadv)

    with pytest.raises(ConfigurationError, match="its checksum is wrong"):
        open_memory(SavedMemory(size, ((0, size),), 0), folder)
    assert read


@pytest.mark.parametrize("part", [(0, 16 * MEBIBYTE), (4097, 9 * MEBIBYTE), (9, 3 * MEBIBYTE)])
def test_checksum_counts_holes_as_zeros(
    folder: SnapshotFolder, memory: tuple[SavedMemory, Path], part: tuple[int, int]
) -> None:
    offset, length = part
    crc = zlib.crc32(memory[1].read_bytes()[offset : offset + length])

    os.close(open_memory(SavedMemory(16 * MEBIBYTE, (part,), crc), folder))


def test_scattered_memory_is_saved_in_few_parts(
    folder: SnapshotFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmm.snapshot.memory.MAX_EXTENTS", 10)
    fd = os.memfd_create("memory")
    os.ftruncate(fd, MEBIBYTE)
    for page in range(0, 80, 2):
        os.pwrite(fd, b"a", page * 4096)

    saved = save_memory(fd, MEBIBYTE, folder)

    assert saved.data == ((0, 79 * 4096),)
    os.close(open_memory(saved, folder))
    os.close(fd)


def test_memory_that_is_cut_off_later_is_told(
    folder: SnapshotFolder, memory: tuple[SavedMemory, Path]
) -> None:
    fd = open_memory(memory[0], folder)
    assert cut_off(fd, 16 * MEBIBYTE) == ""

    os.truncate(memory[1], 4096)

    assert cut_off(fd, 16 * MEBIBYTE).endswith("was cut off: it has 4096 bytes of 16777216")
    assert cut_off(-1, 16 * MEBIBYTE) == ""
    os.close(fd)


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

    def test_a_file_can_say_no_more_than_a_short_line(self) -> None:
        flags = tuple(f"a\n{number}" for number in range(10000))

        with pytest.raises(ConfigurationError, match=r"differ in .*n10 .* and \d+ more") as caught:
            replace(HostIdentity.of_this_host(), flags=flags).check("snapshot")
        assert len(str(caught.value)) < 1000
        assert "\n" not in str(caught.value)

    def test_it_is_read_from_cpuinfo(self, tmp_path: Path) -> None:
        path = tmp_path / "cpuinfo"
        path.write_text(
            "processor\t: 0\nvendor_id\t: V\ncpu family\t: 6\nmodel\t\t: 167\n"
            "model name\t: A CPU @ 2\nstepping\t: 1\nflags\t\t: sse fpu\n\nprocessor\t: 1\n"
        )

        found = HostIdentity.of_this_host(path)

        assert (found.vendor, found.family, found.model) == ("V", "6", "167")
        assert (found.name, found.stepping, found.flags) == ("A CPU @ 2", "1", ("fpu", "sse"))
