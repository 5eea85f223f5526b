"""A saved machine that never ran, and all of its restoring that needs no KVM."""

import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transport import VirtioMmio
from transport.testing import MmioDriver, RecordingLine
from virtio.block import Block, BlockBackend
from virtio.console import Console, ConsolePort
from virtio.device.lifecycle import VirtioDevice
from virtio.entropy import Entropy
from virtio.errors import HostError
from virtio.memory import FlatMemory
from virtio.testing import ManualLoop, SplitDriver
from vmm.config import MachineConfig
from vmm.disk.disk import DiskConfig
from vmm.disk.overlay import BaseDisk
from vmm.legacy.i8042 import I8042
from vmm.legacy.serial import Serial16550A
from vmm.memory import GuestRam
from vmm.slots import Slot, Slots
from vmm.snapshot.disks import continue_disks
from vmm.snapshot.snapshot import Snapshot
from vmm.snapshot.state import MachineState, check_machine_state
from vmm.x86 import PlatformState
from vmm.x86.acpi.registers import AcpiRegisters, AcpiState
from vmm.x86.chip_state import ChipState, restore_chips
from vmm.x86.vcpu_state import VcpuState, restore_vcpu

MEMORY_BYTES = 4 << 20
DISK_BYTES = 64 << 10
NOBODY: Any = SimpleNamespace(fd=-1)

VCPU = VcpuState(
    cpuid=bytes(40),
    mp_state=0,
    regs=bytes(144),
    sregs=bytes(312),
    xsave=bytes(4096),
    xcrs=bytes(392),
    debug_registers=bytes(128),
    lapic=bytes(1024),
    msrs=bytes(16),
    events=bytes(64),
    tsc_khz=2_000_000,
)
CHIPS = ChipState((bytes(520), b"\1" + bytes(519), b"\2" + bytes(519)), bytes(112), 1)


def take_snapshot(*disks: DiskConfig) -> Snapshot:
    """Return a saved machine with these disks, whose drivers use each device."""
    config = MachineConfig(memory_bytes=MEMORY_BYTES, disks=disks, console="virtio", poll_us=0)
    memory = os.memfd_create("synthetic-ram", os.MFD_CLOEXEC)
    os.ftruncate(memory, MEMORY_BYTES)
    with ExitStack() as stack:
        backends: list[BaseDisk] = [one.open() for one in disks]
        for opened in backends:
            stack.enter_context(opened)
        frozen = []
        for backend, one in zip(backends, disks, strict=True):
            if not one.read_only:
                backend.writev([memoryview(b"written").cast("B")], 5000)
            frozen.append(backend.frozen())
        content = bytearray(MEMORY_BYTES)
        ram = FlatMemory([(0, memoryview(content))])
        states = []
        for device in _devices(config, backends):
            with VirtioMmio(device, ram, RecordingLine(), ManualLoop()) as transport:
                ring = SplitDriver(ram, 8)
                MmioDriver(transport).start(ring)
                ring.add([b"x" * 16], [64])
                queue = transport.queues[0].queue
                assert queue is not None
                queue.pop()  # it is out when the machine is saved
                states.append(transport.state())
        os.pwrite(memory, content, 0)
    serial = Serial16550A(RecordingLine(), bytes)
    keyboard = I8042(RecordingLine(), bytes)
    platform = PlatformState(CHIPS, serial.state(), keyboard.state(), None, AcpiState(events=1))
    slots = (*(Slot("mmio", number, f"d{number}") for number in range(len(states))), Slot("pci", 1))
    state = MachineState((VCPU,), platform, tuple(states), slots)
    return Snapshot(config, state, memory, tuple(frozen))


def restore(snapshot: Snapshot) -> None:
    """Rebuild all of a machine that needs no KVM, let its devices work, and describe them."""
    config, state = snapshot.config, snapshot.state
    with ExitStack() as stack:
        ram = stack.enter_context(GuestRam([(0, config.memory_bytes)], snapshot.memory))
        backends = continue_disks(config, snapshot.disks)
        for one in backends:
            stack.enter_context(one)
        devices = _devices(config, backends)
        Slots.saved(state.slots, devices=len(devices))
        check_machine_state(state, cpus=config.cpus, transports=len(devices))
        for vcpu in state.vcpus:
            with suppress(HostError):  # of a file descriptor that is none: KVM was reached
                restore_vcpu(NOBODY, vcpu)
        with suppress(HostError):
            restore_chips(NOBODY, state.platform.chips)
        Serial16550A(RecordingLine(), bytes).restore(state.platform.serial)
        I8042(RecordingLine(), bytes).restore(state.platform.i8042)
        if state.platform.acpi is not None:
            AcpiRegisters(RecordingLine(), bytes, bytes).restore(state.platform.acpi)
        for device, saved in zip(devices, state.transports, strict=True):
            transport = VirtioMmio(device, ram, RecordingLine(), ManualLoop())
            stack.enter_context(transport)
            transport.restore(saved)
            transport.service()
            transport.describe()


def _devices(config: MachineConfig, disks: Sequence[BlockBackend]) -> list[VirtioDevice]:
    devices: list[VirtioDevice] = [
        Block(backend, serial=one.serial, block_size=one.block_size, queues=one.queues)
        for backend, one in zip(disks, config.disks, strict=True)
    ]
    if config.rng:
        devices.append(Entropy())
    ports = [ConsolePort(name) for name in config.ports]
    if config.console == "virtio":
        ports = [ConsolePort(console=True), *ports]
    return [*devices, Console(ports)] if ports else devices


def make_image(path: Path, size_bytes: int = DISK_BYTES) -> Path:
    """Write a disk image."""
    path.write_bytes(bytes(range(256)) * (size_bytes // 256))
    return path
