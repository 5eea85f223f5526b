"""The errors of a test's guest."""

from collections.abc import Sequence
from typing import Final

from virtio.errors import Error
from vmm.ending.complaints import Complaint
from vmm.ending.ending import Ending

_MOST_SHOWN: Final = 5
_ALLOW: Final = "allow_complaints= of the marker guest takes True or patterns of those to let pass"


class GuestEndedError(Error):
    """The guest ended while the test was using it; ``ending`` tells how.

    ``doing`` says what the test waited for then, and ``seconds`` for how long.
    """

    def __init__(self, ending: Ending, doing: str = "", seconds: float = 0.0) -> None:
        cut_off = f" while {doing} ({seconds:.1f} s)" if doing else ""
        super().__init__(ending.message + cut_off)
        self.ending = ending


class GuestComplaintError(Error):
    """The guest's kernel complained, as no test has allowed it to; ``complaints`` are its reports.

    The message has them whole.
    """

    def __init__(self, complaints: Sequence[Complaint], doing: str = "") -> None:
        while_doing = f" while {doing}" if doing else ""
        others = f" (the first of {len(complaints)})" if len(complaints) > 1 else ""
        lines = [f"the guest's kernel complained{while_doing}: {complaints[0].title}{others}"]
        for one in complaints[:_MOST_SHOWN]:
            if one.lines != [complaints[0].title]:
                lines += ["", *one.lines]
        if len(complaints) > _MOST_SHOWN:
            lines += ["", f"and {len(complaints) - _MOST_SHOWN} more"]
        super().__init__("\n".join([*lines, "", _ALLOW]))
        self.complaints = tuple(complaints)
