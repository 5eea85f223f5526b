"""What a session agrees on, and how long a guest may keep what it was told."""

import errno

import pytest

from tests.spec.fs import OneFile
from virtio.errors import ConfigurationError
from virtio.fs import Fs
from virtio.fs.answers import CacheMode
from virtio.testing.bench import Bench
from virtio.testing.fuse import FuseDriver, FuseError

DIRECT_IO, KEEP_CACHE, CACHE_DIR = 1, 2, 8
WRITEBACK, SYMLINKS, READDIRPLUS, MAX_PAGES = 1 << 16, 1 << 23, 1 << 13, 1 << 22


def begun(cache: CacheMode = "auto") -> FuseDriver:
    return FuseDriver(Bench(Fs(OneFile(), "share", cache=cache)))


def test_only_what_the_driver_asks_for_is_agreed_on() -> None:
    fuse = begun()

    assert fuse.init(0)["flags"] == 0
    assert fuse.init(READDIRPLUS)["flags"] == READDIRPLUS
    told = fuse.init()
    assert told["flags"] & (WRITEBACK | SYMLINKS) == 0
    assert (told["max_write"], told["max_pages"], told["gran"]) == (1 << 20, 256, 1)


@pytest.mark.parametrize(
    ("cache", "seconds", "flags", "folder_flags", "symlinks"),
    [
        ("auto", 1, KEEP_CACHE, 0, 0),  # the file of these tests is unchanged
        ("always", 86400, KEEP_CACHE, CACHE_DIR | KEEP_CACHE, SYMLINKS),
        ("none", 0, DIRECT_IO, 0, 0),
    ],
)
def test_the_cache_policy_says_what_the_guest_keeps(
    cache: CacheMode, seconds: int, flags: int, folder_flags: int, symlinks: int
) -> None:
    fuse = begun(cache)

    assert fuse.init()["flags"] & SYMLINKS == symlinks
    found = fuse.lookup(1, b"file")
    assert found.valid_seconds == seconds
    assert fuse.opened(found.node)[1] == flags
    assert fuse.opened(1, directory=True)[1] == folder_flags


def test_a_cache_policy_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="must be one of auto, always, none"):
        Fs(OneFile(), "share", cache="often")  # type: ignore[arg-type]


def test_after_destroy_a_session_has_to_begin_again() -> None:
    fuse = begun()
    fuse.init()

    fuse.ask(38, 0)

    with pytest.raises(FuseError) as told:
        fuse.lookup(1, b"file")
    assert told.value.errno == errno.EIO
    fuse.init()
    fuse.lookup(1, b"file")


def test_a_session_goes_on_in_another_device() -> None:
    fuse = FuseDriver(Bench(Fs(OneFile(), "share")), order=">")
    fuse.init()

    fuse.bench.restore_into(Fs(OneFile(), "share"))

    assert fuse.lookup(1, b"file").node == 2


@pytest.mark.parametrize("other", [Fs(OneFile(), "other"), Fs(OneFile(), "share", queues=2)])
def test_a_share_that_is_not_like_the_saved_one_is_refused(other: Fs) -> None:
    state = Fs(OneFile(), "share").state()

    with pytest.raises(ConfigurationError, match="saved share"):
        other.restore(state)


@pytest.mark.parametrize("part", ["begun", "big_endian", "system"])
def test_a_hostile_session_is_refused(part: str) -> None:
    state = Fs(OneFile(), "share").state()
    state["session"][part] = "x"

    with pytest.raises(ConfigurationError, match=r"^saved share"):
        Fs(OneFile(), "share").restore(state)


def test_a_directory_is_listed_with_little_room() -> None:
    fuse = begun()
    fuse.init()
    handle = fuse.open(1, directory=True)

    assert fuse.list(handle, plus=False, size=31) == []
    assert [one.name for one in fuse.list(handle, plus=False, size=32)] == [b"file"]
    assert fuse.list(handle, plus=True, size=159) == []
    assert [one.name for one in fuse.list(handle, plus=True, size=160)] == [b"file"]


def test_nothing_is_lost_when_the_last_bytes_of_an_answer_lie_apart() -> None:
    fuse = begun()
    fuse.init()
    request = fuse.message(15, 2, fuse.pack("QQIIQII", 7, 0, 19, 0, 0, 0, 0))

    used = fuse.bench.request([request[:30], request[30:]], [9, 7, 3, 16], queue=1)

    assert used.length == 35
    assert used.data[16:] == b"content of the file"
