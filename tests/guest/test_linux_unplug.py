"""A Linux guest whose disks come and go while it reads them, on either transport."""

import hashlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from transport.core import VirtioTransport
from vmm.authoring.device_file import loaded_device
from vmm.authoring.reloading import Reloader
from vmm.config import MachineConfig, Transport
from vmm.disk.disk import DiskConfig
from vmm.machine import Machine

pytestmark = pytest.mark.timeout(1800)

BOOT_DEADLINE, DEADLINE = 900.0, 300.0
OTHER: dict[Transport, Transport] = {"mmio": "pci", "pci": "mmio"}
READ_FOR_EVER = "while dd if=/dev/vda of=/dev/null bs=64k iflag=direct 2>&1; do :; done"
HASH = "dd if=/dev/vda bs=64k iflag=direct 2>/dev/null | sha256sum"

LETTERS = """
from struct import Struct
from virtio import Device, field, queue

class Letters(Device):
    device_id = 2
    capacity = field("u64", 0, default=2048)

    @queue(size=128, header=Struct("<IIQ"))
    def requestq(self, request):
        for view in request.data_in:
            view[:] = b"x" * len(view)
        return request.finish(0, request.data_in_bytes)
"""
LOOK = "head -c 3 /dev/vda; cat /sys/block/vda/size"


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


def look(machine: Machine) -> str:
    return str(machine.agent.run(["sh", "-c", LOOK], timeout=DEADLINE).stdout).strip()


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


def test_device_of_a_file_is_probed_anew_and_a_failed_one_is_mended_under_its_driver(
    machine: Machine, tmp_path: Path
) -> None:
    file, said = tmp_path / "letters.py", list[str]()
    file.write_text(LETTERS)
    machine.plug(loaded_device(f"{file}:Letters"))
    name = machine.hardware.transports[-1].name
    reloader = Reloader(machine, said.append)
    first = look(machine)

    file.write_text(LETTERS.replace("x", "y").replace("2048", "4096"))
    reloader.reload(name)
    second = look(machine)
    failed = threading.Event()

    def hear(transport: VirtioTransport, error: Exception) -> bool:
        failed.set()
        return True

    machine.hardware.keep_failed(hear)
    file.write_text(LETTERS.replace('b"x"', "1 / 0 * b''").replace("2048", "4096"))
    reloader.reload(name)
    assert failed.wait(DEADLINE)  # and Linux waits for the partitions
    file.write_text(LETTERS.replace("x", "z").replace("2048", "4096"))
    reloader.reload(name)
    third = look(machine)
    machine.hardware.keep_failed(None)
    machine.unplug(name)

    assert (first, second, third) == ("xxx2048", "yyy4096", "zzz4096")
    assert "probed anew, and failed already" in said[1]
    assert "with the chain at which it failed" in said[2]
    assert machine.ending is None
