"""The verdict on a run: the ending that the first conclusive sign gives.

Signs come from vCPU threads, the event loop, the user's thread and signal handlers. What a guest
prints is a note, and ends nothing: it gives the reason of a reset, a halt, a triple fault or a
kernel that stands still. The report of a panic begins with what the verdict rests on.
"""

from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

from vmm.console.text import printable
from vmm.ending.ending import End, Ending
from vmm.ending.panic_watch import CallLater, PanicWatch
from vmm.ending.signs import GuestSigns
from vmm.legacy.pvpanic import PVPANIC_PANICKED, PVPANIC_SHUTDOWN

_LONGEST_REASON: Final = 200


class Verdict:
    """Decides how the guest ended; ``call_later`` is the event loop's.

    ``shows_life`` says whether a vCPU runs a program or idles at this moment. ``on_reached`` is
    called when there is an ending, by whoever brings it: also by a signal handler.
    """

    def __init__(
        self,
        call_later: CallLater,
        shows_life: Callable[[], bool],
        on_reached: Callable[[], object] = lambda: None,
    ) -> None:
        self._signs = GuestSigns()
        self._crash_kernel = False
        self._on_reached = on_reached
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

    def end(self, end: End, message: str = "", report: list[str] | None = None) -> None:
        """Note an ending by its parts; the message defaults to the value of ``end``."""
        self.reach(Ending(end, message or end.value, report or []))

    def see_line(self, line: str) -> None:
        """Look at a line of the console."""
        self._signs.see(line)
        if self._signs.panic is not None:
            self._panic_watch.start()

    def guest_reset(self) -> None:
        """Note that the guest asked for a reset of the machine."""
        self._unless_panicked("a reset", End.REBOOT)

    def guest_reported(self, status: int) -> None:
        """Note that the guest wrote ``status`` to the debug-exit port."""
        reported = status & 0xFF
        message = f"the guest reported status {reported}"
        self.reach(Ending(End.REPORTED, message, reported=reported))

    def guest_signalled(self, events: int) -> None:
        """Note that the guest wrote ``events`` to the pvpanic port.

        One that has a crash kernel is let finish: its reset or halt then is the end of the panic.
        """
        if events & PVPANIC_SHUTDOWN:
            self.end(End.POWER_OFF)
        elif events & PVPANIC_PANICKED:
            self._panicked("pvpanic")
        else:
            self._crash_kernel = True

    def guest_halted(self, *, devices_reset: bool = False) -> None:
        """Note that no vCPU will run again: all are halted with interrupts off.

        ``devices_reset`` says that the guest had reset all of its devices. Linux does this on its
        way to the end, and a virtio console then misses the line that announces a power-off.
        """
        powered_off = self._signs.powered_off or devices_reset
        self._unless_panicked("a halt for ever", End.POWER_OFF if powered_off else End.HALTED)

    def vcpu_ended(self, end: End, message: str, report: list[str]) -> None:
        """Note that a vCPU cannot go on; a triple fault is also how Linux resets a PC at last."""
        if end is not End.TRIPLE_FAULT:
            self.end(end, message, report)
        elif self._signs.restarting:
            self._unless_panicked("a triple fault", End.REBOOT)
        else:
            self._unless_panicked("a triple fault", end, message, report)

    def _unless_panicked(
        self, seen: str, end: End, message: str = "", report: list[str] | None = None
    ) -> None:
        if self._signs.panic is not None or self._crash_kernel:
            self._panicked(seen)
        else:
            self.end(end, message, report)

    def _stands_still(self) -> None:
        # Before its last words a kernel may be slow: to print, or to start a crash kernel.
        if self._signs.panic is not None and self._signs.panic_ended:
            self._panicked("a kernel that stands still")

    def _panicked(self, seen: str) -> None:
        signs = [seen]
        if self._crash_kernel:
            signs.append("pvpanic of a guest with a crash kernel")
        if self._signs.panic is not None:
            signs.append("words on the console")
        reason = printable(self._signs.panic or "it gave no reason", _LONGEST_REASON)
        rests_on = f"the verdict rests on {' and '.join(signs)}"
        self.end(End.PANIC, f"{End.PANIC.value}: {reason}", [rests_on])
