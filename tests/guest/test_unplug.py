"""Devices come into a running machine and leave it, on either transport, and their slots go on."""

import os
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.guest.bare_metal import SPIN, load32, say, store32
from tests.guest.test_pci import configure, store8
from tests.perf.peers.guest import bench_kernel, has_bench_kernel, write_image
from tests.spec.threads import wait_until
from virtio import Device
from virtio.block import Block
from virtio.entropy import Entropy
from virtio.errors import ConfigurationError
from vmm.config import DeviceConfig, MachineConfig, Transport
from vmm.disk.disk import DiskConfig
from vmm.disk.raw import RawDisk
from vmm.image.progress import silent
from vmm.machine import Machine
from vmm.snapshot import Snapshot

BareMetal = Callable[[bytes], MachineConfig]

DEADLINE = 120.0
IMAGE_BYTES = 8 << 20
WINDOW, ECAM, DEVICE_ID = 0xC000_1000, 0xEEC0_0000, 8
BLOCK, ENTROPY, NOBODY = 2, 4, {"mmio": 0, "pci": 0xFFFF - 0x1040}

both_transports = pytest.mark.parametrize("transport", ["mmio", "pci"])


class Inert(Device):
    device_id = 4


def device_id(machine: Machine, transport: Transport, index: int = 0) -> int:
    """Return the virtio type that a guest reads in the ``index``-th slot of a transport."""
    if transport == "mmio":
        data = machine.hardware.mmio.read(WINDOW + 0x1000 * index + DEVICE_ID, 4)
        return int.from_bytes(data, "little")
    data = machine.hardware.mmio.read(ECAM + ((index + 1) << 15) + 2, 2)
    return int.from_bytes(data, "little") - 0x1040


def running(bare_metal: BareMetal, **more: object) -> Machine:
    """Return a machine, to be entered, whose guest does nothing for ever."""
    return Machine(replace(bare_metal(say("up\n") + SPIN), **more))  # type: ignore[arg-type]


def open_files() -> Counter[str]:
    paths = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return Counter(os.readlink(path) for path in paths if os.path.exists(path))


@both_transports
def test_slot_takes_one_device_after_another(bare_metal: BareMetal, transport: Transport) -> None:
    with running(bare_metal, transport=transport, spare_slots=1) as machine:
        machine.boot()
        seen = [device_id(machine, transport)]
        for _ in range(3):
            device = machine.plug(Entropy)
            seen.append(device_id(machine, transport))
            machine.unplug(device)
            seen.append(device_id(machine, transport))

        assert seen == [NOBODY[transport], *(ENTROPY, NOBODY[transport]) * 3]
        assert machine.hardware.transports == []


@both_transports
def test_device_of_the_configuration_makes_room_for_another(
    bare_metal: BareMetal, transport: Transport
) -> None:
    with running(bare_metal, transport=transport, rng=True) as machine:
        machine.boot()
        with pytest.raises(ConfigurationError, match=f"none of the 1 {transport} slots .* free"):
            machine.plug(Inert)
        machine.unplug("entropy")
        machine.plug(Inert)

        assert [one.name for one in machine.hardware.transports] == ["inert0"]
        assert device_id(machine, transport) == ENTROPY


def test_machine_with_both_transports_has_spare_slots_on_each(bare_metal: BareMetal) -> None:
    on_pci = DeviceConfig(Entropy, "pci")
    with running(bare_metal, devices=(on_pci,), spare_slots=1) as machine:
        machine.boot()
        with pytest.raises(ConfigurationError, match="none of the 1 pci slots"):
            machine.plug(on_pci)
        machine.unplug("entropy0")
        machine.plug(Inert)
        machine.plug(on_pci)

        assert [device_id(machine, "mmio"), device_id(machine, "pci")] == [ENTROPY, ENTROPY]
        assert [one.name for one in machine.hardware.transports] == ["inert0", "entropy0"]


@pytest.mark.usefixtures("nothing_to_collect")
@both_transports
def test_plugging_and_unplugging_leaves_nothing_behind(
    bare_metal: BareMetal, transport: Transport, tmp_path: Path
) -> None:
    write_image(tmp_path / "disk.img", IMAGE_BYTES)
    disk = DiskConfig(str(tmp_path / "disk.img"))
    with running(bare_metal, transport=transport, spare_slots=2) as machine:
        machine.boot()
        before = (open_files(), threading.active_count())
        for _ in range(20):
            machine.plug(disk)
            machine.plug(Entropy)
            machine.unplug("block0")
            machine.unplug("entropy0")

        assert (open_files(), threading.active_count()) == before


def hammering(transport: Transport) -> bytes:
    """Return code that resets, starts and notifies the device of the first slot, for ever."""
    if transport == "mmio":
        steps = b"".join(
            store32(WINDOW + register, value)
            for register, value in (
                (0x70, 0),
                (0x70, 1),
                (0x70, 3),
                (0x50, 9),
                (0x44, 1),
                (0x30, 0),
            )
        )
        return steps + load32(WINDOW + 0x70)
    slot, place = 1 << 11, 0xD000_0000
    settings = ((0x04, 0), (0x10, place), (0x14, 0), (0x04, 6))
    steps = b"".join(configure(slot, register, value) for register, value in settings)
    stores = ((0x14, 0), (0x14, 1), (0x14, 3), (0x3000, 0), (0x4000, 0xFEE0_0000), (0x400C, 0))
    return steps + b"".join(store8(place + at, value & 0xFF) for at, value in stores)


