"""The configuration of a machine: plain values, checked when they are made."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, Self, get_args

from virtio.dataclass import dataclass, field
from virtio.device.lifecycle import VirtioDevice
from virtio.errors import ConfigurationError
from vmm.disk.disk import DiskConfig
from vmm.ending.ending import OnPanic
from vmm.host.size import parse_size as parse_size
from vmm.kernel_choice import Kernel, check_kernel, is_stock
from vmm.net.config import NetConfig
from vmm.sandbox.mode import SandboxMode, check_mode
from vmm.share.config import ShareConfig, check_shares
from vmm.slots import Transport as Transport
from vmm.slots import check_transport
from vmm.topology import CpuTopology, check_topology
from vmm.x86 import BootProtocol, check_cpus, check_memory, check_vcpu_ids

ConsoleKind = Literal["serial", "virtio"]
AgentRole = Literal["none", "init", "beside"]
IoThreads = Literal["shared", "disks", "devices"]

MAX_POLL_US: Final = 1000
DEFAULT_POLL_US: Final = 50


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """A maker of devices, for ``devices`` or :meth:`Machine.plug`, and where each of them is to be.

    >>> from virtio.entropy import Entropy
    >>> DeviceConfig(Entropy, transport="pci")().device_id
    4
    """

    make: Callable[[], VirtioDevice]
    transport: Transport | None = None

    def __post_init__(self) -> None:
        check_transport("device", self.transport)

    def __call__(self) -> VirtioDevice:
        """Make a device."""
        return self.make()


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """A machine: how it boots, its memory and processors, its devices.

    >>> MachineConfig(memory_bytes=parse_size("256M"), cpus=2).memory_bytes
    268435456
    >>> MachineConfig(cpus=300)
    Traceback (most recent call last):
    virtio.errors.ConfigurationError: 300 processors: must be 1 to 254

    * ``kernel``: a file, ELF ``vmlinux`` or ``bzImage``, or a kernel other than Linux, see
      ``docs/own-kernel.md``; a folder, such as a kernel's build tree; a name: ``host`` for the
      kernel that runs here, ``debian``, ``debian:6.12`` or ``debian:6.12-generic`` for a package of
      Debian's; None for the default guest's kernel.
    * ``debug_kernel``: take the default guest's kernel that debuggers understand: with symbols
      beside it, and VMCOREINFO in its memory.
    * ``initrd``: a file, or its contents; None for the default guest's, or for none when ``kernel``
      is a file. Modules of a folder's or a named kernel go before it.
    * ``cmdline``: added to the kernel command line, after the defaults unless ``default_cmdline``
      is off.
    * ``init_arguments``: for the guest's init. The default guest's runs them as a command, and
      reports its exit status; to another guest's they go as words of the command line.
    * ``boot``: ``"auto"`` takes PVH when the kernel offers it, else what its Multiboot header
      says, else its 64-bit entry.
    * ``acpi``: whether a kernel of the user's is told of the machine by ACPI tables, which also
      bring a power button and a generation ID. Without them a kernel has the MP table and the
      command line; the default guest's, which knows no ACPI, has only those in any case.
    * ``memory_bytes``: guest RAM, a multiple of 4096.
    * ``cpus``: how many processors; ``cpu_topology`` puts them together, into one socket of so many
      cores if it is None.
    * ``disks``: one virtio block device each, ``/dev/vda`` first.
    * ``shares``: directories of the host for the guest, one virtio-fs device each; see
      :class:`vmm.share.config.ShareConfig`.
    * ``rng``: whether there is a virtio entropy device.
    * ``console``: where the guest's console is: the first serial port, which every kernel has, or
      ``hvc0`` of a virtio console, which needs far fewer exits.
    * ``nets``: one virtio network card each, ``eth0`` first.
    * ``ports``: names of further virtio console ports, channels between host and guest.
    * ``agent``: whether our agent serves the host in the guest: as its first process ("init") or
      beside that of the initrd ("beside").
    * ``vsock``: the guest's address (CID, from 3 on) for sockets between host and guest, which
      :attr:`Machine.vsock` makes; None for no such device.
    * ``balloon``: how much memory the guest is asked to give back to the host, in bytes, 0 for none
      yet: see :attr:`Machine.balloon`. What the guest frees goes to the host by itself then, and
      snapshots leave out what it does not use. None for no such device.
    * ``transport``: how the guest finds its virtio devices: by registers whose addresses the
      command line or ACPI tells ("mmio"), or on a PCI bus ("pci"); None for what suits the kernel:
      PCI for one that is named or in a folder, registers for all others. A disk says by itself
      (``DiskConfig.transport``), and so does :class:`DeviceConfig`, where it is to be otherwise;
      ``rng_transport`` and ``console_transport`` do for those two.
    * ``devices``: makers of further devices, such as a subclass of ``virtio.Device``.
    * ``spare_slots``: how many places for virtio devices are kept free for :meth:`Machine.plug`,
      all on ``transport``.
    * ``io_threads``: which devices have a thread of their own: all "devices", so that a slow one
      holds up nothing else and each may wait for its next request, the "disks" alone, or none: all
      are "shared" on one thread.
    * ``poll_us``: how many microseconds such a thread waits on the processor for the next request
      before it sleeps, when that paid lately; 0 to 1000. 0 means never, and is best where no other
      processor is free.
    * ``on_panic``: when a guest ends that tells of its panic by pvpanic: "auto" lets one with a
      crash kernel finish its dump and ends any other at once, "end" ends both at once, "wait"
      neither: the guest then ends by its own reset or halt, and the ending still is the panic.
    * ``sandbox``: whether the threads that serve the guest are confined, see
      ``vmm/sandbox/threads.py``: "off", "auto" for as far as the host can, or "require".
    * ``ring_features``: which of the transport-independent feature bits the devices offer, as a
      mask; None for their default.
    """

    kernel: Kernel | None = None
    debug_kernel: bool = False
    initrd: Path | bytes | None = None
    cmdline: str = ""
    default_cmdline: bool = True
    init_arguments: tuple[str, ...] = ()
    boot: BootProtocol = "auto"
    acpi: bool = True
    memory_bytes: int = 128 << 20
    cpus: int = 1
    cpu_topology: CpuTopology | None = None
    disks: tuple[DiskConfig, ...] = ()
    shares: tuple[ShareConfig, ...] = ()
    rng: bool = True
    console: ConsoleKind = "serial"
    nets: tuple[NetConfig, ...] = ()
    ports: tuple[str, ...] = ()
    vsock: int | None = None
    balloon: int | None = None
    agent: AgentRole = "none"
    devices: tuple[Callable[[], VirtioDevice], ...] = ()
    spare_slots: int = 0
    transport: Transport | None = None
    rng_transport: Transport | None = None
    console_transport: Transport | None = None
    io_threads: IoThreads = "devices"
    poll_us: int = field(default_factory=lambda: DEFAULT_POLL_US if spare_processor() else 0)
    on_panic: OnPanic = "auto"
    ring_features: int | None = None
    sandbox: SandboxMode = "off"

    def __post_init__(self) -> None:
        check_memory(self.memory_bytes)
        check_cpus(self.cpus)
        check_topology(self.cpus, self.cpu_topology)
        check_vcpu_ids(self.topology)
        check_mode(self.sandbox)
        check_kernel(self.kernel)
        if self.debug_kernel and self.kernel is not None:
            raise ConfigurationError("debug kernel: is that of the default guest; name no other")
        if self.shares:
            check_shares(self.shares)
        for name, value, kind in (
            ("boot", self.boot, BootProtocol),
            ("console", self.console, ConsoleKind),
            ("agent", self.agent, AgentRole),
            ("I/O threads", self.io_threads, IoThreads),
            ("transport", self.transport or "mmio", Transport),
            ("on panic", self.on_panic, OnPanic),
        ):
            if value not in get_args(kind):
                allowed = ", ".join(get_args(kind))
                raise ConfigurationError(f"{name} {value!r}: must be one of {allowed}")
        check_transport("rng", self.rng_transport)
        check_transport("console", self.console_transport)
        if not 0 <= self.poll_us <= MAX_POLL_US:
            raise ConfigurationError(
                f"polling for {self.poll_us} microseconds: must be 0 to {MAX_POLL_US}"
            )
        if self.balloon is not None:
            from vmm.balloon.size import check_balloon

            check_balloon(self.balloon, self.memory_bytes)
        if self.ring_features is not None:
            _check_ring_features(self.ring_features)
        if len(set(self.ports)) < len(self.ports):
            raise ConfigurationError(f"ports {', '.join(self.ports)}: each needs a name of its own")

    @property
    def topology(self) -> CpuTopology:
        """How the processors are put together."""
        return self.cpu_topology or CpuTopology(cores=self.cpus)

    @property
    def has_our_init(self) -> bool:
        """Whether the guest's init is that of our initramfs, or our agent."""
        is_file = self.kernel is not None and not is_stock(self.kernel)
        return self.agent == "init" or (self.initrd is None and not is_file)

    @property
    def usual_transport(self) -> Transport:
        """The transport of devices that do not say otherwise."""
        return self.transport or ("pci" if is_stock(self.kernel) else "mmio")

    def settled(self) -> Self:
        """Return the configuration with what it leaves to the kernel's kind decided."""
        if self.transport is not None:
            return self
        values = {name: getattr(self, name) for name in self.__match_args__}
        values["transport"] = self.usual_transport
        return type(self)(**values)

    @property
    def uses_pci(self) -> bool:
        """Whether the machine has a PCI bus: for all its devices, or for some of them."""
        return "pci" in self.transports

    @property
    def transports(self) -> tuple[Transport, ...]:
        """The transports that its devices have, the usual one first."""
        asked: list[Transport | None] = [self.usual_transport]
        asked += [disk.transport for disk in self.disks]
        asked += [self.rng_transport] * self.rng + [self.console_transport] * self.has_console
        asked += [one.transport for one in self.devices if isinstance(one, DeviceConfig)]
        return tuple(dict.fromkeys(one for one in asked if one is not None))

    @property
    def has_console(self) -> bool:
        """Whether there is a virtio console device: for the guest's console, or for ports."""
        return self.console == "virtio" or self.agent != "none" or bool(self.ports)


def _check_ring_features(features: int) -> None:
    from virtio.device.declaration import POSSIBLE_RING_FEATURES

    if features & ~POSSIBLE_RING_FEATURES:
        raise ConfigurationError(
            f"ring features {features:#x}: must be among {POSSIBLE_RING_FEATURES:#x}"
        )


def spare_processor() -> bool:
    """Whether a thread may wait on a processor while a vCPU runs on another one."""
    return len(os.sched_getaffinity(0)) > 1
