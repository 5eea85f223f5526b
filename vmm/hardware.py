"""The hardware of a machine: opens the parts of the host that it needs, and wires them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final, get_args

from transport.core import VirtioTransport
from virtio.block import Block
from virtio.device.lifecycle import VirtioDevice
from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from vmm.bus import Bus
from vmm.config import MachineConfig
from vmm.devices import (
    MachineDisk,
    Maker,
    OwnDevice,
    PlannedDevice,
    Source,
    configured_devices,
    console_ports,
    disk_device,
    made_device,
    net_device,
)
from vmm.disk.disk import DiskConfig
from vmm.host.io_thread import IoThread
from vmm.kvm.irqfd import IrqfdLine
from vmm.kvm.system import KVM_CAP_MAX_VCPU_ID, KVM_CAP_MAX_VCPUS, Kvm
from vmm.memory import GuestRam
from vmm.net.config import NetConfig
from vmm.slots import Slot, Slots
from vmm.virtio_buses import AttachedDevice, VirtioBuses
from vmm.x86 import (
    GuestEvents,
    Platform,
    VirtioMmioWindow,
    highest_vcpu_id,
    open_kvm,
    ram_regions,
)

if TYPE_CHECKING:
    from transport.pci.function import FunctionState
    from transport.state import TransportState
    from virtio.net import NetBackend
    from vmm.sandbox.policy import OpenFolder
    from vmm.share.directory import HostDirectory


Carry = Callable[["TransportState"], "TransportState"]

_USES: Final[Mapping[object, str]] = {
    "console": "",
    "vsock": "sockets",
    "balloon": "its memory",
    "share": "a directory",
}
"""What the machine uses devices for that cannot be unplugged; of the console its ports say it."""


class Hardware:
    """Opens, on ``resources``, all that ``config`` asks for except the vCPUs.

    ``main`` serves the devices that have no thread of their own; ``events`` hears of the guest's
    end. A restored machine has ``memory``, a file, and ``disks`` and ``slots`` of its snapshot; the
    disks are closed with the hardware. ``transports`` are those of all devices, in the order in
    which they came, and ``console_ports`` the ports of the virtio console by name. Who holds
    ``changing`` keeps others from plugging and unplugging; ``on_fitted`` hears of each transport
    that comes.
    """

    def __init__(
        self,
        config: MachineConfig,
        main: IoThread,
        events: GuestEvents,
        resources: ExitStack,
        *,
        memory: int | None = None,
        disks: Sequence[MachineDisk] | None = None,
        slots: Sequence[Slot] | None = None,
    ) -> None:
        # A stack of its own, as lines that are made when the guest is loaded go onto it too.
        self._resources = resources = resources.enter_context(ExitStack())
        self._main = main
        self._io_threads: list[IoThread] = []
        self._config = config
        self.kvm = resources.enter_context(open_kvm())
        _check_cpus(self.kvm, config)
        self.vm = resources.enter_context(self.kvm.create_vm())
        self.ram = resources.enter_context(GuestRam(ram_regions(config.memory_bytes), memory))
        self.ports = Bus("port I/O")
        self.mmio = Bus("memory-mapped I/O")
        self.platform = Platform(
            self.kvm,
            self.vm,
            self.ram,
            self.ports,
            self._line,
            events,
            config.topology,
            log_writes=config.balloon is not None,
        )
        backends = _open_disks(config, resources) if disks is None else disks
        self.directories = _open_directories(config, resources)
        self.console_ports = console_ports(config)
        self._fitted: list[_Fitted] = []
        self.transports: list[VirtioTransport] = []
        self.changing = threading.RLock()
        self.on_fitted: Callable[[VirtioTransport], object] = bool
        self._on_bug: Callable[[VirtioTransport, Exception], bool] | None = None
        ports = list(self.console_ports.values())
        networks = _open_networks(config, resources) if config.nets else []
        planned = list(
            configured_devices(
                config,
                backends,
                ports,
                self.directories,
                networks,
                discard=self.ram.discard,
            )
        )
        self._slots, taken = self._lay_out(planned, slots)
        pci = config.uses_pci or any(slot.transport == "pci" for slot in self._slots)
        self._buses = VirtioBuses(
            self.vm, self.ram, self.mmio, self.platform.add_pci(self.mmio) if pci else None
        )
        for slot in self._slots:
            self._buses.add_slot(slot)
        resources.callback(self._close_devices)
        for one, slot in zip(planned, taken, strict=True):
            self._fit(one, slot, begin=main.begin)

    @property
    def folders(self) -> tuple[OpenFolder, ...]:
        """The directories of the host that a sandbox must leave for the shares."""
        if not self.directories:
            return ()
        from vmm.share.shares import open_folders

        return open_folders(self.directories)

    @property
    def disk_sockets(self) -> int:
        """How many sockets the disks may use; none of a machine without servers."""
        return sum(disk.sockets for disk in self.disks)

    def plug(self, what: DiskConfig | NetConfig | Maker) -> tuple[VirtioDevice, Slot]:
        """Put a device into a spare slot; the guest finds it when it looks there again.

        Raises :class:`ConfigurationError` when no slot is spare, for a disk that cannot be opened,
        and for a device that is in a slot already.
        """
        with self.changing:
            planned = self._planned(what)
            with ExitStack() as on_failure:
                on_failure.callback(planned.close)
                self._check_free(planned.device)
                transport = planned.transport or self._config.usual_transport
                slot = self._slots.take(transport, self._free_name(planned.device))
                on_failure.callback(self._slots.give_back, slot)
                self._fit(planned, slot, begin=None)
                on_failure.pop_all()
        return planned.device, slot

    def find(self, device: VirtioDevice | str) -> Slot:
        """Return the slot of a device, or of a name, that can be unplugged.

        Raises :class:`ConfigurationError` for one that is in no slot, and for the console,
        the sockets, the balloon and the shares, which the machine itself uses.
        """
        return self._found(device).attached.slot

    def unplug(self, device: VirtioDevice | str, last_accesses: Callable[[], object]) -> None:
        """Take a device out of its slot, whatever the guest does with it.

        ``last_accesses`` is that of :meth:`AttachedDevice.take_out`. When this returns the device
        is stopped, its disk closed, and its slot spare. Raises as :meth:`find` does.
        """
        with self.changing:
            found = self._found(device)
            try:
                self._take_out(found, last_accesses)
            finally:
                self._slots.give_back(found.attached.slot)

    def replace(
        self,
        device: VirtioDevice | str,
        new: VirtioDevice,
        last_accesses: Callable[[], object],
        carry: Carry | None = None,
    ) -> VirtioTransport:
        """Put ``new``, of the same maker, into the slot of a device, and return its transport.

        The guest finds it as one that was switched on; with ``carry`` it has the state that this
        makes of the other one's, and the guest, none of whose processors runs meanwhile, notices
        nothing. ``last_accesses`` is that of :meth:`unplug`. When this raises, the other one is
        back.
        """
        with self.changing, ExitStack() as on_failure:
            found = self._found(device)
            slot, place = found.attached.slot, self._fitted.index(found)
            if not callable(found.planned.source):
                raise ConfigurationError(f"{slot.device}: is no device of the user's own")
            self._check_free(new)
            begin, function = None, self._buses.function_state(slot)
            if carry is not None:
                transport = found.attached.transport
                paused = transport.paused
                transport.pause(paused=True)
                on_failure.callback(transport.pause, paused=paused)
                begin = transport.state()
                after = carry(begin)
                on_failure.pop_all()
            self._take_out(found, last_accesses)
            on_failure.callback(self._put_back, found, place, function, begin)
            fitted = self._fit(found.planned._replace(device=new), slot, begin=None, place=place)
            if carry is not None:
                on_failure.callback(self._take_out, fitted, last_accesses)
                self._buses.restore_function(slot, function)
                fitted.attached.transport.restore(after)
            on_failure.pop_all()
        return fitted.attached.transport

    def device(self, name: str) -> VirtioDevice:
        """Return the device of that name; raises as :meth:`find` does."""
        return self._found(name).planned.device

    @property
    def makers(self) -> dict[str, Maker]:
        """What made the devices of the user's own, by their names."""
        return {
            one.attached.slot.device: one.planned.source
            for one in self._fitted
            if callable(one.planned.source)
        }

    def keep_failed(self, on_bug: Callable[[VirtioTransport, Exception], bool] | None) -> None:
        """Have ``on_bug`` of all transports, and of those that come, call this with the transport.

        With None, devices that fail need a reset, as ever.
        """
        with self.changing:
            self._on_bug = on_bug
            for transport in self.transports:
                self._watch_for_bugs(transport)

    def _watch_for_bugs(self, transport: VirtioTransport) -> None:
        transport.on_bug = None if self._on_bug is None else partial(self._on_bug, transport)

    def _take_out(self, found: _Fitted, last_accesses: Callable[[], object]) -> None:
        self._fitted = [one for one in self._fitted if one is not found]
        self.transports = [one.attached.transport for one in self._fitted]
        self._io_threads = [one for one in self._io_threads if one is not found.thread]
        found.attached.take_out(last_accesses)

    def _put_back(
        self,
        found: _Fitted,
        place: int,
        function: FunctionState | None,
        state: TransportState | None,
    ) -> None:
        """Fit a device again that was taken out; with its ``state`` if the guest is not to know."""
        slot = found.attached.slot
        fitted = self._fit(found.planned, slot, begin=None, place=place)
        if state is not None:
            self._buses.restore_function(slot, function)
            fitted.attached.transport.restore(state)

    def start_io(self) -> None:
        """Start to serve the devices that have a thread of their own."""
        for thread in self._io_threads:
            if not thread.started:
                thread.start()

    def stop_io(self) -> None:
        """Stop to serve those devices, for good."""
        for thread in self._io_threads:
            thread.stop()

    @property
    def windows(self) -> list[VirtioMmioWindow]:
        """The windows of all virtio-mmio slots, by their numbers."""
        return self._buses.windows

    @property
    def pci_slots(self) -> list[int]:
        """The slots on the PCI bus in which there is a device, or may be one."""
        return self._buses.pci_slots

    @property
    def disks(self) -> list[MachineDisk]:
        """The disks, in the order of those in :attr:`config`."""
        backends = (one.planned.backend for one in self._in_order())
        return [backend for backend in backends if backend is not None]

    @property
    def config(self) -> MachineConfig:
        """The configuration of the machine as it is now, after what was plugged and unplugged.

        In the order in which it makes devices are :attr:`ordered_transports` and the first of
        :attr:`slots`.
        """
        from dataclasses import replace

        sources = [one.planned.source for one in self._in_order()]
        return replace(
            self._config,
            disks=tuple(one for one in sources if isinstance(one, DiskConfig)),
            nets=tuple(one for one in sources if isinstance(one, NetConfig)),
            rng=any(one == "rng" for one in sources),
            devices=tuple(one for one in sources if callable(one)),
            spare_slots=self._slots.spare(self._config.usual_transport),
        )

    @property
    def ordered_transports(self) -> list[VirtioTransport]:
        """The transports, in the order in which :attr:`config` makes their devices."""
        return [one.attached.transport for one in self._in_order()]

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots of all devices, in that order, and the spare ones behind them."""
        spare = (slot for slot in self._slots if not slot.device)
        return (*(one.attached.slot for one in self._in_order()), *spare)

    @property
    def given_back(self) -> bool:
        """Whether the guest has reset all virtio devices after it used one of them."""
        used = any(one.stats.kicks for one in self.transports)
        return used and not any(one.status for one in self.transports)

    def bar_address(self, name: str) -> int | None:
        """Return where the device of that name has its BAR 0, if it is on PCI."""
        slot = next((one for one in self._slots if one.device == name), None)
        return None if slot is None else self._buses.bar_address(slot)

    def _line(self, gsi: int) -> IrqfdLine:
        line = IrqfdLine(self.vm, gsi)
        self._resources.callback(line.close)
        return line

    def _free_name(self, device: VirtioDevice) -> str:
        """Return the device's class with the lowest number that is free: ``block0``."""
        kind = type(device).__name__.lower()
        taken = self._slots.names
        return next(name for number in count() if (name := f"{kind}{number}") not in taken)

    def _lay_out(
        self, planned: Sequence[PlannedDevice], saved: Sequence[Slot] | None
    ) -> tuple[Slots, list[Slot]]:
        """Return all slots, and those of the devices, one after another."""
        if saved is not None:
            slots = Slots.saved(saved, devices=len(planned))
            return slots, [slot for slot in saved if slot.device]
        self._slots = slots = Slots()
        transport = self._config.usual_transport
        taken = [
            slots.add(one.transport or transport, one.name or self._free_name(one.device))
            for one in planned
        ]
        for _ in range(self._config.spare_slots):
            slots.add(transport)
        return slots, taken

    def _planned(self, what: DiskConfig | NetConfig | Maker) -> PlannedDevice:
        if isinstance(what, NetConfig):
            return self._planned_net(what)
        if not isinstance(what, DiskConfig):
            return made_device(what, self._config)
        with ExitStack() as on_failure:
            backend = what.open()
            on_failure.enter_context(backend)
            planned = disk_device(what, backend, self._config)
            on_failure.pop_all()
        return planned

    def _planned_net(self, what: NetConfig) -> PlannedDevice:
        from vmm.net.opening import close_network, open_network

        with ExitStack() as on_failure:
            network = open_network(what)
            on_failure.callback(close_network, network)
            planned = net_device(what, network, self._config)
            on_failure.pop_all()
        return planned

    def _check_free(self, device: VirtioDevice) -> None:
        for one in self._fitted:
            if one.planned.device is device:
                raise ConfigurationError(
                    f"{one.attached.slot.device}: is in a slot already, and in none other"
                )

    def _found(self, device: VirtioDevice | str) -> _Fitted:
        for one in self._fitted:
            if device is one.planned.device or device == one.attached.slot.device:
                break
        else:
            name = device if isinstance(device, str) else type(device).__name__
            there = ", ".join(one.name for one in self.transports) or "none"
            raise ConfigurationError(
                f"{name}: no such device is plugged in, or not any more; there are: {there}"
            )
        if one.planned.source in _USES:
            used = _USES[one.planned.source] or ", ".join(self.console_ports)
            raise ConfigurationError(
                f"{one.attached.slot.device}: is in use by the machine itself, for {used}"
            )
        return one

    def _in_order(self) -> list[_Fitted]:
        """Return the devices in the order of a configuration that has them all."""
        return sorted(self._fitted, key=lambda one: _rank(one.planned.source))

    def _fit(
        self,
        planned: PlannedDevice,
        slot: Slot,
        *,
        begin: Callable[[], object] | None,
        place: int | None = None,
    ) -> _Fitted:
        attached = AttachedDevice(slot)
        try:
            attached.resources.callback(planned.close)
            thread, poll_us = self._io_thread(attached, planned.device, begin)
            self._buses.attach(attached, planned.device, thread.loop, poll_us)
            if thread is not self._main and self._main.started:
                thread.start()
        except BaseException:
            attached.take_out()
            raise
        fitted, all_fitted = _Fitted(planned, attached, thread), [*self._fitted]
        all_fitted.insert(len(all_fitted) if place is None else place, fitted)
        self._fitted = all_fitted
        self.transports = [one.attached.transport for one in all_fitted]
        self._watch_for_bugs(attached.transport)
        self.on_fitted(attached.transport)
        if thread is not self._main:
            self._io_threads = [*self._io_threads, thread]
        return fitted

    def _io_thread(
        self, attached: AttachedDevice, device: VirtioDevice, begin: Callable[[], object] | None
    ) -> tuple[IoThread, int]:
        """Return the thread that serves a device, and for how long it may poll.

        Its own one starts when the main one has.
        """
        policy = self._config.io_threads
        if policy == "shared" or (policy == "disks" and not isinstance(device, Block)):
            return self._main, 0
        thread = IoThread(attached.slot.device, self._main.on_error, begin)
        attached.resources.enter_context(thread)
        return thread, self._config.poll_us

    def _close_devices(self) -> None:
        with ExitStack() as all_of_them:
            for one in self._fitted:
                all_of_them.push(one.attached.resources)


