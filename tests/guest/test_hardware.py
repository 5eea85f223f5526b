"""The devices of a machine have names, by which statistics and reports know them."""

from collections.abc import Callable
from dataclasses import replace

from virtio.entropy import Entropy
from vmm.config import MachineConfig
from vmm.machine import Machine

Configure = Callable[[bytes], MachineConfig]


class Sensor2(Entropy):
    pass


def test_devices_of_one_class_are_numbered(bare_metal: Configure) -> None:
    config = replace(bare_metal(b"\xf4"), rng=True, devices=(Sensor2, Entropy, Sensor2))
    with Machine(config) as machine:
        names = [one.name for one in machine.hardware.transports]

    assert names == ["entropy", "sensor20", "entropy0", "sensor21"]


def test_plugged_device_takes_the_next_number_of_its_class(bare_metal: Configure) -> None:
    config = replace(bare_metal(b"\xf4"), devices=(Sensor2,), spare_slots=2)
    with Machine(config) as machine:
        machine.plug(Sensor2)
        machine.plug(Sensor2)
        names = [one.name for one in machine.hardware.transports]

    assert names == ["sensor20", "sensor21", "sensor22"]
