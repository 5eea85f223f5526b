"""Snapshots of a Linux guest: what its clones share, and what each has for itself."""

import re
import shutil
import subprocess
import threading
import time
import zlib
from pathlib import Path

import pytest

from vmm import DiskConfig, Machine, MachineConfig, Snapshot
from vmm.image import build_initramfs, make_disk
from vmm.image.kernel import recipe_folder
from vmm.image.program import compiled_freestanding
from vmm.testing import GuestConfig
from vmm.testing.snapshots import SnapshotStore
from vmm.x86 import is_emulated_host

pytestmark = pytest.mark.timeout(1200)

BOOT_DEADLINE = 900.0
LOAD_DEADLINE = 600.0
MEBIBYTE = 1 << 20
DISK_BYTES = 8 * MEBIBYTE


def booted(disks: tuple[DiskConfig, ...], initrd: bytes) -> MachineConfig:
    """Return a guest whose first process is the agent."""
    return MachineConfig(agent="init", console="virtio", disks=disks, initrd=initrd, balloon=0)


@pytest.fixture(scope="module")
def snapshot(guest_snapshots: SnapshotStore) -> Snapshot:
    """An idle guest."""
    return guest_snapshots.get(GuestConfig())


def test_two_clones_draw_other_random_numbers(snapshot: Snapshot) -> None:
    command = ["head", "-c", "32", "/dev/urandom"]
    with Machine.restore(snapshot) as one, Machine.restore(snapshot) as two:
        one.resume()
        two.resume()
        first = one.agent.run(command, text=False).stdout
        second = two.agent.run(command, text=False).stdout

    assert len(first) == len(second) == 32
    assert first != second


def test_time_of_day_is_right_and_monotonic_time_goes_on(snapshot: Snapshot) -> None:
    def up_seconds(machine: Machine) -> float:
        return float(machine.agent.read_file("/proc/uptime").split()[0])

    with Machine.restore(snapshot) as machine:
        machine.resume()
        started = time.monotonic()
        before = up_seconds(machine)
        later = machine.snapshot()
        running = time.monotonic() - started
    threading.Event().wait(5)  # what is measured is whether this time passes in the guest

    with later, Machine.restore(later) as machine:
        resumed = time.monotonic()
        machine.resume()
        after = up_seconds(machine)
        away = resumed - started - running
        running += time.monotonic() - resumed
        earliest = time.time()
        shown = int(machine.agent.run(["date", "+%s"]).stdout)
        latest = time.time()

    # Such a host's guests read its own time-stamp counter, which goes on meanwhile.
    counted = running + away if is_emulated_host() else running
    assert before <= after <= before + counted + 0.1
    assert int(earliest) - 1 <= shown <= latest + 1


def test_clones_write_to_files_of_their_own(snapshot: Snapshot) -> None:
    with Machine.restore(snapshot) as one, Machine.restore(snapshot) as two:
        one.resume()
        two.resume()
        one.agent.write_file("/tmp/own", "one")
        two.agent.write_file("/tmp/own", "two")
        assert one.agent.read_file("/tmp/own") == b"one"
        assert two.agent.read_file("/tmp/own") == b"two"
    with Machine.restore(snapshot) as three:
        three.resume()
        assert three.agent.run(["ls", "/tmp/own"]).returncode == 1


@pytest.mark.usefixtures("nothing_to_collect")
def test_many_clones_run_at_once_and_one_after_the_other(snapshot: Snapshot) -> None:
    def present() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    before = present()
    for _ in range(5):
        clones = [Machine.restore(snapshot) for _ in range(4)]
        for clone in clones:
            clone.__enter__()
            clone.resume()
        try:
            for number, clone in enumerate(clones):
                assert clone.agent.run(["echo", f"{number}"]).stdout == f"{number}\n"
        finally:
            for clone in clones:
                clone.__exit__(None, None, None)
    assert present() == before


