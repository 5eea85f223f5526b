"""The ways a guest can end: each has a name, a process exit status, and a message.

The README has the same table. A status that the guest itself reports through the debug-exit port
becomes the process's status unchanged.
"""

import enum
from typing import Final, Literal

from virtio.dataclass import dataclass, field

STATUS_CONFIGURATION: Final = 2
STATUS_HOST: Final = 125
STATUS_INTERRUPTED: Final = 130


OnPanic = Literal["auto", "wait", "end"]


class End(enum.Enum):
    """A way for a guest to end; its value says what happened."""

    POWER_OFF = "the guest powered off"
    REPORTED = "the guest reported a status"
    REBOOT = "the guest asked for a reboot"
    PANIC = "the guest's kernel panicked"
    TRIPLE_FAULT = "the guest triple-faulted"
    VCPU_FAILED = "KVM could not run a vCPU"
    TIMEOUT = "the guest made no end within its time"
    HALTED = "every vCPU halted for ever with interrupts off"
    STOPPED = "the machine was stopped"
    HOST_FAILED = "the host or this program failed"
    INTERRUPTED = "the run was interrupted"


_STATUS: Final = {
    End.POWER_OFF: 0,
    End.STOPPED: 0,
    End.REBOOT: 120,
    End.PANIC: 121,
    End.TRIPLE_FAULT: 122,
    End.VCPU_FAILED: 123,
    End.TIMEOUT: 124,
    End.HOST_FAILED: STATUS_HOST,
    End.HALTED: 126,
    End.INTERRUPTED: STATUS_INTERRUPTED,
}


@dataclass(frozen=True, slots=True)
class Ending:
    """The way one run ended.

    ``message`` is one line. ``report`` shows the last state (console lines, where each vCPU was,
    the queues) after an end that nobody asked for. ``reported`` is the status that the guest wrote
    to the debug-exit port, when ``end`` is ``End.REPORTED`` or that came after a panic.
    ``rests_on`` names the signs by which the end was told, where more than one way leads to it.

    >>> panic = Ending(End.PANIC, "the guest's kernel panicked: no root (pvpanic)")
    >>> panic.status, panic.expected
    (121, False)
    >>> Ending(End.REPORTED, "the guest reported status 3", reported=3).status
    3
    """

    end: End
    message: str
    report: list[str] = field(default_factory=list)
    reported: int = 0
    rests_on: tuple[str, ...] = ()

    @property
    def status(self) -> int:
        """The process exit status, 0 to 255."""
        return self.reported & 0xFF if self.end is End.REPORTED else _STATUS[self.end]

    @property
    def expected(self) -> bool:
        """Whether the guest, or its user, asked for this end."""
        return self.end in (End.POWER_OFF, End.REPORTED, End.REBOOT, End.STOPPED, End.INTERRUPTED)
