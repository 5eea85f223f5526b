"""The verdict on a run: the ending that the first conclusive sign gives.

Signs come from vCPU threads, the event loop, the user's thread and signal handlers. What a guest
prints is a note, and ends nothing: it gives the reason of a reset, a halt, a triple fault or a
kernel that stands still. An ending names the signs that it rests on.
"""

from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

from vmm.console.text import printable
from vmm.ending.ending import End, Ending, OnPanic
from vmm.ending.panic_watch import CallLater, PanicWatch
from vmm.ending.signs import GuestSigns
from vmm.legacy.pvpanic import PVPANIC_PANICKED, PVPANIC_SHUTDOWN

_LONGEST_REASON: Final = 200
_LOG: Final = "the kernel's log"


class Verdict:
    """Decides how the guest ended; ``call_later`` is the event loop's.

    ``shows_life`` says whether a vCPU runs a program or idles at this moment. ``on_reached`` is
    called when there is an ending, by whoever brings it: also by a signal handler. ``on_panic`` is
    that of :class:`vmm.MachineConfig`.
    """

    def __init__(
        self,
        call_later: CallLater,
        shows_life: Callable[[], bool],
        on_reached: Callable[[], object] = lambda: None,
        *,
        on_panic: OnPanic = "auto",
    ) -> None:
        self._signs = GuestSigns()
        self._on_reached = on_reached
        self._on_panic = on_panic
        self._panic_seen: list[str] = []  # signs of a panic after which the guest went on
        self._panic_watch = PanicWatch(
            call_later, shows_life, self._signs.withdraw_panic, self._stands_still
        )
        # Its put() may be called from a signal handler at any moment, which no lock allows.
        self._reached: SimpleQueue[Ending] = SimpleQueue()
        self._ending: Ending | None = None

    @property
    def ending(self) -> Ending | None:
        """The ending, None as long as the guest goes on."""
        self.wait(0)
        return self._ending

    def wait(self, timeout: float | None) -> bool:
        """Wait for an ending; False when there is none after ``timeout`` seconds."""
        if self._ending is None:
            with suppress(Empty):
                first = self._reached.get(timeout=timeout)
                self._ending = self._ending or first
                self._reached.put(first)  # for others who wait
        return self._ending is not None

    def reach(self, ending: Ending) -> None:
        """Note an ending; it has no effect when there is one already."""
        # One is enough: a guest may ask for its reset as often as it likes.
        if self._ending is None and self._reached.empty():
            self._reached.put(ending)
            self._on_reached()

    def end(
        self,
        end: End,
        message: str = "",
        report: list[str] | None = None,
        rests_on: tuple[str, ...] = (),
    ) -> None:
        """Note an ending by its parts; the message defaults to the value of ``end``.

        That of a guest which ran out of time after its panic tells of the panic too.
        """
        message = message or end.value
        if end is End.TIMEOUT and self._panic_seen:
            message += (
                f"; its kernel had panicked: {self._reason()} ({', '.join(self._panic_seen)})"
            )
            rests_on = (*self._panic_seen, *rests_on)
        self.reach(Ending(end, message, report or [], rests_on=rests_on))

    def see_line(self, line: str) -> None:
        """Look at a line of the console."""
        self._signs.see(line)
        if self._signs.panic is not None:
            self._panic_watch.start()

    def guest_reset(self, *, devices_reset: bool = False) -> None:
        """Note that the guest asked for a reset of the machine; see :meth:`guest_halted`."""
        if devices_reset:
            self._signs.withdraw_panic()
        self._unless_panicked("a reset", End.REBOOT)

    def guest_powered_off(self, *, devices_reset: bool = False) -> None:
        """Note that the guest switched the machine off; see :meth:`guest_halted`."""
        if devices_reset:
            self._signs.withdraw_panic()
        self._unless_panicked("ACPI's power-off", End.POWER_OFF)

    def guest_reported(self, status: int) -> None:
        """Note that the guest wrote ``status`` to the debug-exit port.

        After a panic that is certain it is the crash kernel's, and no verdict on the run.
        """
        reported = status & 0xFF
        sign = "the debug-exit port"
        if self._panic_seen:
            self._panicked(sign, reported=reported)
            return
        message = f"the guest reported status {reported}"
        self.reach(Ending(End.REPORTED, message, reported=reported, rests_on=(sign,)))

    def guest_signalled(self, events: int) -> None:
        """Note that the guest wrote ``events`` to the pvpanic port.

        A guest with a crash kernel is let finish, unless ``on_panic`` is "end"; with "wait" any is.
        What ends it later is then the end of its panic.
        """
        if events & PVPANIC_SHUTDOWN:
            self._signs.withdraw_panic()
            self._unless_panicked("pvpanic's power-off", End.POWER_OFF)
            return
        panicked = bool(events & PVPANIC_PANICKED)
        self._signs.confirm_panic()
        sign = "pvpanic" if panicked else "pvpanic of a guest with a crash kernel"
        if sign not in self._panic_seen:  # a guest may write it without end
            self._panic_seen.append(sign)
        if self._on_panic == "end" or (panicked and self._on_panic == "auto"):
            self._panicked()

    def guest_halted(self, *, devices_reset: bool = False) -> None:
        """Note that no vCPU will run again: all are halted with interrupts off.

        ``devices_reset`` says that the guest had reset all of its devices. Linux does this on its
        way to an orderly end, and a virtio console then misses the line that announces it; on its
        way from a panic Linux never does.
        """
        if devices_reset:
            self._signs.withdraw_panic()
            self._unless_panicked("a halt for ever with all devices reset", End.POWER_OFF)
        elif self._signs.powered_off:
            self._unless_panicked("a halt for ever", End.POWER_OFF, log=True)
        else:
            self._unless_panicked("a halt for ever", End.HALTED)

    def vcpu_ended(self, end: End, message: str, report: list[str]) -> None:
        """Note that a vCPU cannot go on; a triple fault is also how Linux resets a PC at last."""
        if end is not End.TRIPLE_FAULT:
            self.end(end, message, report)
        elif self._signs.restarting:
            self._unless_panicked("a triple fault", End.REBOOT, log=True)
        else:
            self._unless_panicked("a triple fault", end, message, report)

    def _unless_panicked(
        self,
        seen: str,
        end: End,
        message: str = "",
        report: list[str] | None = None,
        *,
        log: bool = False,
    ) -> None:
        if self._signs.panic is not None or self._panic_seen:
            self._panicked(seen)
        else:
            self.end(end, message, report, (_LOG, seen) if log else (seen,))

    def _stands_still(self) -> None:
        # Before its last words a kernel may be slow: to print, or to start a crash kernel.
        said_all = self._signs.panic is not None and self._signs.panic_ended
        if said_all and self._on_panic != "wait":
            self._panicked("a kernel that stands still")

    def _panicked(self, *seen: str, reported: int = 0) -> None:
        log = [] if self._signs.panic is None else [_LOG]
        signs = (*self._panic_seen, *log, *seen)
        message = f"{End.PANIC.value}: {self._reason()} ({', and '.join(signs)})"
        self.reach(Ending(End.PANIC, message, reported=reported, rests_on=signs))

    def _reason(self) -> str:
        return printable(self._signs.panic or "it gave no reason", _LONGEST_REASON)
