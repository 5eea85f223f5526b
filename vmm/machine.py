"""The machine: its life from boot to the end, over the hardware and the verdict.

Threads: one per vCPU, and one for the event loop, which serves all devices. Whoever calls
:meth:`Machine.wait` only waits.
"""

import logging
import threading
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from virtio.errors import InternalError
from vmm.config import MachineConfig
from vmm.ending import End, Ending
from vmm.guest import boot_source
from vmm.halt_watch import HaltWatch
from vmm.hardware import Hardware
from vmm.loop import EventLoop
from vmm.serial_console import SerialConsole
from vmm.stats import Statistics
from vmm.vcpu import VcpuThread
from vmm.verdict import Verdict
from vmm.x86 import platform
from vmm.x86.boot import write_boot
from vmm.x86.completion import Completer

logger = logging.getLogger(__name__)

_LAST_LINES: Final = 12


class Machine:
    """A virtual machine, from a configuration; use it in a ``with`` block.

        with Machine(MachineConfig()) as machine:
            machine.boot()
            machine.console.wait_for("# ", timeout=60)
            machine.console.send("poweroff\\n")
            print(machine.wait(timeout=60).message)

    Entering the block opens everything that the machine needs of the host; leaving it stops the
    guest and gives all of it back. ``console`` is the guest's serial console, ``loop`` the event
    loop, for whoever connects files of the host to the machine.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.console = SerialConsole()
        self.threads: list[VcpuThread] = []
        self._resources = ExitStack()
        self._described = False

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            self.loop = resources.enter_context(EventLoop(self._loop_failed))
            self._verdict = Verdict(self.loop.call_later)
            self.hardware = Hardware(self.config, self.loop, self._guest_events(), resources)
            self._loop_thread = threading.Thread(
                target=self.loop.run, name="event-loop", daemon=True
            )
            self._resources = resources.pop_all()
        serial = self.hardware.legacy.serial
        serial.on_space = self.console.feed
        self.console.connect(serial)
        self.console.on_line(self._verdict.see_line)
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
        """Load the guest and let it run; the default guest is built first if it is not cached.

        Raises :class:`ConfigurationError` when the kernel or the initrd cannot be booted.
        """
        hardware, cpus = self.hardware, self.config.cpus
        entry = write_boot(
            hardware.ram, boot_source(self.config), cpus=cpus, windows=hardware.windows
        )
        for index in range(cpus):
            vcpu = self._resources.enter_context(hardware.vm.create_vcpu(index))
            platform.set_up_vcpu(hardware.kvm, vcpu, cpus, entry)
            self.threads.append(
                VcpuThread(
                    vcpu,
                    hardware.ports,
                    hardware.mmio,
                    Completer(hardware.ram),
                    self._verdict.vcpu_ended,
                )
            )
        self._loop_thread.start()
        logger.info("entering the guest")
        for thread in self.threads:
            thread.start()
        HaltWatch(self.loop, self.threads, self._verdict.guest_halted).start()

    def wait(self, timeout: float | None = None) -> Ending:
        """Wait until the guest has ended, and say how; after ``timeout`` seconds it is stopped."""
        if not self._verdict.wait(timeout):
            self._verdict.end(End.TIMEOUT, f"{End.TIMEOUT.value} of {timeout:g} s")
        return self._finish()

    def end(self, end: End, message: str = "") -> None:
        """Have :meth:`wait` return with this ending, unless there is one; from any thread."""
        self._verdict.end(end, message)

    def stop(self) -> Ending:
        """End the guest now, unless it has ended already, and say how it ended."""
        self._verdict.end(End.STOPPED)
        return self._finish()

    @property
    def statistics(self) -> Statistics:
        """What happened so far, counted."""
        return Statistics.collect(self.threads, self.hardware)

    def _guest_events(self) -> platform.GuestEvents:
        return platform.GuestEvents(
            output=self.console.write,
            reset=self._verdict.guest_reset,
            status=self._verdict.guest_reported,
            panic=self._verdict.guest_signalled,
        )

    def _loop_failed(self, error: Exception) -> None:
        self._verdict.end(End.HOST_FAILED, f"event loop: {error!r}")

    def _finish(self) -> Ending:
        self._stop_threads()
        ending = self._verdict.ending
        if ending is None:
            raise InternalError("a machine is finished before it has an ending")
        if not ending.expected and not self._described:
            self._described = True
            ending.report.extend(self._describe())
        return ending

    def _stop_threads(self) -> None:
        for thread in self.threads:
            thread.stop()
        if self._loop_thread.ident is not None:
            self.loop.stop()
            self._loop_thread.join()
        self.console.close()

    def _describe(self) -> list[str]:
        """Return what was seen last: the console, each vCPU's position, each device's queues."""
        lines = ["last console lines:"]
        lines += [f"  {line}" for line in self.console.last_lines(_LAST_LINES)]
        lines += [thread.call(platform.position) for thread in self.threads]
        for transport in self.hardware.transports:
            lines += transport.describe()
        return lines
