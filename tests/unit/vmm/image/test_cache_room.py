"""Snapshots make room by bytes, the least recently used first, and none that somebody uses."""

import fcntl
import os
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm.cli import main
from vmm.image import cache
from vmm.image.cache_room import hold, is_held, limit_bytes, trim

SIZE = 100 << 10


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the cache of each test in a folder of its own."""
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / "cache"


def entry(name: str, used: int) -> Path:
    """Make an entry of some 100 KiB that was last used then."""
    path = cache.obtain(name, _fill)
    os.utime(path, (used, used))
    return path


def _fill(folder: Path) -> None:
    (folder / "memory").write_bytes(b"x" * SIZE)


def names() -> list[str]:
    return [one.name for one in cache.entries()]


def test_thirteen_small_ones_all_stay() -> None:
    for number in range(13):
        entry(f"snapshot-{number}", 1000 + number)

    assert trim() == []
    assert len(names()) == 13


def test_least_recently_used_go_first_until_the_rest_fits() -> None:
    for name, used in (("snapshot-b", 3), ("snapshot-a", 4), ("snapshot-d", 1), ("snapshot-c", 2)):
        entry(name, used)

    assert [one.name for one in trim(int(2.5 * SIZE))] == ["snapshot-d", "snapshot-c"]
    assert names() == ["snapshot-a", "snapshot-b"]


def test_what_is_in_use_stays_past_the_limit() -> None:
    used = hold(entry("snapshot-old", 1))
    assert used is not None
    entry("snapshot-new", 2)

    assert [one.name for one in trim(0)] == ["snapshot-new"]
    assert is_held(cache.root() / "snapshot-old")
    os.close(used)
    assert [one.name for one in trim(0)] == ["snapshot-old"]


def test_use_is_noted() -> None:
    path = entry("snapshot-1", 1)
    held = hold(path)
    assert held is not None
    os.close(held)

    assert path.stat().st_mtime > 1


def test_what_has_just_gone_is_not_held(folder: Path) -> None:
    assert hold(folder / "snapshot-1") is None


def test_entry_that_came_in_the_place_of_another_is_not_held_by_that_ones_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lock = entry("snapshot-1", 1), fcntl.flock

    def late(fd: int, operation: int) -> None:
        path.rename(folder / "gone")
        path.mkdir()
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)

    assert hold(path) is None


def test_images_stay_whatever_the_limit() -> None:
    entry("kernel-1", 1)

    assert trim(0) == []


def test_limit_is_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limit_bytes() == 4 << 30
    monkeypatch.setenv("PYVMM_CACHE_LIMIT", "10M")
    assert limit_bytes() == 10 << 20
    monkeypatch.setenv("PYVMM_CACHE_LIMIT", "much")
    with pytest.raises(ConfigurationError, match="PYVMM_CACHE_LIMIT: size 'much': must be"):
        limit_bytes()


# The command


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    status = main(list(words))
    out, err = capsys.readouterr()
    return status, (out + err).splitlines()


def test_list_says_size_use_and_reason(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry("kernel-1", 1)
    entry("snapshot-free", 2)
    used = hold(entry("snapshot-used", 3))
    assert used is not None
    (folder / ".unfinished-kernel-2~resumable-0").mkdir()

    status, lines = run(capsys, "cache")
    os.close(used)

    assert status == 0
    assert lines[0] == f"cache {folder}"
    assert any("kernel-1  (kept until it is removed)" in line for line in lines)
    assert any("snapshot-free  (evicted past the limit" in line for line in lines)
    assert any("snapshot-used  (in use)" in line for line in lines)
    assert any("resumable-0  (unfinished: the next build goes on" in line for line in lines)
    assert lines[-1].startswith("     0.3 MiB in all; 0.2 MiB of it are snapshots, which may take")


def test_trim_says_what_went(capsys: pytest.CaptureFixture[str]) -> None:
    entry("snapshot-1", 1)

    assert run(capsys, "cache", "trim", "--limit", "0") == (0, ["removed snapshot-1: 0.1 MiB"])


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["snapshot-1"], ["kernel-1", "snapshot-2"]),
        (["--snapshots"], ["kernel-1"]),
        (["--all"], []),
        (["--unfinished"], ["kernel-1", "snapshot-1", "snapshot-2"]),
    ],
)
def test_remove_takes_what_is_named(
    words: list[str], left: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("kernel-1", "snapshot-1", "snapshot-2"):
        entry(name, 1)
    (folder / ".unfinished-kernel-2~0").mkdir()

    assert run(capsys, "cache", "remove", *words) == (0, [])
    assert names() == left
    gone = bool({"--all", "--unfinished"} & set(words))
    assert (cache.unfinished() == []) is gone


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["remove", "nothing"], "vmm: nothing: not in the cache; vmm cache list shows what is"),
        (["remove"], "vmm: vmm cache remove: needs a NAME, --all, --snapshots or --unfinished"),
        (["trim", "--limit", "x"], "vmm: size 'x': must be a number of bytes, or one with K, M, G"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines = run(capsys, "cache", *words)

    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith(message)


def test_image_commands_know_what_is_unfinished(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = folder / ".unfinished-kernel-2~resumable-0"
    left.mkdir(parents=True)

    _, lines = run(capsys, "image", "list")
    assert lines[0].endswith(f"{left.name}  (unfinished)")
    run(capsys, "image", "remove", "--all")
    assert not left.exists()
