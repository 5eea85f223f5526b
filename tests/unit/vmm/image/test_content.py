"""Files are told apart by what is in them, and read once for that."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from virtio.errors import ConfigurationError
from vmm.image import content
from vmm.image.content import file_digest, tree_digest


@pytest.fixture(autouse=True)
def no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with nothing known, in a cache of the test's own."""
    cache = tmp_path / "cache"
    cache.mkdir(0o755)
    monkeypatch.setenv("PYVMM_CACHE", str(cache))
    monkeypatch.setattr(content, "_known", {})


def write(path: Path, data: bytes, time_ns: int = 1) -> Path:
    path.write_bytes(data)
    os.utime(path, ns=(time_ns, time_ns))
    return path


def settle(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file have been changed for the last time a minute ago."""
    later = path.stat().st_ctime_ns + 60 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: later)


def stop_the_clock(monkeypatch: pytest.MonkeyPatch, time_ns: int) -> None:
    """Let every file have been changed within the same tick of the file system's clock."""
    fstat = os.fstat

    def stopped(fd: int) -> SimpleNamespace:
        status = fstat(fd)
        kept = {name: getattr(status, name) for name in ("st_dev", "st_ino", "st_mode", "st_size")}
        return SimpleNamespace(**kept, st_mtime_ns=1, st_ctime_ns=time_ns)

    monkeypatch.setattr(os, "fstat", stopped)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin as another process."""
    monkeypatch.setattr(content, "_known", {})


def test_two_files_of_one_size_and_time_behind_a_switched_link_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_the_clock(monkeypatch, 1)
    write(tmp_path / "one", b"a" * 100_000)
    write(tmp_path / "two", b"b" * 100_000)
    link = tmp_path / "kernel"
    link.symlink_to("one")
    first = file_digest(link)
    link.unlink()
    link.symlink_to("two")

    assert file_digest(link) != first


def test_a_file_that_is_written_again_in_the_same_tick_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_the_clock(monkeypatch, time.time_ns())
    path = write(tmp_path / "file", b"a" * 100_000)
    first = file_digest(path)
    write(path, b"b" * 100_000)

    assert file_digest(path) != first


def test_a_change_that_hides_its_time_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "file", b"a" * 100_000)
    settle(path, monkeypatch)
    first = file_digest(path)
    while True:  # until the clock of the file system has gone on
        before = path.stat().st_ctime_ns
        write(path, b"b" * 100_000)
        if path.stat().st_ctime_ns != before:
            break

    assert file_digest(path) != first


def test_copies_and_holes_do_not_matter(tmp_path: Path) -> None:
    solid = write(tmp_path / "solid", bytes(300_000) + b"x" + bytes(200_000), 5)
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(500_001)
        file.seek(300_000)
        file.write(b"x")

    assert file_digest(sparse) == file_digest(solid)


def test_what_moved_or_is_longer_differs(tmp_path: Path) -> None:
    contents = [b"x" + bytes(9), bytes(1) + b"x" + bytes(8), b"x" + bytes(10), b"x", b""]
    full, hole = b"x" * (1 << 16), bytes(1 << 16)
    contents += [full, full + hole, hole + full, hole, hole + hole]
    digests = {
        file_digest(write(tmp_path / str(number), data)) for number, data in enumerate(contents)
    }

    assert len(digests) == len(contents)


def test_a_sparse_file_of_15_tib_takes_no_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(15 << 40)
        file.seek(7 << 40)
        file.write(b"data")
    read: list[int] = []
    pread = os.pread

    def counted(fd: int, length: int, offset: int) -> bytes:
        read.append(length)
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    file_digest(path)

    assert len(read) == 1


def test_a_settled_file_is_read_once_for_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "file", b"a" * 100_000)
    settle(path, monkeypatch)
    first = file_digest(path)
    forget(monkeypatch)
    monkeypatch.setattr(content, "_digest", lambda *_: pytest.fail("read again"))

    assert file_digest(path) == first


def test_small_files_are_read_once_and_take_no_room_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "file", b"small")
    settle(path, monkeypatch)
    first = file_digest(path)
    monkeypatch.setattr(content, "_digest", lambda *_: pytest.fail("read again"))

    assert file_digest(path) == first
    assert os.listdir(tmp_path / "cache") == []


@pytest.mark.parametrize("text", ["", "0" * 63, "x" * 64, "\xff" * 64])
def test_what_is_damaged_in_the_cache_is_found_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = write(tmp_path / "file", b"a" * 100_000)
    settle(path, monkeypatch)
    first = file_digest(path)
    for kept in (tmp_path / "cache" / ".content").iterdir():
        kept.write_text(text)
    forget(monkeypatch)

    assert file_digest(path) == first


@pytest.mark.parametrize("open_to_others", [".", ".content"])
def test_digests_in_a_cache_of_somebody_else_are_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_to_others: str
) -> None:
    path = write(tmp_path / "file", b"a" * 100_000)
    settle(path, monkeypatch)
    first = file_digest(path)
    for kept in (tmp_path / "cache" / ".content").iterdir():
        kept.write_text("0" * 64)
    (tmp_path / "cache" / open_to_others).chmod(0o777)
    forget(monkeypatch)

    assert file_digest(path) == first


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "file", b"a" * 100_000)
    settle(path, monkeypatch)
    monkeypatch.setenv("PYVMM_CACHE", "/proc/nothing")

    assert len(file_digest(path)) == 64


@pytest.mark.parametrize("name", ["missing", "loop", "fifo"])
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(ConfigurationError, match=f"{name}: "):
        file_digest(tmp_path / name)


def test_a_tree_is_its_names_and_contents_wherever_it_lies(tmp_path: Path) -> None:
    for folder, data in (("one", "x"), ("two", "x"), ("three", "y")):
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / "sub" / "a.py").write_text(data)
        (tmp_path / folder / "a.pyc").write_text(folder)
    one, two, three = (tree_digest(tmp_path / name, (".py",)) for name in ("one", "two", "three"))

    (tmp_path / "two" / "sub" / "a.py").rename(tmp_path / "two" / "sub" / "b.py")

    assert one == two
    assert one != three
    assert one != tree_digest(tmp_path / "two", (".py",))