@both_transports
def test_guest_that_is_at_the_registers_all_the_time_disturbs_nobody(
    bare_metal: BareMetal, transport: Transport
) -> None:
    code = hammering(transport)
    code = say("up\n") + code + b"\xe9" + struct.pack("<i", -len(code) - 5)  # jmp to the begin
    config = replace(bare_metal(code), transport=transport, spare_slots=1, cpus=1)
    with Machine(config) as machine:
        machine.boot()
        machine.console.wait_for("up\n", timeout=DEADLINE)
        for _ in range(30):
            machine.plug(Entropy)
            wait_until(lambda: any(one.status for one in machine.hardware.transports))
            machine.unplug("entropy0")

        assert machine.ending is None
        assert device_id(machine, transport) == NOBODY[transport]


# What cannot be


def test_what_is_not_plugged_in_cannot_be_unplugged(bare_metal: BareMetal) -> None:
    with running(bare_metal, rng=True, spare_slots=1) as machine:
        machine.boot()
        device = machine.plug(Inert)
        machine.unplug(device)

        for gone, name in ((device, "Inert"), ("inert0", "inert0"), (Entropy(), "Entropy")):
            with pytest.raises(ConfigurationError, match=f"^{name}: .*not any more; there are: en"):
                machine.unplug(gone)


def test_console_of_the_machine_cannot_be_unplugged(bare_metal: BareMetal) -> None:
    with running(bare_metal, console="virtio", ports=("log",)) as machine:
        machine.boot()

        with pytest.raises(ConfigurationError, match="in use by the machine itself, for hvc0, log"):
            machine.unplug("console")


def test_device_that_is_in_a_slot_gets_no_other(bare_metal: BareMetal) -> None:
    with running(bare_metal, spare_slots=2) as machine:
        machine.boot()
        device = machine.plug(Inert)

        with pytest.raises(ConfigurationError, match="inert0: is in a slot already"):
            machine.plug(lambda: device)
        machine.unplug(device)
        assert machine.plug(lambda: device) is device


@both_transports
def test_plug_that_fails_leaves_its_slot_spare(bare_metal: BareMetal, transport: Transport) -> None:
    with running(bare_metal, transport=transport, spare_slots=1) as machine:
        machine.boot()
        before = open_files()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vmm.host.io_thread.IoThread.start", lambda _: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                machine.plug(Inert)

        assert device_id(machine, transport) == NOBODY[transport]
        assert open_files() == before
        machine.plug(Inert)
        assert device_id(machine, transport) == ENTROPY


# Saved


@both_transports
def test_what_was_plugged_and_unplugged_is_saved(
    bare_metal: BareMetal, transport: Transport, tmp_path: Path
) -> None:
    """The first of three slots is empty; a disk and a device of a maker are in the others."""
    for name in ("first.img", "second.img"):
        write_image(tmp_path / name, IMAGE_BYTES)
    first, second = (DiskConfig(str(tmp_path / name)) for name in ("first.img", "second.img"))
    with running(bare_metal, transport=transport, disks=(first,), spare_slots=2) as machine:
        machine.boot()
        machine.plug(Inert)
        machine.plug(second)
        machine.unplug("block0")
        with machine.snapshot() as taken:
            taken.save(tmp_path / "saved")
    with (
        Snapshot.load(tmp_path / "saved", devices=(Inert,)) as loaded,
        Machine.restore(loaded) as clone,
    ):
        clone.resume()
        restored = [device_id(clone, transport, index) for index in range(3)]
        names = {one.name: one.device.device_id for one in clone.hardware.transports}
        clone.plug(Inert)
        again = device_id(clone, transport)
        with pytest.raises(ConfigurationError, match=f"none of the 3 {transport} slots"):
            clone.plug(Inert)
        clone.unplug("inert0")
        with clone.snapshot() as later:
            slots = later.state.slots

    assert restored == [NOBODY[transport], ENTROPY, BLOCK]
    assert names == {"block1": BLOCK, "inert0": ENTROPY}
    assert again == ENTROPY
    assert [device for _, _, device in slots] == ["block1", "inert1", ""]


# With I/O under way


@both_transports
@pytest.mark.skipif(not has_bench_kernel(), reason="needs gcc")
def test_disk_torn_out_of_a_reading_guest_makes_room_for_another(
    tmp_path: Path, transport: Transport
) -> None:
    write_image(tmp_path / "disk.img", IMAGE_BYTES)
    disk = DiskConfig(str(tmp_path / "disk.img"))
    words = "bench=blk-read,bytes=131072,depth=16,count=100000000"
    config = MachineConfig(
        kernel=bench_kernel(silent),
        memory_bytes=64 << 20,
        default_cmdline=False,
        cmdline=words if transport == "mmio" else f"bus=pci {words}",
        transport=transport,
        disks=(disk,),
        rng=False,
    )
    with Machine(config) as machine:
        machine.boot()
        torn = machine.hardware.transports[0]
        wait_until(lambda: torn.stats.completions > 100)

        machine.unplug("block0")

        completed = torn.stats.completions
        with RawDisk.open(disk.path):  # nobody has its lock any more
            assert device_id(machine, transport) == NOBODY[transport]
        block = machine.plug(disk)
        assert isinstance(block, Block)
        assert device_id(machine, transport) == BLOCK
        assert machine.ending is None
        assert torn.stats.completions == completed
