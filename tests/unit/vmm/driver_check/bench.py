"""A device on either transport, whose doctor hears of all that a test's driver does.

The events are made as those of a guest are: by the taps, the recorder and the decoder of a trace.
"""

from __future__ import annotations

from threading import get_ident
from time import monotonic_ns
from types import SimpleNamespace
from typing import Any, cast

from transport import VirtioMmio
from transport.pci.bus import PciBus
from transport.pci.host_bridge import host_bridge
from transport.pci.registers import VirtioPci
from transport.pci.virtio_function import VirtioFunction
from transport.testing import MmioDriver, PciDriver, RecordingLine, RecordingMessages
from virtio.device.declaration import Device, feature, field, queue
from virtio.device.lifecycle import VirtioDevice
from virtio.testing import ManualLoop, PackedDriver, SplitDriver, flat_memory
from virtio.virtqueue.chain import DescriptorChain
from vmm.bus import Bus
from vmm.driver_check import Diagnosis, DriverDoctor
from vmm.hardware import Hardware
from vmm.trace.decoder import Decoder
from vmm.trace.events import NO_QUEUE, Access
from vmm.trace.recorder import Recorder
from vmm.trace.taps import DeviceNotes

VERSION_1 = 1 << 32
PACKED = 1 << 34
INDIRECT = 1 << 28
RING_RESET = 1 << 40

MMIO_BASE = 0xD000_0000
BAR_BASE = 0xC200_0000
ECAM_BASE = 0xB000_0000
SLOT = 3


class Gadget(Device):
    """A device with something of everything that a driver can get wrong."""

    device_id = 2

    LIMITS = feature(0)
    DOUBLE = feature(1, requires=(LIMITS,))
    ABSENT = feature(2, when=lambda _: False)

    limit = field("u32", 0, writable=True)
    size = field("u64", 8)
    name = field("bytes", 16, length=6)
    extra = field("u16", 24, feature=ABSENT)

    @queue(size=16)
    def requests(self, chain: DescriptorChain) -> int:
        """Answer with zeros."""
        return chain.write(bytes(chain.writable_length))


