"""The window of configuration space through which a driver reaches a function's structures."""

from collections.abc import Callable

import pytest

from tests.spec.conftest import PciRigMaker
from tests.spec.devices import EVERY_RING, DeviceCase, Gadget
from tests.spec.pci import PciRig
from tests.spec.rig import Form
from transport.testing import PciDriver

HELLO = ((b"hello",), (5,))
MASTER = 0x4
ISR, DEVICE = 3, 4


class WindowDriver(PciDriver):
    """Reaches every structure through the window alone."""

    def aim(self, offset: int, width: int, bar: int = 0) -> int:
        """Set the window up, and return where its data are."""
        window = self.structures[5].capability
        self.set_config(window + 4, bar, 1)
        self.set_config(window + 8, offset)
        self.set_config(window + 12, width)
        return window + 16

    def read_structure(self, kind: int, offset: int, width: int) -> int:
        data = self.aim(self.structures[kind].offset + offset, width)
        return self.config(data) & (1 << 8 * width) - 1

    def write_structure(self, kind: int, offset: int, value: int, width: int) -> None:
        self.set_config(self.aim(self.structures[kind].offset + offset, width), value)


def window_of(rig: PciRig) -> WindowDriver:
    """Return a driver of the rig's function that needs no memory space."""
    return WindowDriver(rig.bus, rig.slot)


@pytest.mark.spec("PCI-59")
def test_whole_device_can_be_driven_with_memory_space_off(
    device_case: DeviceCase, form: Form, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.pci.switch_on(0, MASTER)
    driver = window_of(rig)
    features = form.features
    assert driver.offered_features() == device_case.offer | EVERY_RING
    assert driver.negotiate(features)
    for index in range(driver.queue_count):
        driver.select(index)
        if driver.common(0x18, 2):
            assert driver.set_up_queue(index, *rig.add_ring(index, form=form).layout)
    driver.go_live()
    rig.serve()
    token = rig.rings[device_case.queue].add(*device_case.request)

    driver.notify(device_case.queue)
    rig.serve()

    assert [used.token for used in rig.rings[device_case.queue].collect()] == [token]
    assert (driver.isr & 1, driver.isr) == (1, 0)
    config = bytes(driver.read_structure(DEVICE, at, 1) for at in range(len(device_case.config)))
    assert len(config) == len(device_case.config)
    driver.status = 0
    assert driver.status == 0
    assert driver.common(0x14, 1) == 0


@pytest.mark.spec("PCI-59")
@pytest.mark.parametrize(("at", "width"), [(0, 1), (1, 1), (3, 1), (0, 2), (2, 2), (0, 4)])
def test_each_access_of_the_data_is_one_access_of_the_device(
    pci_gadget: PciRig, at: int, width: int
) -> None:
    pci_gadget.start()
    pci_gadget.request(0, HELLO)
    driver = window_of(pci_gadget)
    data = driver.aim(driver.structures[ISR].offset, 1)

    first = driver.config(data + at, width)
    again = driver.config(data + at, width)

    assert (first, again) == (1 if at == 0 else 0, 0)
    assert not pci_gadget.line.level


@pytest.mark.spec("PCI-59")
def test_data_beyond_the_length_are_not_used(pci_gadget: PciRig) -> None:
    driver = window_of(pci_gadget)
    driver.set_config(driver.aim(0x16, 2), 0xAABB_0001)

    assert pci_gadget.pci.common(0x16, 2) == 1
    assert pci_gadget.pci.common(0x18, 2) == 64


@pytest.mark.spec("PCI-60")
def test_one_byte_of_the_data_writes_the_whole_window_once(pci_gadget: PciRig) -> None:
    writes: list[tuple[int, bytes]] = []
    pci_gadget.window.write = (  # type: ignore[method-assign]
        lambda offset, data: writes.append((offset, data))
    )
    driver = window_of(pci_gadget)
    data = driver.aim(0x20, 4)
    driver.set_config(data, 0x4433_2211)

    driver.set_config(data + 1, 0x99, 1)
    driver.set_config(data + 2, 0x8877, 2)

    assert writes == [
        (0x20, b"\x11\x22\x33\x44"),
        (0x20, b"\x11\x99\x33\x44"),
        (0x20, b"\x11\x99\x77\x88"),
    ]


ASTRAY: list[tuple[str, Callable[[WindowDriver], int]]] = [
    ("bar-1", lambda driver: driver.aim(0x14, 1, bar=1)),
    ("bar-5", lambda driver: driver.aim(0x14, 1, bar=5)),
    ("bar-6", lambda driver: driver.aim(0x14, 1, bar=6)),
    ("bar-255", lambda driver: driver.aim(0x14, 1, bar=255)),
    ("length-0", lambda driver: driver.aim(0x14, 0)),
    ("length-3", lambda driver: driver.aim(0x14, 3)),
    ("length-8", lambda driver: driver.aim(0x20, 8)),
    ("length-2^31", lambda driver: driver.aim(0x14, 1 << 31)),
    ("misaligned", lambda driver: driver.aim(0x15, 2)),
    ("behind-common", lambda driver: driver.aim(0x40, 4)),
    ("across-isr", lambda driver: driver.aim(0x1000, 2)),
    ("table", lambda driver: driver.aim(0x4000, 4)),
    ("pending", lambda driver: driver.aim(0x6000, 4)),
    ("behind-the-bar", lambda driver: driver.aim(0x8000, 4)),
    ("far", lambda driver: driver.aim(0xFFFF_FFFC, 4)),
]


@pytest.mark.spec("PCI-60")
@pytest.mark.parametrize("aim", [one for _, one in ASTRAY], ids=[name for name, _ in ASTRAY])
def test_window_that_aims_at_nothing_reads_zero_and_drops_writes(
    pci_gadget: PciRig, aim: Callable[[WindowDriver], int]
) -> None:
    pci_gadget.start_with_msix()
    change = pci_gadget.device
    assert isinstance(change, Gadget)
    change.counter += 1
    driver = window_of(pci_gadget)
    state = pci_gadget.transport.state()
    data = aim(driver)

    reads = [driver.config(data), driver.config(data, 2), driver.config(data + 1, 1)]
    driver.set_config(data, 0xFFFF_FFFF)
    driver.set_config(data + 1, 0xFF, 1)

    assert reads == [0] * 3
    assert driver.config(data) == 0
    assert pci_gadget.transport.state() == state


@pytest.mark.spec("PCI-60")
def test_fields_of_the_window_are_kept(pci_gadget: PciRig) -> None:
    driver = window_of(pci_gadget)
    window = driver.structures[5].capability

    driver.aim(0x1234_5678, 0x9ABC_DEF0, bar=0x77)

    assert driver.config(window + 4, 1) == 0x77
    assert (driver.config(window + 8), driver.config(window + 12)) == (0x1234_5678, 0x9ABC_DEF0)
    assert (driver.config(window + 5, 1), driver.config(window + 6, 2)) == (0, 0)
