"""What the parts of a PCI function refuse when a machine is put together."""

import pytest

from transport.pci.access import ConfigurationPorts
from transport.pci.bar import MemoryBar
from transport.pci.bus import PciBus
from transport.pci.configuration import ConfigurationSpace, Identity
from transport.pci.host_bridge import host_bridge
from transport.pci.registers import VirtioPci
from transport.testing import RecordingLine, RecordingMessages
from virtio.block import Block
from virtio.errors import ConfigurationError
from virtio.testing import ManualLoop, flat_memory


def space() -> ConfigurationSpace:
    return ConfigurationSpace(Identity(0x1234, 0x5678, 0x020000))


@pytest.mark.parametrize("size", [0, 8, 24, 0x7FFF])
def test_impossible_bar_is_refused(size: int) -> None:
    with pytest.raises(ConfigurationError, match=f"BAR 0 of {size} bytes: must be a power of two"):
        MemoryBar(space(), 0, size)


def test_capabilities_that_do_not_fit_are_refused() -> None:
    full = space()
    for _ in range(12):
        full.add_capability(0x09, bytes(14))

    with pytest.raises(ConfigurationError, match="capability 0x9: no room is left"):
        full.add_capability(0x09, bytes(14))


def test_full_bus_has_no_free_slot() -> None:
    bus = PciBus([])
    for slot in range(32):
        bus.add(slot, host_bridge())

    with pytest.raises(ConfigurationError, match="all 32 PCI slots are taken"):
        bus.free_slot()


def test_saved_contents_change_only_what_a_guest_may_write() -> None:
    restored, written = space(), space()

    restored.restore(b"\xff" * 256)
    written.write(0, b"\xff" * 256)

    assert restored.contents == written.contents
    assert restored.read(0, 4) == bytes.fromhex("34127856")


@pytest.mark.parametrize("address", [-1, 1, 0x4000_0000, 1 << 32])
def test_impossible_address_of_the_ports_is_refused(address: int) -> None:
    with pytest.raises(ConfigurationError, match="saved PCI address"):
        ConfigurationPorts(PciBus([])).restore(address)


def test_device_with_too_many_queues_is_refused() -> None:
    class Vast(Block):
        @property
        def queue_max_sizes(self) -> tuple[int, ...]:
            return (16,) * 512

    memory, messages, line = flat_memory(), RecordingMessages(), RecordingLine()
    with pytest.raises(ConfigurationError, match=r"disk: has 512 queues; on PCI .* at most 511"):
        VirtioPci(Vast.__new__(Vast), memory, messages, line, ManualLoop(), name="disk")
