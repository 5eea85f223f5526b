"""The machine: its life from boot to the end.

Threads: one per vCPU, one for the event loop, and one for each disk or device whose requests must
not hold up the others (``MachineConfig.io_threads``). A caller of :meth:`Machine.wait` only waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from virtio.device.lifecycle import VirtioDevice
from virtio.engine import check_environment
from virtio.errors import ConfigurationError, Error, InternalError
from virtio.log import Logger
from vmm.agent import PORT_NAME
from vmm.boot_source import boot_source
from vmm.config import MachineConfig
from vmm.console.console import GuestConsole
from vmm.devices import HVC
from vmm.ending.ending import End, Ending
from vmm.ending.halt_watch import HaltWatch, best_wait_idle
from vmm.ending.signs import SIGNS
from vmm.ending.verdict import Verdict
from vmm.hardware import Hardware
from vmm.host.gil import short_switch_interval
from vmm.host.io_thread import IoThread
from vmm.vcpus import Vcpus
from vmm.x86 import GuestEvents, check_host, describe_position, shows_life

if TYPE_CHECKING:
    from pathlib import Path

    from drgn import Program

    from transport.state import TransportState
    from virtio.vsock import Vsock
    from vmm.agent import Agent
    from vmm.agent.upkeep import AgentUpkeep
    from vmm.balloon.host import MachineBalloon
    from vmm.disk.disk import DiskConfig
    from vmm.driver_check.live import MachineDoctor
    from vmm.gdb.place import Listener
    from vmm.gdb.server import GdbServer
    from vmm.hardware import Carry
    from vmm.host.files import Extent
    from vmm.net.config import NetConfig
    from vmm.sandbox.mode import SandboxMode
    from vmm.snapshot import MachineState, Snapshot
    from vmm.snapshot.folder import SnapshotFolder
    from vmm.snapshot.target import Target
    from vmm.stats import Statistics
    from vmm.trace import LiveTrace, Tracer
    from vmm.vcpu import VcpuThread
    from vmm.vsock import VsockHost

logger = Logger(__name__)

_LAST_LINES: Final = 12
_CRASHES: Final = (End.PANIC, End.TRIPLE_FAULT)


class Machine:
    """A virtual machine, from a configuration; use it in a ``with`` block.

        with Machine(MachineConfig()) as machine:
            machine.boot()
            machine.console.wait_for("# ", timeout=60)
            machine.console.send("poweroff\\n")
            print(machine.wait(timeout=60).message)

    Entering the block opens everything that the machine needs of the host; leaving the block stops
    the guest and closes all of it. ``console`` is the guest's console, ``loop`` the event loop, to
    which files of the host can be connected.

    A running machine can be saved, and any number of others continue from there:

        snapshot = machine.snapshot()
        with Machine.restore(snapshot) as clone:
            clone.resume()
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config = config.settled()
        self.console = GuestConsole()
        self._origin: Snapshot | None = None
        self._resources = ExitStack()
        self._described = False
        self._debugger: GdbServer | None = None
        self._registers: list[str] = []
        self._tracer: Tracer | None = None
        self.doctor: MachineDoctor | None = None

    @classmethod
    def restore(
        cls,
        snapshot: Snapshot,
        *,
        sandbox: SandboxMode = "off",
        nets: Sequence[NetConfig] = (),
    ) -> Self:
        """Return a machine that continues from ``snapshot`` once :meth:`resume` is called.

        Guest memory is shared with the snapshot until the guest writes it; writes to disks stay in
        memory. ``sandbox`` is that of :class:`MachineConfig`, which no snapshot decides, and so are
        the networks behind the guest's cards: ``nets``, in their order. A card beyond those finds
        its cable pulled. Raises :class:`ConfigurationError` for more networks than cards.
        """
        config = snapshot.config
        if config.nets or nets:
            from vmm.net.restored import with_networks

            config = with_networks(config, nets)
        if sandbox != config.sandbox:
            from dataclasses import replace

            config = replace(config, sandbox=sandbox)
        machine = cls(config)
        machine._origin = snapshot
        return machine

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            check_host()
            check_environment()
            resources.enter_context(short_switch_interval())
            begin = self._confinement()
            main = IoThread("event-loop", self._loop_failed, begin)
            self._main = resources.enter_context(main)
            self.loop = self._main.loop
            self._verdict = Verdict(
                self.loop.call_later,
                self._shows_life,
                self._ending_reached,
                on_panic=self.config.on_panic,
            )
            self._vcpus = Vcpus(self._verdict.vcpu_ended, begin)
            watch = HaltWatch(self.loop, self.threads, self._guest_halted, best_wait_idle())
            self._halt_watch = resources.enter_context(watch)
            self.hardware = self._open_hardware(resources)
            if self._origin is not None:
                from vmm.snapshot.state import restore_machine

                state, cpus = self._origin.state, self.config.cpus
                restore_machine(state, cpus, self.hardware, self._vcpus, resources)
            self._resources = resources.pop_all()
        self._connect_console()
        port = self.hardware.console_ports.get(PORT_NAME)
        self._upkeep: AgentUpkeep | None = None
        if port is not None:
            from vmm.agent.upkeep import AgentUpkeep

            self._upkeep = AgentUpkeep(port, self.console.told)
        self._vsock: VsockHost | None = None
        if self.config.vsock is not None:
            from vmm.vsock import VsockHost

            self._vsock = VsockHost(self._vsock_device())
        self._balloon: MachineBalloon | None = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._verdict.end(End.STOPPED)
        self._stop_threads()
        self._resources.close()

    def boot(self) -> None:
        """Load the guest and let it run; as :meth:`load`, then :meth:`resume`."""
        self.load()
        self.resume()

    def load(self) -> None:
        """Load the guest, which runs from :meth:`resume` on, and make its processors.

        The default guest is built first if it is not cached. Raises :class:`ConfigurationError`
        when the kernel or the initrd cannot be booted.
        """
        hardware, platform = self.hardware, self.hardware.platform
        entry = platform.load(
            boot_source(self.config), windows=hardware.windows, pci_slots=hardware.pci_slots
        )
        for _ in range(self.config.cpus):
            vcpu = self._vcpus.add(hardware, self._resources)
            platform.set_up_vcpu(vcpu, entry)

    def pause(self) -> None:
        """Hold every vCPU out of the guest until :meth:`resume`; devices finish what they have."""
        self._vcpus.pause()

    def resume(self) -> None:
        """Let a restored or paused machine run; harmless for a running one."""
        if not self._main.started:
            logger.info("entering the guest")
            held = self._debugger is not None and self._debugger.waits
            if self._tracer is not None:
                self._tracer.watch_vcpus()
            # The guest first: it runs while the rest is set in motion, and its kicks wait.
            self._vcpus.start(held=held)
            self._main.start()
            self.hardware.start_io()
            self._halt_watch.start()
            if self._tracer is not None:
                self._tracer.milestone("the guest runs")
            if self._upkeep is not None:
                self._upkeep.start(restored=self._origin is not None)
            if self._debugger is not None:
                self._debugger.start()
            if held:
                return  # until the debugger lets it go
        self._vcpus.resume()

    def debug(self, at: str | Listener) -> GdbServer:
        """Let a debugger in by GDB's remote protocol, at ``[HOST:]PORT`` or ``unix:PATH``.

        Call it before :meth:`resume`: the guest then waits for the debugger before its first
        instruction, unless ``,wait=off`` stands behind the place. A guest that crashes stays as it
        is, and :meth:`wait` waits, as long as a debugger is attached. Raises
        :class:`ConfigurationError` for a place at which nobody can listen, and after the start.
        """
        from vmm.gdb.place import DebugPlace, Listener
        from vmm.gdb.server import GdbServer

        if self._main.started or self._debugger is not None:
            raise ConfigurationError("a debugger is let in once, and before the machine runs")
        if isinstance(at, str):
            at = self._resources.enter_context(Listener(DebugPlace.parse(at)))
        self._debugger = self._resources.enter_context(GdbServer(self, at))
        return self._debugger

    def snapshot(self) -> Snapshot:
        """Save the machine as it is at this moment, in memory; the machine then runs on.

        The guest stands still meanwhile. Requests that a device works on are saved with its
        queues, and the restored machine serves them again. Devices that were plugged are part of
        it, and unplugged ones are not: see ``config`` of the snapshot. Raises
        :class:`ConfigurationError` for a machine that has ended.
        """
        from vmm.snapshot import Snapshot
        from vmm.snapshot.disks import freeze

        with self._still() as (state, unused):
            config, hardware = self.hardware.config, self.hardware
            disks = map(freeze, config.disks, hardware.disks)
            return Snapshot(config, state, hardware.ram.copy(unused), tuple(disks))

    def saving_to(self, folder: SnapshotFolder) -> Target:
        """Open, and ask the host for, all that :meth:`save` needs, while this process still can.

        The folder is empty, the names of the machine's disks are absolute; it was booted.
        """
        from vmm.snapshot.target import Target

        self.hardware.platform.prepare_to_save()
        config = self.hardware.config
        target = Target.of(folder, config, self.hardware.disks)
        target.prepare(config)
        return target

    def save(self, target: Target) -> None:
        """Save the machine as it is at this moment in a folder; the machine then runs on.

        As :meth:`snapshot` and its ``write``, but nothing is copied to memory first, and the guest
        stands still until all is written.
        """
        from vmm.snapshot import Snapshot

        with self._still() as (state, unused), self.hardware.ram.file(unused) as memory:
            config, disks = self.hardware.config, tuple(self.hardware.disks)
            Snapshot(config, state, memory, disks, unused).write(target)

    def start_trace(self) -> Tracer:
        """Trace the machine from now on, unless it is traced, and return what does."""
        if self._tracer is None:
            from vmm.trace.tracer import Tracer

            self._tracer = tracer = Tracer(self)
            self._resources.callback(self.stop_trace)
            tracer.start()
        return self._tracer

    @property
    def trace(self) -> LiveTrace:
        """The events since the trace began, to ask questions of.

        Raises :class:`ConfigurationError` for a machine that is not traced: see :meth:`traced`.
        """
        if self._tracer is None:
            raise ConfigurationError("the machine is not traced: use Machine.traced(), before")
        return self._tracer.trace

    @contextmanager
    def traced(self) -> Iterator[LiveTrace]:
        """Trace the machine in the block, unless it is traced already, and give its trace."""
        begins = self._tracer is None
        tracer = self.start_trace()
        trace = tracer.trace
        try:
            yield trace
        finally:
            if begins and self._tracer is tracer:
                self.stop_trace()

    def stop_trace(self) -> None:
        """Trace the machine no more; who heard of events hears of those until now."""
        self.doctor = None
        tracer, self._tracer = self._tracer, None
        if tracer is not None:
            tracer.close()

    def explain(self) -> MachineDoctor:
        """Judge the guest's virtio drivers from now on; what is returned has the diagnoses.

        They need a trace, which begins with it: call it before :meth:`boot` to see all. Another
        call returns the same, until :meth:`stop_trace`.
        """
        from vmm.driver_check.live import MachineDoctor

        if self.doctor is None:
            self.doctor = MachineDoctor(self)
        return self.doctor

    @property
    def agent_if_any(self) -> Agent | None:
        """The agent in the guest, whether or not it serves yet."""
        return None if self._upkeep is None else self._upkeep.agent

    def dump(self, path: Path | str) -> None:
        """Write memory and processors to a core file, which gdb, drgn and crash open.

        The guest stands still meanwhile; one that has ended can be dumped until the machine is
        closed. Raises :class:`ConfigurationError` when there is a file already, or it cannot be
        written.
        """
        from pathlib import Path

        from vmm.dump.core_file import new_core

        with new_core(Path(path)) as target:
            self.dump_to(target)

    def dump_to(self, target: int) -> None:
        """As :meth:`dump`, to an empty file that is open; opens none."""
        from vmm.dump.dump import dump_memory
        from vmm.x86 import core_status

        hardware = self.hardware
        with self.held(), ExitStack() as still:
            if self._debugger is not None:
                still.enter_context(self._debugger.target.lifted())
            memory = still.enter_context(hardware.ram.file())
            statuses = self._vcpus.call(core_status)
            dump_memory(target, memory, hardware.ram.regions, statuses)

    def drgn(self, symbols: Path | str | None = None) -> Program:
        """Return a ``drgn.Program`` on the guest's memory, with nothing in the guest for it.

        ``symbols`` is the kernel's vmlinux with DWARF; that of ``MachineConfig(debug_kernel=True)``
        is found. What it reads is of the moment: :meth:`pause` the machine for reads that belong
        together. Raises :class:`ConfigurationError` without drgn (the extra ``drgn``), without
        symbols, and while the kernel has left no VMCOREINFO.
        """
        from vmm.dump.program import drgn_program

        return drgn_program(self, symbols)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold every vCPU out of the guest for the block, and let nobody change the machine."""
        with self.hardware.changing, self._vcpus.held():
            yield

    @property
    def agent(self) -> Agent:
        """The agent that serves us in the guest.

        Raises :class:`ConfigurationError` for a machine that has none. In a restored guest the
        agent sets the clock and reseeds the random generator before it serves a call.
        """
        if self._upkeep is None or not self._main.started:
            raise ConfigurationError("no agent runs in this machine: see MachineConfig.agent")
        return self._upkeep.agent

    @property
    def vsock(self) -> VsockHost:
        """The sockets between host and guest.

        Raises :class:`ConfigurationError` for a machine that has none.
        """
        if self._vsock is None:
            raise ConfigurationError("no sockets lead into this machine: see MachineConfig.vsock")
        return self._vsock

    @property
    def balloon(self) -> MachineBalloon:
        """The guest's memory: how much it is to give up, has given up, and uses.

        Raises :class:`ConfigurationError` for a machine without a balloon.
        """
        if self.config.balloon is None:
            raise ConfigurationError("the machine has no balloon: see MachineConfig.balloon")
        if self._balloon is None:  # restored machines hardly ever use it, and must be quick
            from vmm.balloon.host import machine_balloon

            balloon = machine_balloon(self.hardware)
            if self.ending is not None:
                balloon.end(self.ending.message)
            self._balloon = balloon
        return self._balloon

    def _vsock_device(self) -> Vsock:
        from virtio.vsock import Vsock

        for transport in self.hardware.transports:
            if isinstance(transport.device, Vsock):
                return transport.device
        raise InternalError("the machine has no socket device, which its configuration asks for")

    def plug(self, what: DiskConfig | NetConfig | Callable[[], VirtioDevice]) -> VirtioDevice:
        """Put a disk, a network card or the device that ``what`` makes into a spare slot.

        Returns the device, which goes to ``MachineConfig.transport``, unless a disk or a
        :class:`DeviceConfig` says otherwise. The guest is made to look there, and its driver has
        the device when this returns. Without an agent in the guest, somebody else has to: see
        ``vmm/agent/binding.py``. Raises :class:`ConfigurationError` when no slot is spare.
        """
        device, slot = self.hardware.plug(what)
        if self._has_agent:
            from vmm.agent.binding import bind_device

            try:
                bind_device(self.agent, slot)
            except Error:
                self._take_out(device)
                raise
        return device

    def unplug(self, device: VirtioDevice | str, *, surprise: bool = False) -> None:
        """Take a device, or the one of that name, out of its slot, which then is spare.

        The guest's driver first finishes what it has and lets the device go, if there is an agent
        that can ask for it. Otherwise, and with ``surprise``, the device is torn out: registers
        read as if nobody were there, and requests under way get no answer. When this returns
        the device is stopped, and a disk of the configuration or of :meth:`plug` is closed; what
        another device has of the host stays its maker's. Not to be called by a device itself.

        Raises :class:`ConfigurationError` for a device that is not plugged in, and for the console.
        """
        slot = self.hardware.find(device)
        if self._has_agent and not surprise:
            from vmm.agent.binding import release_device

            release_device(self.agent, slot)
        self._take_out(slot.device)

    def replace(
        self,
        device: VirtioDevice | str,
        make: Callable[[VirtioDevice], VirtioDevice],
        *,
        timeout: float | None = None,
    ) -> None:
        """Have the guest let one of the user's own devices go, and find another in its place.

        ``make`` returns that, and is called with the old one when the guest does not use it any
        more. The guest has ``timeout`` seconds to let go, and to look anew. Raises what the agent
        does; the old device stays if that comes before the guest let it go.
        """
        from vmm.agent.binding import bind_device, release_device

        slot = self.hardware.find(device)
        release_device(self.agent, slot, timeout)
        try:
            new = make(self.hardware.device(slot.device))
            self.hardware.replace(slot.device, new, self._last_accesses)
        finally:
            bind_device(self.agent, slot, timeout)

    def exchange(self, device: VirtioDevice | str, new: VirtioDevice, carry: Carry) -> None:
        """Let ``new`` go on where a device of the user's own is; the guest notices nothing.

        ``carry`` makes its state of the state of that device's transport. Chains that the device
        has not answered, the one included at which it failed, are handed to ``new``. Raises
        :class:`ConfigurationError`, with the old device back, when the state does not fit.
        """
        with self.held():
            self.hardware.replace(device, new, self._last_accesses, carry)

    def resize_console(self, columns: int, rows: int) -> None:
        """Tell the guest the size of its console, in characters; a serial line has no way to."""
        if HVC not in self.hardware.console_ports:
            return
        from virtio.console import Console

        for transport in self.hardware.transports:
            if isinstance(transport.device, Console):
                transport.device.resize(columns, rows)

    def wait(self, timeout: float | None = None) -> Ending:
        """Wait until the guest has ended, and say how; after ``timeout`` seconds it is stopped."""
        if not self._verdict.wait(timeout):
            self._verdict.end(End.TIMEOUT, f"{End.TIMEOUT.value} of {timeout:g} s")
        ending = self._verdict.ending
        if self._debugger is not None and ending is not None:
            self._debugger.linger(ending)
        return self._finish()

    def shutdown(self) -> bool:
        """Ask the guest to switch itself off; :meth:`wait` tells when it has.

        By ACPI's power button, which is for a program of the guest (systemd-logind, acpid); else
        by our agent, which does so at once, and goes first where it is the init: nobody else would
        hear the button there. False when the guest has neither; True says that it was asked, not
        that it will.
        """
        if self.config.agent == "init" and self._ask_agent_to_power_off():
            return True
        return self.hardware.platform.press_power_button() or self._ask_agent_to_power_off()

    def _ask_agent_to_power_off(self) -> bool:
        if self._upkeep is None or not self._main.started or self.ending is not None:
            return False
        try:
            self.agent.power_off()
        except (Error, TimeoutError):
            return self.ending is not None
        return True

    def press_power_button(self) -> bool:
        """Press ACPI's power button, as :meth:`shutdown` does first; from any thread."""
        return self.hardware.platform.press_power_button()

    def end(self, end: End, message: str = "") -> None:
        """Have :meth:`wait` return with this ending, unless there is one; from any thread."""
        self._verdict.end(end, message)
        if self._debugger is not None:
            self._debugger.give_up()

    def stop(self) -> Ending:
        """End the guest now, unless it has ended already, and say how it ended."""
        self._verdict.end(End.STOPPED)
        return self._finish()

    def events(self) -> list[str]:
        """Return the last steps in the life of the devices, with seconds before now."""
        now = time.monotonic()
        found = [event for one in self.hardware.transports for event in one.report.events]
        return [f"{when - now:8.3f} s  {what}" for when, what in sorted(found)]

    @property
    def threads(self) -> list[VcpuThread]:
        """The threads of the vCPUs, the boot processor's first."""
        return self._vcpus.threads

    @property
    def ending(self) -> Ending | None:
        """How the guest ended; None as long as it runs."""
        return self._verdict.ending

    @property
    def statistics(self) -> Statistics:
        """The counts of exits, emulated instructions and device traffic so far."""
        from vmm.stats import Statistics

        return Statistics.collect(self.threads, self.hardware)

    @contextmanager
    def _still(self) -> Iterator[tuple[MachineState, Sequence[Extent]]]:
        """Have nothing of the machine change inside the block; give its state, and unused memory.

        That is the parts of the file of guest RAM that the guest does without, as it told.
        """
        self._check_running()
        from vmm.snapshot.state import machine_state

        begin = time.monotonic_ns()
        with self._frozen_with_free_pages() as (transports, unused):
            self._check_running()  # the guest may have ended while it was asked
            yield machine_state(self.hardware, self._vcpus, list(transports.values())), unused
        if self._tracer is not None:
            self._tracer.saved(begin, time.monotonic_ns() - begin)

    def _check_running(self) -> None:
        if self._verdict.ending is not None or not self.threads:
            raise ConfigurationError("a machine that does not run cannot be saved")

    @contextmanager
    def _frozen(self) -> Iterator[dict[str, TransportState]]:
        """Let neither the guest nor a device move inside the block; give the devices' states."""
        hardware = self.hardware
        with hardware.changing, self._vcpus.held(), ExitStack() as frozen:
            states = {
                one.name: frozen.enter_context(one.frozen()) for one in hardware.ordered_transports
            }
            if self._debugger is not None:
                frozen.enter_context(self._debugger.target.lifted())
            yield states

    @contextmanager
    def _frozen_with_free_pages(self) -> Iterator[tuple[dict[str, TransportState], list[Extent]]]:
        """As :meth:`_frozen`; give also which parts of its memory the guest does without."""
        if self._knows_free_pages:
            from vmm.balloon.free_pages import frozen_with_free_pages

            with frozen_with_free_pages(self.hardware, self.balloon, self._frozen) as found:
                yield found
        else:
            with self._frozen() as transports:
                yield transports, []

    @property
    def _knows_free_pages(self) -> bool:
        """Whether the guest can tell which pages it does without; a debugger may write to any."""
        if self.config.balloon is None or not self._main.started or self._debugger is not None:
            return False
        running = not any(one.paused for one in self.threads)
        return running and self.balloon.device.can_hint

    def _take_out(self, device: VirtioDevice | str) -> None:
        self.hardware.unplug(device, self._last_accesses)

    def _last_accesses(self) -> None:
        # A call on each vCPU's thread comes after the access that it is in.
        self._vcpus.call(lambda _: None)

    @property
    def _has_agent(self) -> bool:
        return self._upkeep is not None and self._main.started and self.ending is None

    def _confinement(self) -> Callable[[], None] | None:
        if self.config.sandbox == "off":
            return None
        from vmm.sandbox.threads import thread_confinement

        return thread_confinement(
            self.config.sandbox,
            sockets=self.config.vsock is not None,
            folders=lambda: self.hardware.folders,
        )

    def _connect_console(self) -> None:
        """Show the output of both consoles; input goes to the one that the guest uses."""
        serial, hvc = self.hardware.platform.serial, self.hardware.console_ports.get(HVC)
        serial.on_space = self.console.feed
        self.console.connect(serial.receive)
        if hvc is not None:
            hvc.on_data = self.console.write
            hvc.on_space = self.console.feed
            self.console.connect(hvc.send)
        self.console.on_line(self._verdict.see_line, containing=SIGNS)

    def _open_hardware(self, resources: ExitStack) -> Hardware:
        events = self._guest_events()
        if self._origin is None:
            return Hardware(self.config, self._main, events, resources)
        from vmm.snapshot.disks import continue_disks

        disks = continue_disks(self.config, self._origin.disks)
        for disk in disks:
            resources.enter_context(disk)
        return Hardware(
            self.config,
            self._main,
            events,
            resources,
            memory=self._origin.memory,
            disks=disks,
            slots=self._origin.state.slots,
        )

    def _guest_events(self) -> GuestEvents:
        return GuestEvents(
            output=self.console.write,
            reset=self._guest_reset,
            power_off=self._guest_powered_off,
            status=self._verdict.guest_reported,
            panic=self._guest_signalled,
        )

    def _shows_life(self) -> bool:
        return any(self._vcpus.call(shows_life))

    def _guest_reset(self) -> None:
        self._verdict.guest_reset(devices_reset=self.hardware.given_back)

    def _guest_powered_off(self) -> None:
        self._verdict.guest_powered_off(devices_reset=self.hardware.given_back)

    def _guest_halted(self) -> None:
        self._verdict.guest_halted(devices_reset=self.hardware.given_back)

    def _loop_failed(self, error: Exception) -> None:
        self._verdict.end(End.HOST_FAILED, f"event loop: {error!r}")

    def _guest_signalled(self, events: int) -> None:
        self._note_registers()
        self._verdict.guest_signalled(events)

    def _note_registers(self) -> None:
        """Keep the registers of the vCPU that is at the end, if this is its thread."""
        current = next((one for one in self.threads if one.is_current), None)
        if current is not None and not self._registers:
            from vmm.x86 import describe_registers

            self._registers = describe_registers(current.vcpu)

    def _ending_reached(self) -> None:
        ending = self._verdict.ending
        if ending is not None and ending.end in _CRASHES:
            self._note_registers()
        if ending is not None and self._debugger is not None:
            self._debugger.keep(ending)
        # On the loop, as no lock may be taken where a signal handler brings the ending.
        self.loop.call_soon_threadsafe(self._end_waits)

    def _end_waits(self) -> None:
        """Let everybody who waits for the guest know how it ended."""
        ending = self._verdict.ending
        message = ending.message if ending is not None else End.STOPPED.value
        self.console.close(message)
        if self._upkeep is not None:
            self._upkeep.end(message)
        if self._vsock is not None:
            self._vsock.end(message)
        if self._balloon is not None:
            self._balloon.end(message)

    def _finish(self) -> Ending:
        self._stop_threads()
        ending = self._verdict.ending
        if ending is None:
            raise InternalError("a machine is finished before it has an ending")
        if not ending.expected and not self._described:
            self._described = True
            ending.report.extend(self.describe())
        return ending

    def _stop_threads(self) -> None:
        if self._debugger is not None:
            self._debugger.stop()
        self._halt_watch.stop()
        self._vcpus.stop()
        self._main.stop()
        self.hardware.stop_io()
        self._end_waits()
        if self._upkeep is not None:
            self._upkeep.join()

    def console_lines(self) -> list[str]:
        """Return what the guest printed last, as text for a report."""
        lines = self.console.last_lines(_LAST_LINES)
        return ["last console lines:", *(f"  {line}" for line in lines)]

    def _crash_lines(self) -> list[str]:
        ending = self._verdict.ending
        if ending is None or ending.end not in _CRASHES:
            return []
        from vmm.ending.oops import printed_panic

        printed = [f"  {line}" for line in printed_panic(self.console.history())]
        told = self.console_lines()
        if len(printed) >= len(told):  # else it is there
            told = ["the kernel's panic, from the console:", *printed]
        return told + self._registers

    def untouched(self) -> list[str]:
        """Return a line for each device that no driver of the guest ever took, with what it lacks.

        A guest that has not booted yet has had no time to.
        """
        from vmm.ending.untouched import untouched

        return untouched(self.hardware.transports)

    def describe(self) -> list[str]:
        """Return the last console lines, each vCPU's position and each device's queues, as text.

        Of a guest that crashed also the registers, as its kernel printed them and as they were.
        """
        lines = self._crash_lines() or self.console_lines()
        lines += self._vcpus.call(describe_position)
        lines += self.untouched()
        for transport in self.hardware.transports:
            lines += transport.describe()
        if self._origin is not None:
            from vmm.snapshot.memory import cut_off

            lines += filter(None, [cut_off(self._origin.memory, self.config.memory_bytes)])
        return lines