class _Fitted(NamedTuple):
    """A device in its slot: as it was planned, what it has there, and the thread that serves it."""

    planned: PlannedDevice
    attached: AttachedDevice
    thread: IoThread


def _rank(source: Source) -> int:
    """Return where among its devices a configuration makes one of this kind."""
    if isinstance(source, DiskConfig):
        return 0
    own = get_args(OwnDevice)
    last = len(own) + (1 if isinstance(source, NetConfig) else 2)
    return next((number for number, name in enumerate(own, 1) if name == source), last)


def _check_cpus(kvm: Kvm, config: MachineConfig) -> None:
    """Raise :class:`ConfigurationError` for more processors, or higher IDs, than KVM here takes."""
    allowed = kvm.check(KVM_CAP_MAX_VCPUS)
    if config.cpus > allowed:
        raise ConfigurationError(f"{config.cpus} processors: this host allows 1 to {allowed}")
    ids = kvm.check(KVM_CAP_MAX_VCPU_ID) or allowed
    if (last := highest_vcpu_id(config.topology)) >= ids:
        raise ConfigurationError(
            f"processors {config.topology}: have IDs up to {last}, this host takes 0 to {ids - 1}"
        )


def _open_directories(config: MachineConfig, resources: ExitStack) -> list[HostDirectory]:
    if not config.shares:
        return []
    from vmm.share.shares import open_shares

    return open_shares(config.shares, resources)


def _open_networks(config: MachineConfig, resources: ExitStack) -> list[NetBackend]:
    from vmm.net.opening import close_network, open_network

    networks = []
    for one in config.nets:
        networks.append(open_network(one))
        resources.callback(close_network, networks[-1])
    return networks


def _open_disks(config: MachineConfig, resources: ExitStack) -> list[MachineDisk]:
    disks = []
    for one in config.disks:
        disks.append(one.open())
        resources.enter_context(disks[-1])
    return disks
