"""What the guest writes is on the host's disk, byte for byte, and survives a reboot."""

import hashlib
import os
from pathlib import Path

import pytest

from tests.guest.shell import BOOT_DEADLINE, COMMAND_DEADLINE, Shell
from vmm.config import MachineConfig
from vmm.disk.disk import DiskConfig
from vmm.ending.ending import End

pytestmark = pytest.mark.timeout(1800)

MEBIBYTE = 1 << 20
PLACES = (0, 100, 249)  # in MiB; the last ones of 255 among them
SIZE = 6


def test_6_mebibytes_at_three_places_have_the_same_hash_across_a_reboot(tmp_path: Path) -> None:
    source, target = tmp_path / "source.img", tmp_path / "target.img"
    content = os.urandom(SIZE * MEBIBYTE)
    source.write_bytes(content)
    with open(target, "wb") as file:
        file.truncate(255 * MEBIBYTE)
    disks = (DiskConfig(str(source), read_only=True), DiskConfig(str(target)))
    config = MachineConfig(disks=disks)

    with Shell(config) as shell:
        for place in PLACES:
            shell.check(
                f"dd if=/dev/vda of=/dev/vdb bs=1M seek={place} iflag=direct oflag=direct"
                " conv=notrunc 2>/dev/null",
                COMMAND_DEADLINE,
            )
        shell.machine.console.send("reboot\n")
        ending = shell.machine.wait(COMMAND_DEADLINE)
    with Shell(config) as shell:
        hashes = [
            shell.check(
                f"dd if=/dev/vdb bs=1M skip={place} count={SIZE} iflag=direct 2>/dev/null"
                " | sha256sum",
                BOOT_DEADLINE,
            ).split()[0]
            for place in PLACES
        ]
        shell.power_off()

    assert ending.end is End.REBOOT
    expected = hashlib.sha256(content).hexdigest()
    assert hashes == [expected] * 3
    with open(target, "rb") as file:
        for place in PLACES:
            file.seek(place * MEBIBYTE)
            assert hashlib.sha256(file.read(SIZE * MEBIBYTE)).hexdigest() == expected
