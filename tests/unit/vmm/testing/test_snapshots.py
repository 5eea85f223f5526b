"""The snapshots of tests' guests: which guests share one, and which are kept."""

import os
import stat
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.vmm.snapshot.synthetic import take_snapshot
from virtio.errors import ConfigurationError
from vmm.agent.kernel_log import KernelLog
from vmm.config import MachineConfig
from vmm.image import cache
from vmm.image.cache_room import trim
from vmm.snapshot import Snapshot
from vmm.testing import snapshots
from vmm.testing.config import GuestConfig
from vmm.testing.snapshots import SnapshotStore, entry_name
from vmm.topology import CpuTopology


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the cache of each test in a folder of its own."""
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / "cache"


# Which guests share a snapshot


def machine(kernel: Path) -> MachineConfig:
    return MachineConfig(kernel=kernel)


def test_kernels_of_one_size_and_time_behind_a_switched_link_have_snapshots_of_their_own(
    tmp_path: Path,
) -> None:
    for name, content in (("one", b"a"), ("two", b"b")):
        (tmp_path / name).write_bytes(content * 100_000)
        os.utime(tmp_path / name, (1, 1))
    link = tmp_path / "bzImage"
    link.symlink_to("one")
    first = entry_name(machine(link))
    link.unlink()
    link.symlink_to("two")

    assert entry_name(machine(link)) != first


def test_one_kernel_in_two_places_has_one_snapshot(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(b"kernel")

    assert entry_name(machine(tmp_path / "one")) == entry_name(machine(tmp_path / "two"))


@pytest.mark.parametrize(
    "other",
    [
        MachineConfig(cpus=2),
        MachineConfig(memory_bytes=64 << 20),
        MachineConfig(cmdline="x"),
        MachineConfig(spare_slots=3),
        MachineConfig(boot="pvh"),
        MachineConfig(vsock=3),
    ],
)
def test_other_machines_have_other_snapshots(
    other: MachineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kernel").touch()
    source = SimpleNamespace(kernel=tmp_path / "kernel", initrd=None)
    monkeypatch.setattr(
        snapshots,
        "boot_source",
        lambda config: SimpleNamespace(**vars(source), cmdline=config.cmdline),
    )

    assert entry_name(other) != entry_name(MachineConfig())


def test_processors_put_together_in_another_way_have_another_snapshot(tmp_path: Path) -> None:
    (tmp_path / "kernel").touch()
    cores = MachineConfig(kernel=tmp_path / "kernel", cpus=4)

    assert entry_name(replace(cores, cpu_topology=CpuTopology(2, 2))) != entry_name(cores)
    assert entry_name(replace(cores, cpu_topology=CpuTopology(cores=4))) == entry_name(cores)


def test_another_initrd_has_another_snapshot(tmp_path: Path) -> None:
    (tmp_path / "kernel").touch()
    (tmp_path / "initrd").write_bytes(b"one")
    config = MachineConfig(kernel=tmp_path / "kernel", initrd=tmp_path / "initrd")
    first = entry_name(config)
    (tmp_path / "initrd").write_bytes(b"two")

    assert entry_name(config) != first


def test_another_start_of_the_host_has_other_snapshots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kernel").touch()
    first = entry_name(machine(tmp_path / "kernel"))
    (tmp_path / "boot_id").write_text("another\n")
    monkeypatch.setattr(snapshots, "_BOOT_ID", tmp_path / "boot_id")

    assert entry_name(machine(tmp_path / "kernel")) != first


def test_changed_source_of_this_program_has_other_snapshots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kernel").touch()
    first = entry_name(machine(tmp_path / "kernel"))
    monkeypatch.setattr(
        snapshots, "tree_digest", lambda folder, _: "other" if folder.name == "virtio" else "same"
    )
    other = entry_name(machine(tmp_path / "kernel"))
    monkeypatch.setattr(snapshots, "tree_digest", lambda *_: "same")

    assert len({first, other, entry_name(machine(tmp_path / "kernel"))}) == 3


# Which are kept


class BootedMachine:
    """Stands in for a machine whose guest is ready at once."""

    def __init__(self, config: MachineConfig) -> None:
        self.agent = self

    def __enter__(self) -> "BootedMachine":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def boot(self) -> None:
        pass

    def wait_ready(self, seconds: float) -> None:
        pass

    def kernel_log(self, seconds: float) -> KernelLog:
        return KernelLog(0, [], False)

    def snapshot(self) -> Snapshot:
        return take_snapshot()


@pytest.fixture
def boots_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "Machine", BootedMachine)
    monkeypatch.setattr(snapshots, "default_kernel", lambda *_, **__: None)


def test_others_may_not_read_the_memory_of_a_saved_guest(
    boots_at_once: None, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "entry_name", lambda _: "snapshot-1")

    store.get(GuestConfig(), lambda _: nullcontext())

    assert stat.S_IMODE(os.stat(cache.root() / "snapshot-1").st_mode) == 0o700


def test_guest_whose_kernel_changed_while_it_booted_is_not_kept(
    boots_at_once: None, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = iter(["snapshot-1", "snapshot-2"])
    monkeypatch.setattr(snapshots, "entry_name", lambda _: next(names))

    with pytest.raises(ConfigurationError, match="was changed while the guest booted"):
        store.get(GuestConfig(), lambda _: nullcontext())
    assert cache.entries() == []


class Boots:
    """Notes what is booted, in place of a boot."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def make(self, config: MachineConfig, name: str, entry: Path, booting: object) -> None:
        self.names.append(name)
        with take_snapshot() as snapshot:
            snapshot.save(entry / "machine")


