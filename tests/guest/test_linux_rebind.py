"""Drivers of a real guest come and go a hundred times: the devices work on, and nothing leaks."""

import hashlib
import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.guest.shell import Shell
from vmm.config import MachineConfig
from vmm.disk.disk import DiskConfig
from vmm.ending.ending import End

pytestmark = pytest.mark.timeout(3000)

WARM_UP, ROUNDS = 5, 100
DEADLINE = 2500.0
CONTENT = random.Random(2).randbytes(256 << 10)
READ_DISK = "dd if=/dev/vda bs=64k iflag=direct 2>/dev/null | sha256sum"
READ_HWRNG = "hexdump -n 16 -e '16/1 \"%02x\"' /dev/hwrng"


@dataclass(frozen=True)
class Held:
    """What this process holds of the host; not the guest's RAM, which is shared memory."""

    threads: int
    files: Counter[str]
    memory_kibibytes: int

    @classmethod
    def now(cls) -> "Held":
        threads = len(os.listdir("/proc/self/task"))
        return cls(threads, open_files(), private_kibibytes())


def open_files() -> Counter[str]:
    """Count the open descriptors by what they are, such as ``anon_inode:[eventfd]``."""
    paths = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    # The descriptor of the listing itself is closed by now.
    return Counter(os.readlink(path) for path in paths if os.path.exists(path))


def private_kibibytes() -> int:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1])


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    disk = tmp_path_factory.mktemp("disks") / "disk.img"
    disk.write_bytes(CONTENT)
    with Shell(MachineConfig(disks=(DiskConfig(str(disk), read_only=True),))) as shell:
        yield shell
        assert shell.power_off().end is End.POWER_OFF


def rebind(shell: Shell, driver: str, node: str, rounds: int) -> None:
    """Unbind and bind, with nothing but the shell itself."""
    shell.check(
        f"cd /sys/bus/virtio/drivers/{driver}; i=0; while [ $i -lt {rounds} ];"
        f" do echo {node} > unbind && echo {node} > bind || break; i=$((i+1)); done;"
        f" cd /; [ $i = {rounds} ]",
        DEADLINE,
    )


@pytest.mark.usefixtures("nothing_to_collect")
@pytest.mark.parametrize(("driver", "index"), [("virtio_blk", 0), ("virtio_rng", 1)])
def test_driver_unbound_and_bound_a_hundred_times_leaks_nothing_and_works(
    shell: Shell, driver: str, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = shell.machine.hardware.transports[index].device
    rebind(shell, driver, f"virtio{index}", WARM_UP)
    reset, activate = Mock(wraps=device.reset), Mock(wraps=device.activate)
    monkeypatch.setattr(device, "reset", reset)
    monkeypatch.setattr(device, "activate", activate)
    before = Held.now()

    rebind(shell, driver, f"virtio{index}", ROUNDS)

    after = Held.now()
    assert (reset.call_count, activate.call_count) == (ROUNDS, ROUNDS)
    assert (after.threads, after.files) == (before.threads, before.files)
    assert after.memory_kibibytes - before.memory_kibibytes < 1024
    disk, random_bytes = shell.check(READ_DISK), shell.check(READ_HWRNG)
    assert disk.split()[0] == hashlib.sha256(CONTENT).hexdigest()
    assert re.fullmatch("(?!0{32})[0-9a-f]{32}", random_bytes)
