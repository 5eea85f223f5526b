"""What all groups of the conformance list share: the forms of a queue, the devices, the rig."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.spec.devices import CASES, DeviceCase, Gadget
from tests.spec.net import RIGS, NetRig, Wire
from tests.spec.pci import PciRig
from tests.spec.rig import PACKED, SPLIT, Form, Rig
from tests.unhurried import unhurried as unhurried
from transport.line import InterruptLine
from transport.pci.bus import PciBus
from virtio.device.lifecycle import VirtioDevice
from virtio.memory import FlatMemory


@pytest.fixture(params=[SPLIT, PACKED], ids=lambda form: form.name)
def form(request: pytest.FixtureRequest) -> Form:
    """A form of the virtqueue."""
    value: Form = request.param
    return value


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def device_case(request: pytest.FixtureRequest) -> DeviceCase:
    """A device, with what is to be expected of it."""
    value: DeviceCase = request.param
    return value


RigMaker = Callable[..., Rig]


ON_BOTH_TRANSPORTS = {
    *("test_com_config", "test_com_features", "test_com_reset", "test_com_status"),
    *("test_rng", "test_fs"),
    *("test_net_config", "test_net_control", "test_net_receive", "test_net_transmit"),
}
"""Modules of tests that are run on virtio-pci as well, in the words of virtio-mmio."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of those modules once for each transport."""
    module = metafunc.module.__name__.rpartition(".")[2]
    if "rig_class" in metafunc.fixturenames and module in ON_BOTH_TRANSPORTS:
        metafunc.parametrize("rig_class", [Rig, PciRig], ids=["mmio", "pci"], indirect=True)


@pytest.fixture
def rig_class(request: pytest.FixtureRequest) -> type[Rig]:
    """What puts a device on its transport: virtio-mmio, unless the test runs on both."""
    value: type[Rig] = getattr(request, "param", Rig)
    return value


@pytest.fixture
def make_rig(rig_class: type[Rig]) -> Iterator[RigMaker]:
    """A function that puts a device on its transport, which is closed after the test."""
    rigs: list[Rig] = []

    def make(device: VirtioDevice, memory: FlatMemory | None = None) -> Rig:
        rigs.append(rig_class(device, memory))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def make_net(form: Form, rig_class: type[Rig]) -> Iterator[Callable[..., NetRig]]:
    """A function that makes a live network card, which is closed after the test."""
    rigs: list[NetRig] = []

    def make(wire: Wire | None = None, **options: Any) -> NetRig:
        rigs.append(RIGS[rig_class](wire, form=form, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


PciRigMaker = Callable[..., PciRig]


@pytest.fixture
def make_pci_rig() -> Iterator[PciRigMaker]:
    """A function that puts a device into a slot of a PCI bus; it is closed after the test."""
    rigs: list[PciRig] = []

    def make(
        device: VirtioDevice,
        memory: FlatMemory | None = None,
        bus: PciBus | None = None,
        line: InterruptLine | None = None,
    ) -> PciRig:
        rigs.append(PciRig(device, memory, bus, line))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def pci_gadget(make_pci_rig: PciRigMaker) -> PciRig:
    """The device that has one of everything, on PCI, not yet initialized."""
    return make_pci_rig(Gadget())


@pytest.fixture
def gadget(make_rig: RigMaker) -> Rig:
    """The device that has one of everything, not yet initialized."""
    return make_rig(Gadget())


@pytest.fixture
def rapid_switching() -> Iterator[None]:
    """Threads take turns every few microseconds, so that races which are possible happen."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)