@pytest.fixture
def boots(monkeypatch: pytest.MonkeyPatch) -> Boots:
    boots = Boots()
    monkeypatch.setattr(snapshots, "_make", boots.make)
    monkeypatch.setattr(snapshots, "default_kernel", lambda *_, **__: None)
    monkeypatch.setattr(snapshots, "entry_name", lambda machine: f"snapshot-{machine.cmdline}")
    return boots


@pytest.fixture
def store() -> Iterator[SnapshotStore]:
    store = SnapshotStore()
    yield store
    store.close()


def guest(number: int) -> GuestConfig:
    return GuestConfig(cmdline=str(number))


def test_thirteen_configurations_boot_once_for_all_runs(boots: Boots) -> None:
    for _ in range(2):
        store = SnapshotStore()
        for number in range(13):
            store.get(guest(number))
        store.close()

    assert len(boots.names) == 13


def test_what_a_run_uses_is_not_evicted(
    boots: Boots, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYVMM_CACHE_LIMIT", "1")
    for number in range(3):
        store.get(guest(number))

    assert trim(0) == []
    assert len(cache.entries()) == 3
    store.close()
    assert len(trim(0)) == 3


def test_past_the_limit_the_longest_unused_goes(
    boots: Boots, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        one = SnapshotStore()
        one.get(guest(number))
        one.close()
    os.utime(cache.root() / "snapshot-0", (1, 1))
    size = cache.entries()[0].size_bytes
    monkeypatch.setenv("PYVMM_CACHE_LIMIT", str(size * 2 + size // 2))
    last = SnapshotStore()
    last.get(guest(2))
    last.close()

    assert [one.name for one in cache.entries()] == ["snapshot-1", "snapshot-2"]


@pytest.mark.parametrize("name", ["state", "memory"])
def test_damaged_snapshot_is_made_again(boots: Boots, name: str) -> None:
    first = SnapshotStore()
    first.get(guest(1))
    first.close()
    os.truncate(cache.root() / "snapshot-1" / "machine" / name, 100)
    second = SnapshotStore()

    assert second.get(guest(1)).config.memory_bytes == 4 << 20
    assert boots.names == ["snapshot-1"] * 2
    second.close()


def test_wrong_limit_is_told_before_a_boot(
    boots: Boots, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYVMM_CACHE_LIMIT", "some")

    with pytest.raises(ConfigurationError, match="PYVMM_CACHE_LIMIT: size 'some'"):
        store.get(guest(1))
    assert boots.names == []
