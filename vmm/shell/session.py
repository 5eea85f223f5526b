"""A machine whose user sits at a prompt of Python's beside it."""

from __future__ import annotations

import gc
import signal
import sys
import time
import traceback
from contextlib import ExitStack, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from virtio.errors import ConfigurationError, Error
from vmm.authoring.file_watch import FileWatch
from vmm.authoring.reloading import Reloader
from vmm.authoring.standstill import DeviceFailure, Standstill
from vmm.cli.heeded import heeding
from vmm.console.text import printable
from vmm.ending.ending import End
from vmm.shell.names import Devices, Later, console_text
from vmm.shell.prompt import Magics, run_lines, run_prompt

if TYPE_CHECKING:
    from vmm.driver_check.live import MachineDoctor
    from vmm.ending.ending import Ending
    from vmm.machine import Machine

GRACE_SECONDS: Final = 10.0
"""How long the guest has to switch itself off when its user leaves."""

CONSOLE_LINES: Final = 20


class _Terminated(BaseException):
    """Somebody ended this process by a signal."""


class MachineShell:
    """The prompt of one machine; ``watching`` says whether devices follow their files unasked.

    ``failed`` tells afterwards whether a line from a file or a pipe raised.
    """

    def __init__(self, *, watching: bool) -> None:
        self.failed = False
        self._watching = watching
        self._shell: Any = None
        self._terminated = ""
        self._doctor: MachineDoctor | None = None

    def watch(self, machine: Machine, stack: ExitStack) -> None:
        """Look after the machine's devices from now on; before the guest runs."""
        self._machine = machine
        self._reloader = Reloader(machine, print)
        self._standstill = Standstill(machine, self._tell_failure)
        self._reloader.may_ask = self._may_ask
        stack.callback(self._standstill.close)
        self._files = FileWatch(self._reloader.files, self._reload)
        stack.callback(self._files.close)

    def serve(self) -> Ending:
        """Serve the user until he leaves, then end the guest, and say how that ended."""
        if self._watching:
            self._files.start()
        names = self._names()
        with heeding([signal.SIGINT], signal.default_int_handler):
            ending = [signal.SIGTERM, signal.SIGHUP]
            with suppress(_Terminated), heeding(ending, self._terminate):
                self._run(names)
            if self._terminated:
                self._machine.end(End.INTERRUPTED, f"interrupted by {self._terminated}")
            self._shell = None
            names.clear()
            gc.collect()
            return self._end()

    def _run(self, names: dict[str, Any]) -> None:
        magics: Magics = {
            "reload": self._magic_reload,
            "continue": self._magic_continue,
            "console": self._magic_console,
            "explain": self._magic_explain,
        }
        if sys.stdin.isatty() and sys.stdout.isatty():
            run_prompt(names, magics, self._banner(names), self._connect)
        else:
            self.failed = not run_lines(sys.stdin, names, magics, self._connect)

    def _connect(self, shell: Any) -> None:
        self._shell = shell
        told = False

        def tell_ending(*_: object) -> None:
            nonlocal told
            if (ending := self._machine.ending) is not None and not told:
                told = True
                print(f"vmm: {printable(ending.message)}")

        shell.events.register("post_run_cell", tell_ending)

    def _names(self) -> dict[str, Any]:
        machine = self._machine
        return {
            "machine": machine,
            "guest": machine.agent_if_any,
            "console": machine.console,
            "devices": Devices(machine),
            "trace": Later(lambda: machine.start_trace().trace),
            "drgn": Later(machine.drgn),
        }

    def _banner(self, names: dict[str, Any]) -> str:
        return (
            f"The guest runs beside. Here are {', '.join(names)}; %console shows what it prints,\n"
            "%reload takes the devices' files anew, Ctrl-D ends it all. docs/shell.md has more.\n"
        )

    # Magics

    def _magic_reload(self, line: str) -> None:
        """Load the file of a device anew: %reload [NAME...]

        The guest's driver lets the old device go and finds the new one, which has its state. A
        device whose handler failed is replaced where it is, and the new one gets the chain at which
        it failed; the machine then runs again. Without a name: the devices that failed, or else all
        that come from files.
        """
        named = line.split()
        for name in named:
            self._reloader.file_of(name)
        if names := named or self._suspended():
            for name in names:
                self._reload(name)
            return
        for name in self._reloader.devices():
            if not self._standstill.stopped:  # by one of those before
                self._reload(name)

    def _magic_continue(self, line: str) -> None:
        """Let a machine that stands still run again; devices that failed need a reset."""
        self._standstill.give_up()

    def _magic_console(self, line: str) -> None:
        """Show the last lines that the guest printed: %console [NUMBER]"""
        count = line.strip() or str(CONSOLE_LINES)
        if not count.isdecimal():
            raise ConfigurationError(f"%console {count}: must be a number of lines")
        print(console_text(self._machine, int(count)))

    def _magic_explain(self, line: str) -> None:
        """Tell what the guest's drivers did wrong since this was first asked: %explain

        Each mistake in three lines: what the driver did, the rule, and what to do next.
        """
        if self._doctor is None:
            from vmm.driver_check.live import MachineDoctor

            self._doctor = MachineDoctor(self._machine)
            print("The drivers are judged from now on; %reload has one begin anew.")
            return
        for diagnosis in (found := self._doctor.look_for_stalls()):
            print(*map(printable, diagnosis.lines), sep="\n  ")
        if not found:
            print("No driver of the guest broke a rule since this was first asked.")

    # Devices that fail

    def _may_ask(self, name: str) -> bool:
        """Whether the guest runs; let it, if the device is one that holds it up."""
        if name in self._suspended():
            self._standstill.go_on()
        return not self._standstill.stopped

    def _suspended(self) -> list[str]:
        return [one.name for one in self._machine.hardware.transports if one.suspended]

    def _reload(self, name: str) -> None:
        self._reloader.reload(name)
        if not self._suspended():
            self._standstill.go_on()

    def _tell_failure(self, failure: DeviceFailure) -> None:
        lines = traceback.format_exception(failure.error)
        advice = "%continue gives it up."
        if (file := self._reloader.devices().get(failure.name)) is not None:
            advice = f"Mend {file.path} and %reload; {advice}"
        print(
            f"{failure.name} failed, and the machine stands still. {advice}",
            "".join(lines).rstrip(),
            failure.situation,
            sep="\n",
            flush=True,
        )
        if self._shell is not None:  # for %debug
            self._shell.InteractiveTB.tb = failure.error.__traceback__

    # The end

    def _end(self) -> Ending:
        """Ask the guest to switch itself off, if it can be asked, and stop the machine then."""
        machine = self._machine
        if not self._standstill.stopped and machine.ending is None and self._ask():
            end = time.monotonic() + GRACE_SECONDS
            while machine.ending is None and time.monotonic() < end:
                time.sleep(0.01)
        return machine.stop()

    def _ask(self) -> bool:
        agent = self._machine.agent_if_any
        if agent is not None:
            try:
                agent.wait_ready(0)
                agent.power_off(timeout=GRACE_SECONDS)
            except (Error, TimeoutError):
                return self._machine.press_power_button()
            return True
        return self._machine.press_power_button()

    def _terminate(self, number: int, frame: FrameType | None) -> NoReturn:
        """Break off what is run: IPython catches all that is raised, and looks at its wish."""
        self._terminated = signal.Signals(number).name
        if self._shell is not None:
            self._shell.ask_exit()
        raise _Terminated