@pytest.mark.skipif(shutil.which("e2fsck") is None, reason="needs e2fsck")
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", ["volatile", "written"])
def test_clones_of_a_guest_under_block_load_lose_nothing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    program = compiled_freestanding(recipe_folder() / "load.c")
    if program is None:
        pytest.skip("gcc is not installed")
    image = tmp_path / "disk.img"
    (tmp_path / "content").mkdir()
    make_disk(tmp_path / "content", image, DISK_BYTES)
    disk = DiskConfig(str(image), volatile=kind == "volatile")
    with Machine(booted((disk,), build_initramfs({"/bin/load": program}))) as machine:
        machine.boot()
        machine.agent.wait_ready(BOOT_DEADLINE)
        machine.agent.run(["mount", "-t", "ext4", "/dev/vda", "/mnt"], check=True)
        machine.agent.run(["load", "start", "/mnt"], check=True)
        for attempt in range(request.config.getoption("tries")):
            machine.agent.run(["load", "wait"], timeout=LOAD_DEADLINE, check=True)
            threading.Event().wait(attempt % 40 / 1000)  # not always at the same step of a write
            with machine.snapshot() as saved:
                machine.pause()
                finish_clone(saved, tmp_path / "clone.img")
            machine.resume()


def finish_clone(saved: Snapshot, image: Path) -> None:
    """Let a clone end its writing, and compare its disk and file system on both sides."""
    with Machine.restore(saved) as clone:
        clone.resume()
        end = ["load", "end", "/mnt", "/dev/vda"]
        seen = clone.agent.run(end, timeout=LOAD_DEADLINE, check=True).stdout
        with open(image, "wb") as file:
            clone.hardware.disks[0].save(file.fileno())
    assert seen == f"{zlib.crc32(image.read_bytes()):08x}\n"
    checked = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert re.search(r"\b\d+/\d+ files", checked.stdout)
    image.unlink()


@pytest.fixture(scope="module")
def with_balloon(guest_snapshots: SnapshotStore) -> Snapshot:
    """An idle guest that can give memory back."""
    return guest_snapshots.get(GuestConfig(balloon=True, deadline=BOOT_DEADLINE))


def used_bytes(machine: Machine) -> int:
    """Return all of a guest's memory but what its kernel says is free."""
    told = str(machine.agent.run(["cat", "/proc/meminfo"], check=True).stdout)
    free = re.search(r"^MemFree: +(\d+) kB$", told, re.MULTILINE)
    assert free
    return machine.config.memory_bytes - int(free[1]) * 1024


def saved_bytes(machine: Machine, folder: Path) -> int:
    """Save a machine, and return how much room its memory takes."""
    with machine.snapshot() as taken:
        taken.save(folder)
    return (folder / "memory").stat().st_blocks * 512


FILL_AND_FREE = 'BEGIN { text = "data"; while (length(text) < 4000000) text = text text }'


def test_saved_guest_takes_at_most_a_quarter_more_than_it_uses(
    with_balloon: Snapshot, tmp_path: Path
) -> None:
    with Machine.restore(with_balloon) as machine:
        machine.resume()
        machine.agent.run(["awk", FILL_AND_FREE], timeout=LOAD_DEADLINE, check=True)
        used = used_bytes(machine)
        # A device that has something for the guest just then makes for a large one.
        sizes = (saved_bytes(machine, tmp_path / str(attempt)) for attempt in range(10))

        assert any(size <= used * 5 // 4 for size in sizes)
        with Snapshot.load(tmp_path / "0") as loaded, Machine.restore(loaded) as clone:
            clone.resume()
            assert used_bytes(clone) < 2 * used  # the guest had its free memory back by then


def test_guest_gives_memory_and_its_clone_has_the_balloon_and_takes_it_back(
    with_balloon: Snapshot,
) -> None:
    with Machine.restore(with_balloon) as machine:
        machine.resume()
        whole = machine.balloon.statistics(LOAD_DEADLINE).available_bytes
        machine.balloon.target_bytes = 8 * MEBIBYTE
        machine.balloon.wait(LOAD_DEADLINE)
        less = machine.balloon.statistics(LOAD_DEADLINE).available_bytes
        with machine.snapshot() as saved, Machine.restore(saved) as clone:
            clone.resume()
            assert clone.balloon.actual_bytes == 8 * MEBIBYTE
            clone.balloon.target_bytes = 0
            clone.balloon.wait(LOAD_DEADLINE)
            again = clone.balloon.statistics(LOAD_DEADLINE).available_bytes

    assert whole is not None
    assert less is not None
    assert again is not None
    assert less < whole - 6 * MEBIBYTE
    assert again > less + 6 * MEBIBYTE
