"""The image cache: one builder at a time, and nothing half-made, whatever happens."""

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.others import powerless_script
from virtio.errors import ConfigurationError
from vmm.host.digest import sha256
from vmm.image import cache, cache_place

ROOT = Path(__file__).parents[4]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the cache of each test in a folder of its own."""
    chosen = tmp_path / "cache"
    monkeypatch.setenv("PYVMM_CACHE", str(chosen))
    return chosen


def fill(entry: Path) -> None:
    (entry / "file").write_text("content")


def fail(entry: Path) -> None:
    fill(entry)
    raise KeyboardInterrupt


def start(script: str) -> subprocess.Popen[str]:
    """Start a Python process with the same cache; its standard streams are pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_missing_entry_is_made_and_returned(folder: Path) -> None:
    path = cache.obtain("thing-1", fill)

    assert path == folder / "thing-1"
    assert (path / "file").read_text() == "content"


def test_present_entry_is_not_made_again() -> None:
    first = cache.obtain("thing-1", fill)

    assert cache.obtain("thing-1", fail) == first


def test_interrupted_build_leaves_nothing(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        cache.obtain("thing-1", fail)

    assert os.listdir(folder) == [".locks"]
    assert cache.lookup("thing-1") is None


def test_killed_build_is_swept_by_the_next_builder(folder: Path) -> None:
    builder = start("""
        import signal
        from vmm.image import cache
        def make(entry):
            (entry / "half").write_text("")
            print("begun", flush=True)
            signal.pause()
        cache.obtain("thing-1", make)
    """)
    with builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "begun\n"
        builder.send_signal(signal.SIGKILL)
    assert [name for name in os.listdir(folder) if name.startswith(".unfinished")]

    path = cache.obtain("thing-1", fill)

    assert os.listdir(path) == ["file"]
    assert sorted(os.listdir(folder)) == [".locks", "thing-1"]


def test_interrupted_build_can_be_gone_on_with(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        cache.obtain("thing-1", fail, resumable=True)

    path = cache.obtain("thing-1", lambda entry: (entry / "more").touch(), resumable=True)

    assert sorted(os.listdir(path)) == ["file", "more"]
    assert sorted(os.listdir(folder)) == [".locks", "thing-1"]


def test_failed_build_is_not_gone_on_with(folder: Path) -> None:
    def refuse(entry: Path) -> None:
        fill(entry)
        raise ConfigurationError("no")

    with pytest.raises(ConfigurationError):
        cache.obtain("thing-1", refuse, resumable=True)

    assert os.listdir(folder) == [".locks"]


def test_second_process_waits_and_takes_what_the_first_made() -> None:
    first = start("""
        import sys
        from vmm.image import cache
        def make(entry):
            print("begun", flush=True)
            sys.stdin.readline()
            (entry / "maker").write_text("first")
        cache.obtain("thing-1", make)
    """)
    second_script = """
        from vmm.image import cache
        def make(entry):
            (entry / "maker").write_text("second")
        path = cache.obtain("thing-1", make, waiting=lambda: print("waiting", flush=True))
        print((path / "maker").read_text())
    """
    with first:
        assert first.stdout is not None
        assert first.stdin is not None
        assert first.stdout.readline() == "begun\n"
        with start(second_script) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "waiting\n"
            first.stdin.write("\n")
            first.stdin.flush()
            assert second.stdout.read() == "first\n"


def test_lock_that_was_waited_for_is_held(folder: Path) -> None:
    folder.mkdir()
    with ExitStack() as before:
        before.enter_context(cache_place.locked(folder, "thing-1"))
        with cache_place.locked(folder, "thing-1", before.close):
            assert cache_place.is_worked_on(folder, "thing-1")

    assert not cache_place.is_worked_on(folder, "thing-1")


def test_builds_of_other_entries_are_not_swept(folder: Path) -> None:
    cache.obtain("thing", fill)
    other = folder / ".unfinished-thing-1~0"
    other.mkdir()

    cache.remove("thing")

    assert other.is_dir()


def test_entries_lists_complete_ones_sorted_with_sizes(folder: Path) -> None:
    cache.obtain("b-1", fill)
    cache.obtain("a-1", fill)
    (folder / ".unfinished-c-1~0").mkdir()

    listed = cache.entries()

    assert [entry.name for entry in listed] == ["a-1", "b-1"]
    assert listed[0].path == folder / "a-1"
    assert listed[0].size_bytes > 0


def test_entries_of_no_cache_is_empty() -> None:
    assert cache.entries() == []


def test_remove_takes_the_entry_away_once() -> None:
    cache.obtain("thing-1", fill)

    assert cache.remove("thing-1") is True
    assert cache.remove("thing-1") is False
    assert cache.entries() == []


@pytest.mark.parametrize("name", ["../else", ".locks", "a/b"])
def test_remove_refuses_what_is_no_entry(name: str) -> None:
    with pytest.raises(ConfigurationError, match="not a name"):
        cache.remove(name)


def test_folder_that_cannot_be_made_is_named_with_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "file" / "below"))

    with pytest.raises(ConfigurationError, match=r"file/below: Not a directory; set PYVMM_CACHE"):
        cache.obtain("thing-1", fill)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"PYVMM_CACHE": "/x/y"}, "/x/y"),
        ({"XDG_CACHE_HOME": "/xdg", "HOME": "/home/u"}, "/xdg/pyvmm"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/u"}, "/home/u/.cache/pyvmm"),
        ({"HOME": "/home/u"}, "/home/u/.cache/pyvmm"),
    ],
)
def test_root_follows_the_environment(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYVMM_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert cache.root() == Path(expected)


def test_digest_tells_borders_apart() -> None:
    assert cache.digest("ab", "c") != cache.digest("a", "bc")
    assert len(cache.digest("ab")) == 16


def test_own_sha256_is_that_of_everybody() -> None:
    assert sha256(b"abc").hexdigest() == hashlib.sha256(b"abc").hexdigest()


# Others


@pytest.fixture
def kept() -> Path:
    """The folder of one entry."""
    return cache.obtain("kept-1", fill)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_what_others_can_write_to_is_refused(kept: Path, mode: int) -> None:
    for path in (kept, kept.parent):
        path.chmod(mode)
        with pytest.raises(ConfigurationError, match=rf"mode {mode:o}\); .* chmod -R go-w {path}"):
            cache.lookup("kept-1")
        path.chmod(0o755)

    assert cache.lookup("kept-1") == kept


def test_nothing_is_put_into_a_cache_that_others_can_write_to(kept: Path) -> None:
    kept.parent.chmod(0o777)

    with pytest.raises(ConfigurationError, match="others can write to it"):
        cache.obtain("new-1", lambda folder: None)


def test_the_cache_of_another_user_is_refused(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = kept.stat().st_uid
    monkeypatch.setattr(cache_place, "_trusted_owners", lambda: (owner + 1,))

    with pytest.raises(ConfigurationError, match=f"belongs to user {owner}, who could change"):
        cache.lookup("kept-1")


def test_nobody_else_can_write_to_what_is_made(folder: Path) -> None:
    def make(entry: Path) -> None:
        (entry / "deep").mkdir()
        (entry / "deep" / "file").touch()
        (entry / "link").symlink_to("deep")

    before = os.umask(0)
    try:
        entry = cache.obtain("made-1", make)
    finally:
        os.umask(before)

    made = [folder, folder / ".locks", entry, *entry.rglob("*")]
    assert [path.name for path in made if path.stat().st_mode & 0o022] == []
    assert cache.lookup("made-1") == entry


# What killed builders left


KILLED = """
    import os, signal
    from vmm.image import cache
    def make(entry):
        (entry / "half").write_bytes(bytes(100_000))
        os.kill(os.getpid(), signal.SIGKILL)
    cache.obtain({name!r}, make, resumable={resumable})
"""


def kill_a_builder(name: str, *, resumable: bool = False) -> str:
    """Leave what a killed builder leaves, and return its name."""
    before = {one.name for one in cache.unfinished()}
    with start(KILLED.format(name=name, resumable=resumable)) as builder:
        builder.wait()
    [left] = {one.name for one in cache.unfinished()} - before
    return left


@pytest.mark.parametrize("resumable", [False, True])
def test_what_a_killed_builder_left_is_listed_and_removed(folder: Path, resumable: bool) -> None:
    name = kill_a_builder("kernel-1", resumable=resumable)
    [left] = cache.unfinished()

    assert left.size_bytes >= 100_000
    assert not cache.is_at_work(left)
    assert cache.entries() == []
    cache.remove(name)
    assert os.listdir(folder) == [".locks"]


def test_next_build_of_anything_sweeps_what_no_one_goes_on_with(folder: Path) -> None:
    kill_a_builder("thing-1")
    going_on = kill_a_builder("kernel-1", resumable=True)

    cache.obtain("other-1", fill)

    assert [one.name for one in cache.unfinished()] == [going_on]


def test_build_that_nobody_went_on_with_for_a_week_is_swept(folder: Path) -> None:
    left = folder / kill_a_builder("kernel-1", resumable=True)
    week_ago = left.stat().st_mtime - 7.1 * 24 * 3600
    os.utime(left, (week_ago, week_ago))

    cache.obtain("other-1", fill)

    assert cache.unfinished() == []


def test_builder_at_work_is_not_swept(folder: Path) -> None:
    builder = start("""
        import sys
        from vmm.image import cache
        def make(entry):
            print("begun", flush=True)
            sys.stdin.readline()
            (entry / "file").touch()
        cache.obtain("thing-1", make)
        print("made", flush=True)
    """)
    with builder:
        assert builder.stdout is not None
        assert builder.stdin is not None
        assert builder.stdout.readline() == "begun\n"
        cache.obtain("other-1", fill)
        assert [cache.is_at_work(one) for one in cache.unfinished()] == [True]
        builder.stdin.write("\n")
        builder.stdin.flush()
        assert builder.stdout.readline() == "made\n"

    assert [one.name for one in cache.entries()] == ["other-1", "thing-1"]


# A cache that somebody else filled


@pytest.fixture
def filled(folder: Path, tmp_path: Path) -> dict[str, str]:
    """Fill a cache that cannot be written any more; return the environment for its users."""
    cache.obtain("kept-1", fill)
    cache.obtain("secret-1", lambda entry: entry.chmod(0))
    for path in (folder, folder / ".locks"):
        path.chmod(0o555)
    (tmp_path / "tmp").mkdir()
    return {"TMPDIR": str(tmp_path / "tmp")}


def test_reading_needs_only_reading(folder: Path, filled: dict[str, str]) -> None:
    line = powerless_script(
        """
        from vmm.image import cache
        print(cache.obtain("kept-1", None), [one.name for one in cache.entries()])
        """,
        filled,
    )

    assert line == f"{folder}/kept-1 ['kept-1', 'secret-1']"


@pytest.mark.parametrize("name", ["new-1", "secret-1"])
def test_what_a_reader_adds_goes_to_a_folder_of_its_own(
    filled: dict[str, str], tmp_path: Path, name: str
) -> None:
    script = f"""
        from vmm.image import cache
        path = cache.obtain({name!r}, lambda entry: (entry / "file").touch())
        assert cache.lookup({name!r}) == path
        print(path, cache.places()[1].stat().st_mode & 0o777 == 0o700)
        """
    own = tmp_path / "tmp" / f"pyvmm-{os.geteuid()}"

    assert powerless_script(script, filled) == f"{own}/{name} True"
    assert powerless_script(script.replace('(entry / "file")', "None"), filled).endswith("True")


@pytest.mark.parametrize("kind", ["link", "open"])
def test_folder_in_tmp_that_others_made_is_refused(
    filled: dict[str, str], tmp_path: Path, kind: str
) -> None:
    own = tmp_path / "tmp" / f"pyvmm-{os.geteuid()}"
    (tmp_path / "elsewhere").mkdir()
    if kind == "link":
        own.symlink_to(tmp_path / "elsewhere")
    else:
        own.mkdir()
        own.chmod(0o777)

    line = powerless_script(
        "from vmm.image import cache; cache.obtain('new-1', lambda entry: None)", filled
    )

    assert line.startswith("ConfigurationError: cache ")
    assert "no folder of yours" in line or "others can write to it" in line
    assert os.listdir(tmp_path / "elsewhere") == []


def test_entry_behind_a_link_in_tmp_is_not_seen(filled: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "new-1").mkdir(parents=True)
    (tmp_path / "tmp" / f"pyvmm-{os.geteuid()}").symlink_to(tmp_path / "elsewhere")

    line = powerless_script("from vmm.image import cache; print(cache.lookup('new-1'))", filled)

    assert line == "None"


@pytest.mark.parametrize("open_to_others", [".", "new-1"])
def test_entry_in_tmp_that_others_can_change_is_refused(
    filled: dict[str, str], tmp_path: Path, open_to_others: str
) -> None:
    own = tmp_path / "tmp" / f"pyvmm-{os.geteuid()}"
    (own / "new-1").mkdir(parents=True)
    (own / open_to_others).chmod(0o777)

    line = powerless_script("from vmm.image import cache; cache.lookup('new-1')", filled)

    assert line.startswith(f"ConfigurationError: cache {own / open_to_others}: others can write")
