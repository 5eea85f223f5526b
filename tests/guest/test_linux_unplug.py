"""A Linux guest whose disks come and go while it reads them, on either transport."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmm.config import MachineConfig, Transport
from vmm.disk.disk import DiskConfig
from vmm.machine import Machine

pytestmark = pytest.mark.timeout(1800)

BOOT_DEADLINE, DEADLINE = 900.0, 300.0
OTHER: dict[Transport, Transport] = {"mmio": "pci", "pci": "mmio"}
READ_FOR_EVER = "while dd if=/dev/vda of=/dev/null bs=64k iflag=direct 2>&1; do :; done"
HASH = "dd if=/dev/vda bs=64k iflag=direct 2>/dev/null | sha256sum"


@pytest.fixture(params=["mmio", "pci"], scope="module")
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    transport: Transport = request.param
    config = MachineConfig(
        agent="init", spare_slots=1, transport=transport, rng_transport=OTHER[transport]
    )
    with Machine(config) as machine:
        machine.boot()
        machine.agent.wait_ready(BOOT_DEADLINE)
        yield machine


def make_disk(path: Path, seed: int) -> DiskConfig:
    path.write_bytes(random.Random(seed).randbytes(1 << 20))
    return DiskConfig(str(path))


def disk_hash(machine: Machine) -> str:
    output = machine.agent.run(["sh", "-c", HASH], timeout=DEADLINE, check=True).stdout
    return str(output).split()[0]


def content_hash(disk: DiskConfig) -> str:
    return hashlib.sha256(Path(disk.path).read_bytes()).hexdigest()


def test_disk_is_unplugged_while_it_is_read_and_another_takes_its_slot(
    machine: Machine, tmp_path: Path
) -> None:
    first, second = make_disk(tmp_path / "first.img", 1), make_disk(tmp_path / "second.img", 2)
    machine.plug(first)
    transport = machine.hardware.transports[-1]
    with machine.agent.start(["sh", "-c", READ_FOR_EVER], timeout=DEADLINE) as reader:
        next(iter(reader))  # what dd tells of its first turn
        machine.unplug("block0")
        reader.communicate()

    assert not transport.status
    assert machine.agent.run(["test", "-e", "/dev/vda"], timeout=DEADLINE).returncode == 1
    machine.plug(second)
    assert disk_hash(machine) == content_hash(second)

    with machine.snapshot() as snapshot, Machine.restore(snapshot) as clone:
        clone.resume()
        restored = disk_hash(clone)
        clone.unplug("block0")
        clone.plug(first)
        replaced = disk_hash(clone)
    machine.unplug("block0")

    assert (restored, replaced) == (content_hash(second), content_hash(first))
    assert machine.ending is None


def test_device_on_the_other_transport_works_beside_them(machine: Machine) -> None:
    result = machine.agent.run(["head", "-c", "16", "/dev/hwrng"], timeout=DEADLINE, text=False)

    assert len(result.stdout) == 16
    assert [one.name for one in machine.hardware.transports][:2] == ["entropy", "console"]
    assert machine.hardware.transports[0].stats.bytes_written >= 16


def test_drivers_of_linux_break_no_rule_from_the_first_look_to_the_last(
    machine: Machine, tmp_path: Path
) -> None:
    disk = make_disk(tmp_path / "disk.img", 3)
    doctor = machine.explain()
    try:
        machine.plug(disk)
        assert disk_hash(machine) == content_hash(disk)
        machine.unplug("block0")
        table = doctor.finish(stuck=False)
    finally:
        machine.stop_trace()

    assert table.diagnoses == []
    assert table.broken == []
    kept = {row.duty.id for row in table.rows if row.verdict == "kept"}
    assert {f"DRV-INI-0{number}" for number in range(2, 9)} <= kept
    assert {"DRV-FEA-01", "DRV-QUE-05", "DRV-RNG-05", "DRV-NTF-01", "DRV-RNG-12"} <= kept
