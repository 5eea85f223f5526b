"""The devices as the real Linux drivers see them, in one guest that these tests share."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest.shell import Shell
from vmm.config import MachineConfig
from vmm.disk.disk import DiskConfig
from vmm.ending.ending import End
from vmm.image import demo_disk

pytestmark = pytest.mark.timeout(1200)

MEBIBYTE = 1 << 20


@dataclass
class Guest:
    shell: Shell
    shrinking_disk: Path
    random_disk: Path


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    folder = tmp_path_factory.mktemp("disks")
    random_disk, shrinking = folder / "random.img", folder / "shrinking.img"
    random_disk.write_bytes(os.urandom(2 * MEBIBYTE))
    shrinking.write_bytes(b"\xa5" * (2 * MEBIBYTE + 100))
    config = MachineConfig(
        disks=(
            DiskConfig(str(demo_disk()), volatile=True, serial="demo-disk"),
            DiskConfig(str(random_disk), read_only=True, queues=2, block_size=4096),
            DiskConfig(str(shrinking)),
        )
    )
    with Shell(config) as shell:
        yield Guest(shell, shrinking, random_disk)
        assert shell.power_off().end is End.POWER_OFF


def test_hwrng_is_served_by_our_device(guest: Guest) -> None:
    driver = guest.shell.check("cat /sys/class/misc/hw_random/rng_current")

    assert driver == "virtio_rng.0"


def test_hwrng_gives_other_bytes_each_time(guest: Guest) -> None:
    read = "hexdump -n 16 -e '16/1 \"%02x\"' /dev/hwrng"
    first, second = guest.shell.check(read), guest.shell.check(read)

    assert len(first) == len(second) == 32
    assert first != second


def test_serial_port_is_a_16550a(guest: Guest) -> None:
    assert "is a 16550A" in guest.shell.check("dmesg | grep ttyS0")


def test_file_system_on_the_disk_is_mounted_read_and_written(guest: Guest) -> None:
    guest.shell.check("mount /dev/vda /mnt")
    readme = guest.shell.check("cat /mnt/README")
    guest.shell.check("echo hello > /mnt/file && umount /mnt && mount /dev/vda /mnt")
    written = guest.shell.check("cat /mnt/file; umount /mnt")

    assert readme.startswith("This is the demonstration disk")
    assert written == "hello"


def test_disk_has_the_serial_number_it_was_given(guest: Guest) -> None:
    assert guest.shell.check("cat /sys/block/vda/serial") == "demo-disk"


def test_read_only_disk_is_read_only_to_the_guest(guest: Guest) -> None:
    status, output = guest.shell.run("dd if=/dev/zero of=/dev/vdb bs=4096 count=1")

    assert guest.shell.check("cat /sys/block/vdb/ro") == "1"
    assert status != 0
    assert "Operation not permitted" in output or "Read-only" in output


def test_block_size_and_queues_reach_the_guest(guest: Guest) -> None:
    assert guest.shell.check("cat /sys/block/vdb/queue/logical_block_size") == "4096"
    assert guest.shell.check("cat /sys/block/vda/queue/logical_block_size") == "512"


def test_disk_is_used_up_to_its_last_whole_sector(guest: Guest) -> None:
    assert guest.shell.check("cat /sys/block/vdc/size") == str(2 * MEBIBYTE // 512)


def test_guest_reads_what_is_in_the_image(guest: Guest) -> None:
    output = guest.shell.check("dd if=/dev/vdb bs=64k iflag=direct 2>/dev/null | sha256sum")

    expected = hashlib.sha256(guest.random_disk.read_bytes()).hexdigest()
    assert output.split()[0] == expected


def test_discard_and_write_zeroes_reach_the_image(guest: Guest) -> None:
    guest.shell.check("blkdiscard -o 1048576 -l 65536 /dev/vda")
    zeroes = guest.shell.check(
        "dd if=/dev/vda bs=65536 skip=16 count=1 iflag=direct 2>/dev/null | sha256sum"
    )

    assert zeroes.split()[0] == hashlib.sha256(bytes(65536)).hexdigest()


def test_disk_that_shrinks_gives_io_errors_and_the_machine_lives(guest: Guest) -> None:
    os.truncate(guest.shrinking_disk, MEBIBYTE)
    status, output = guest.shell.run(
        "dd if=/dev/vdc of=/dev/null bs=64k skip=24 count=1 iflag=direct"
    )

    assert status != 0
    assert "I/O error" in output or "Input/output error" in output
    assert guest.shell.check("echo alive") == "alive"
    good = guest.shell.check("dd if=/dev/vdc bs=4096 count=1 iflag=direct 2>/dev/null | md5sum")
    assert good.split()[0] == hashlib.md5(b"\xa5" * 4096).hexdigest()


def test_each_request_is_one_kick_and_one_interrupt_at_most(guest: Guest) -> None:
    stats = guest.shell.machine.statistics.devices
    before = stats["block1"].completions
    guest.shell.check("dd if=/dev/vdb of=/dev/null bs=4096 count=50 iflag=direct 2>/dev/null")
    after = guest.shell.machine.statistics.devices["block1"]

    assert after.completions - before == 50
    assert after.kicks <= after.completions
    assert after.interrupts <= after.completions