class Bench:
    """A device, a driver of its registers, and the doctor of both.

    ``driver`` is that of the transport's testing package, ``ring`` the driver's side of queue 0.
    """

    def __init__(
        self,
        kind: str,
        device: VirtioDevice | None = None,
        *,
        packed: bool = False,
        size: int = 16,
    ) -> None:
        self.kind = kind
        self.device = device or Gadget()
        if isinstance(self.device, Device):
            self.device.ring_features |= PACKED
        self.features = VERSION_1 | (PACKED if packed else 0)
        self.memory = flat_memory((0, 1 << 20))
        self.ring: Any = (PackedDriver if packed else SplitDriver)(self.memory, size)
        hardware: Any = SimpleNamespace(transports=[], slots=(), bar_address=lambda _: BAR_BASE)
        hardware.mmio, hardware.ports = Bus("mmio"), Bus("ports")
        self._hardware = hardware
        self.transport, self.driver = self._on_mmio() if kind == "mmio" else self._on_pci()
        hardware.transports.append(self.transport)
        self.recorder = Recorder(Decoder(cast(Hardware, hardware)))
        self.transport.watch(DeviceNotes(self.recorder, self.transport.name))
        self.doctor = DriverDoctor(hardware)

    def _on_mmio(self) -> tuple[VirtioMmio | VirtioPci, Any]:
        line, loop = RecordingLine(), ManualLoop()
        transport = VirtioMmio(self.device, self.memory, line, loop, name="gadget")
        self._hardware.mmio.add(MMIO_BASE, 0x1000, transport, "gadget")
        return transport, MmioDriver(cast(VirtioMmio, _NotedWindow(self, transport)))

    def _on_pci(self) -> tuple[VirtioMmio | VirtioPci, Any]:
        bus = PciBus([(0xC100_0000, 0x2DC0_0000)])
        bus.add(0, host_bridge())
        messages, line, loop = RecordingMessages(), RecordingLine(), ManualLoop()
        transport = VirtioPci(self.device, self.memory, messages, line, loop, name="gadget")
        unwatched: Any = SimpleNamespace(attach=lambda *_: None, detach=lambda *_: None)
        bus.add(SLOT, VirtioFunction(transport, unwatched))
        self._hardware.mmio.add(0xC100_0000, 0x2DC0_0000, bus, "PCI memory")
        self._hardware.mmio.add(ECAM_BASE, 1 << 20, bus, "PCI configuration")
        slot = SimpleNamespace(transport="pci", number=SLOT, device="gadget")
        self._hardware.slots = (slot,)
        self.recorder = Recorder(Decoder(cast(Hardware, self._hardware)))
        return transport, PciDriver(cast(PciBus, _NotedBus(self, bus)), SLOT)

    def note(self, begin: int, address: int, data: bytes, *, is_write: bool) -> None:
        """Note an access as the tap of a vCPU does."""
        shown = address, len(data), int.from_bytes(data, "little"), is_write
        self.recorder.note(begin, Access, get_ident(), "", NO_QUEUE, "mmio", 10, *shown)

    # What tests ask

    def found(self) -> list[str]:
        """Return the diagnoses until now."""
        self.doctor.feed(self.recorder.read(last=True))
        return [one.id for one in self.doctor.diagnoses]

    def stalls(self, *, stuck: bool = True) -> list[str]:
        """Return the diagnoses at the end of the run."""
        self.found()
        self.doctor.finish(monotonic_ns(), stuck=stuck)
        return [one.id for one in self.doctor.diagnoses]

    @property
    def last(self) -> Diagnosis:
        """The last diagnosis."""
        self.found()
        return self.doctor.diagnoses[-1]

    def kept(self) -> set[str]:
        """Return the duties that the driver was seen to keep."""
        self.found()
        return {duty for one in self.doctor.tallies for duty, count in one.kept.items() if count}

    # What a good driver does

    def find(self) -> None:
        """Find the device: on PCI it is switched on."""
        if isinstance(self.driver, PciDriver):
            self.driver.switch_on(BAR_BASE)
        else:
            for register in (0x000, 0x004, 0x008):
                self.driver.read(register)

    def reset(self) -> None:
        """Reset the device, and wait for that."""
        self.driver.status = 0
        assert self.driver.status == 0

    def introduce(self) -> None:
        """Find and reset the device, and set ACKNOWLEDGE and DRIVER."""
        self.find()
        self.reset()
        self.driver.status = 1
        self.driver.status = 3

    def negotiate(self, features: int = 0) -> None:
        """Go on to FEATURES_OK, and look whether it stayed."""
        self.introduce()
        self.driver.offered_features()
        self.driver.accept_features(self.features | features)
        self.driver.status = 0x0B
        assert self.driver.status & 8 == 8

    def go_live(self, features: int = 0) -> None:
        """Go on to DRIVER_OK, with queue 0."""
        self.negotiate(features)
        assert self.driver.set_up_queue(0, *self.ring.layout)
        self.driver.status = 0x0F

    def kick(self) -> None:
        """Notify queue 0, and have it served."""
        self.driver.notify(0)
        self.transport.service()

    def serve_bad_ring(self) -> None:
        """Serve a ring that a test spoiled."""
        self.kick()
        assert self.driver.status & 0x40

    def close(self) -> None:
        """Close the device."""
        self.transport.close()


class _NotedWindow:
    """The registers of a device on MMIO, each access noted."""

    def __init__(self, bench: Bench, transport: VirtioMmio) -> None:
        self._bench = bench
        self._transport = transport

    def read(self, offset: int, length: int) -> bytes:
        begin = monotonic_ns()
        data = self._transport.read(offset, length)
        self._bench.note(begin, MMIO_BASE + offset, data, is_write=False)
        return data

    def write(self, offset: int, data: bytes) -> None:
        begin = monotonic_ns()
        self._transport.write(offset, data)
        self._bench.note(begin, MMIO_BASE + offset, data, is_write=True)


class _NotedBus:
    """A PCI bus, each access noted: those to configuration space as if by its memory window."""

    def __init__(self, bench: Bench, bus: PciBus) -> None:
        self._bench = bench
        self._bus = bus

    def read(self, address: int, length: int) -> bytes:
        begin = monotonic_ns()
        data = self._bus.read(address, length)
        self._bench.note(begin, address, data, is_write=False)
        return data

    def write(self, address: int, data: bytes) -> None:
        begin = monotonic_ns()
        self._bus.write(address, data)
        self._bench.note(begin, address, data, is_write=True)

    def read_config(self, bus: int, slot: int, function: int, offset: int, length: int) -> bytes:
        begin = monotonic_ns()
        data = self._bus.read_config(bus, slot, function, offset, length)
        self._bench.note(begin, ECAM_BASE + (slot << 15) + offset, data, is_write=False)
        return data

    def write_config(self, bus: int, slot: int, function: int, offset: int, data: bytes) -> None:
        begin = monotonic_ns()
        self._bus.write_config(bus, slot, function, offset, data)
        self._bench.note(begin, ECAM_BASE + (slot << 15) + offset, data, is_write=True)
