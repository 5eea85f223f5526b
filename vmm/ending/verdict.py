"""The verdict on a run: the ending that the first conclusive sign gives.

Signs come from vCPU threads, the event loop, the user's thread and signal handlers.
"""

from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

from vmm.console.text import printable
from vmm.ending.ending import End, Ending
from vmm.ending.signs import GuestSigns
from vmm.legacy.pvpanic import PVPANIC_SHUTDOWN

_PANIC_GRACE_SECONDS: Final = 10.0
_LONGEST_REASON: Final = 200

CallLater = Callable[[float, Callable[[], object]], object]


class Verdict:
    """Decides how the guest ended; ``call_later`` is the event loop's."""

    def __init__(self, call_later: CallLater) -> None:
        self._call_later = call_later
        self._signs = GuestSigns()
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

    def end(self, end: End, message: str = "", report: list[str] | None = None) -> None:
        """Note an ending by its parts; the message defaults to the value of ``end``."""
        self.reach(Ending(end, message or end.value, report or []))

    def see_line(self, line: str) -> None:
        """Look at a line of the console.

        After a panic the guest still prints a trace and then stops or resets: it gets some seconds
        for this.
        """
        panicked = self._signs.panic is not None
        self._signs.see(line)
        if self._signs.panic_ended:
            self._panicked()
        elif self._signs.panic is not None and not panicked:
            self._call_later(_PANIC_GRACE_SECONDS, self._panicked)

    def guest_reset(self) -> None:
        """Note that the guest asked for a reset of the machine."""
        self._unless_panicked(End.REBOOT)

    def guest_reported(self, status: int) -> None:
        """Note that the guest wrote ``status`` to the debug-exit port."""
        reported = status & 0xFF
        message = f"the guest reported status {reported}"
        self.reach(Ending(End.REPORTED, message, reported=reported))

    def guest_signalled(self, events: int) -> None:
        """Note that the guest wrote ``events`` to the pvpanic port."""
        if events & PVPANIC_SHUTDOWN:
            self.end(End.POWER_OFF)
        else:
            self._panicked()

    def guest_halted(self, *, devices_reset: bool = False) -> None:
        """Note that no vCPU will run again: all are halted with interrupts off.

        ``devices_reset`` says that the guest had reset all of its devices. Linux does this on its
        way to the end, and a virtio console then misses the line that announces a power-off.
        """
        powered_off = self._signs.powered_off or devices_reset
        self._unless_panicked(End.POWER_OFF if powered_off else End.HALTED)

    def vcpu_ended(self, end: End, message: str, report: list[str]) -> None:
        """Note that a vCPU cannot go on; a triple fault is also how Linux resets a PC at last."""
        if end is not End.TRIPLE_FAULT:
            self.end(end, message, report)
        elif self._signs.restarting:
            self._unless_panicked(End.REBOOT)
        else:
            self._unless_panicked(end, message, report)

    def _unless_panicked(
        self, end: End, message: str = "", report: list[str] | None = None
    ) -> None:
        if self._signs.panic is not None:
            self._panicked()
        else:
            self.end(end, message, report)

    def _panicked(self) -> None:
        reason = printable(self._signs.panic or "it gave no reason", _LONGEST_REASON)
        self.end(End.PANIC, f"{End.PANIC.value}: {reason}")
