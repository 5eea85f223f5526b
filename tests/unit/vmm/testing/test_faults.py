"""A disk that fails on purpose fails where it was told to, and nowhere else."""

from collections.abc import Iterator

import pytest

from tests.spec.threads import wait_until
from virtio import Block
from virtio.errors import ConfigurationError
from virtio.testing import Bench
from vmm.disk.disk import DiskConfig
from vmm.disk.raw import RawDisk
from vmm.share.config import ShareConfig
from vmm.testing import FaultyDisk, GuestConfig

SECTOR = 512


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    with RawDisk.scratch(64 * SECTOR) as raw:
        yield FaultyDisk(raw)


def read(disk: FaultyDisk, sector: int, count: int = 1) -> bytes:
    data = bytearray(count * SECTOR)
    disk.readv([memoryview(data)], sector * SECTOR)
    return bytes(data)


def write(disk: FaultyDisk, sector: int, data: bytes) -> None:
    disk.writev([memoryview(data)[:100], memoryview(data)[100:]], sector * SECTOR)


@pytest.mark.parametrize(("sector", "count"), [(8, 1), (7, 2), (9, 1), (0, 64)])
def test_reads_fail_where_they_touch_a_bad_sector(
    disk: FaultyDisk, sector: int, count: int
) -> None:
    disk.fail_reads(range(8, 10))

    with pytest.raises(OSError, match="injected at sectors 8-9"):
        read(disk, sector, count)
    assert read(disk, 7) == read(disk, 10) == bytes(SECTOR)
    write(disk, sector, b"x" * SECTOR)


def test_writes_fail_until_the_disk_is_healed(disk: FaultyDisk) -> None:
    disk.fail_writes()

    with pytest.raises(OSError, match="injected"):
        write(disk, 3, b"x" * SECTOR)
    assert read(disk, 3) == bytes(SECTOR)
    disk.heal()
    write(disk, 3, b"x" * SECTOR)

    assert read(disk, 3) == b"x" * SECTOR
    assert (disk.reads, disk.writes) == (2, 2)


def test_a_torn_write_ends_early_once(disk: FaultyDisk) -> None:
    disk.tear_write(5, keep_bytes=700)
    write(disk, 4, b"a" * 4 * SECTOR)

    assert read(disk, 4, 4) == b"a" * 700 + bytes(4 * SECTOR - 700)
    write(disk, 4, b"b" * 4 * SECTOR)
    assert read(disk, 4, 4) == b"b" * 4 * SECTOR


def test_a_flush_waits_and_fails_as_told(disk: FaultyDisk) -> None:
    calls: list[str] = []
    disk.before_flush(lambda: calls.append("waited"))
    disk.flush()

    def fail() -> None:
        raise OSError(5, "no")

    disk.before_flush(fail)
    with pytest.raises(OSError, match="no"):
        disk.flush()
    assert calls == ["waited"]
    assert disk.flushes == 2


def test_the_driver_sees_an_io_error(disk: FaultyDisk) -> None:
    disk.fail_reads(range(1, 2))
    bench = Bench(Block(disk))
    header = bytes(8) + (1).to_bytes(8, "little")

    bench.drivers[0].add([header], [SECTOR, 1])
    bench.serve()
    wait_until(lambda: bench.loop.soon)
    bench.loop.advance()
    [used] = bench.drivers[0].collect()

    assert (used.length, used.data) == (0, b"\xa5" * SECTOR + b"\x01")


class TestGuestConfig:
    def test_disks_may_be_text(self) -> None:
        config = GuestConfig(disks=("a.img,ro",))

        assert config.opened_disks() == [DiskConfig("a.img", read_only=True)]

    def test_more_devices_than_places_are_refused(self) -> None:
        with pytest.raises(ConfigurationError, match=r"7 disks, shares, nets and dev.*room for 6"):
            GuestConfig(disks=("a",) * 7)

    def test_shares_may_be_text_and_are_checked(self) -> None:
        config = GuestConfig(shares=("src:/src,rw",))

        assert config.opened_shares() == [ShareConfig("src", "/src", writable=True)]
        with pytest.raises(ConfigurationError, match="different places"):
            GuestConfig(shares=("a:/src", "b:/src"))
        with pytest.raises(ConfigurationError, match="has its root already"):
            GuestConfig(shares=("/:/",))

    def test_what_boots_is_a_machine_with_agent_console_and_places(self) -> None:
        machine = GuestConfig(memory="64M", cmdline="panic=7").machine()

        assert machine.memory_bytes == 64 << 20
        assert (machine.console, machine.agent, machine.spare_slots) == ("virtio", "init", 6)
        assert machine.cmdline == "panic=7"
