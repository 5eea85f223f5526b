"""A disk's file, closed while a thread uses it."""

import os
import threading
from collections.abc import Iterator, Sequence

import pytest

from tests.spec.threads import PATIENCE_SECONDS, Crew, wait_until
from vmm.disk.held import HeldFile
from vmm.disk.overlay import OverlayDisk
from vmm.disk.raw import RawDisk


def is_open(fd: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")


@pytest.fixture
def fd() -> Iterator[int]:
    """A file that the test has closed in the end."""
    fd = os.memfd_create("held")
    yield fd
    assert not is_open(fd)


def test_a_file_that_nobody_uses_is_closed_at_once_and_once(fd: int) -> None:
    held = HeldFile(fd)

    held.close()
    held.close()

    assert not is_open(fd)


def test_a_file_in_use_is_closed_after_its_last_use(fd: int) -> None:
    held = HeldFile(fd)
    seen = []
    with held as first:
        with held as second:
            held.close()
            seen += [first == second == fd, is_open(fd)]
        seen.append(is_open(fd))

    assert (seen, is_open(fd)) == ([True, True, True], False)


def test_a_closed_file_cannot_be_used(fd: int) -> None:
    held = HeldFile(fd)
    held.close()

    with pytest.raises(OSError, match="the disk is closed"), held:
        pass


def test_a_detached_file_is_left_open(fd: int) -> None:
    held = HeldFile(fd)

    detached = held.detach()
    held.close()

    assert is_open(fd)
    os.close(detached)


class SlowDisk(RawDisk):
    """An image in memory that takes no time off: all is read by waiting, until it is let go."""

    entered = threading.Event()
    gate = threading.Event()

    def try_readv(self, views: Sequence[memoryview], offset: int) -> bool:
        return False

    def readv(self, views: Sequence[memoryview], offset: int) -> None:
        self.entered.set()
        assert self.gate.wait(PATIENCE_SECONDS)
        super().readv(views, offset)


@pytest.fixture
def slow() -> SlowDisk:
    disk = SlowDisk.scratch(1 << 16)
    disk.entered, disk.gate = threading.Event(), threading.Event()
    disk.writev([memoryview(b"b" * (1 << 16))], 0)
    return disk


def test_an_image_is_closed_under_a_flush_without_waiting(
    slow: SlowDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd, entered, gate = slow.fd, threading.Event(), threading.Event()

    def stuck(fd: int) -> None:
        entered.set()
        assert gate.wait(PATIENCE_SECONDS)

    monkeypatch.setattr(os, "fdatasync", stuck)
    with Crew() as crew:
        crew.run(slow.flush)
        wait_until(entered.is_set)

        slow.close()
        during = is_open(fd)
        gate.set()

    assert (during, is_open(fd), slow.fd) == (True, False, -1)


class TestOverlay:
    def test_what_its_base_cannot_give_at_once_is_not_read_or_written_in_part(
        self, slow: SlowDisk
    ) -> None:
        with OverlayDisk(slow) as overlay:
            buffer = memoryview(bytearray(512))

            tried = [overlay.try_readv([buffer], 0), overlay.try_writev([buffer], 512)]

            slow.gate.set()
            overlay.readv([buffer], 512)
            assert (tried, bytes(buffer)) == ([False, False], b"b" * 512)

    def test_its_own_blocks_need_no_waiting(self, slow: SlowDisk) -> None:
        with OverlayDisk(slow) as overlay:
            block, found = memoryview(b"o" * 4096), memoryview(bytearray(4096))

            tried = [
                overlay.try_writev([block], 4096),
                overlay.try_readv([found], 4096),
                overlay.try_writev([block[:512]], 4096),
                overlay.try_flush(),
            ]

            assert (tried, bytes(found)) == ([True] * 4, b"o" * 4096)

    def test_a_write_that_waits_for_the_base_holds_up_nobody_who_tries(
        self, slow: SlowDisk
    ) -> None:
        block = memoryview(b"o" * 4096)
        with OverlayDisk(slow) as overlay, Crew() as crew:
            crew.run(lambda: overlay.writev([block[:512]], 0))
            wait_until(slow.entered.is_set)

            tried = overlay.try_writev([block], 4096)

            slow.gate.set()
            for thread in crew.threads:
                thread.join(PATIENCE_SECONDS)
            found = memoryview(bytearray(1024))
            overlay.readv([found], 0)
            assert (tried, bytes(found)) == (False, b"o" * 512 + b"b" * 512)

    def test_two_writes_into_one_block_both_stand(self, slow: SlowDisk) -> None:
        block = memoryview(b"o" * 512)
        with OverlayDisk(slow) as overlay, Crew() as crew:
            for n in range(8):
                crew.run(lambda n=n: overlay.writev([block], 512 * n))  # type: ignore[misc]
            wait_until(slow.entered.is_set)
            slow.gate.set()
            for thread in crew.threads:
                thread.join(PATIENCE_SECONDS)
            found = memoryview(bytearray(4096))
            overlay.readv([found], 0)
            assert bytes(found) == b"o" * 4096

    def test_it_is_closed_under_a_read_without_waiting(self, slow: SlowDisk) -> None:
        overlay = OverlayDisk(slow)
        fds = [overlay._delta, slow.fd]
        errors: list[OSError] = []

        def read() -> None:
            try:
                overlay.readv([memoryview(bytearray(512))], 0)
            except OSError as error:
                errors.append(error)

        with Crew() as crew:
            crew.run(read)
            wait_until(slow.entered.is_set)
            overlay.close()
            during = [is_open(fd) for fd in fds]
            slow.gate.set()

        assert [str(error) for error in errors] == ["[Errno 9] the disk is closed"]
        assert (during[0], [is_open(fd) for fd in fds]) == (True, [False, False])


def test_an_image_on_disk_may_wait_and_one_in_memory_does_not(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "image")
    with open(path, "wb") as file:
        file.truncate(4096)

    with RawDisk.open(path) as on_disk, RawDisk.scratch(4096) as in_memory:
        assert (on_disk.may_wait, in_memory.may_wait) == (not in_tmpfs(path), False)


def in_tmpfs(path: str) -> bool:
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        device = os.stat(path).st_dev
        name = f"{os.major(device)}:{os.minor(device)}"
        kinds = [line.split(" - ")[1].split()[0] for line in mounts if line.split()[2] == name]
    return "tmpfs" in kinds
