"""The errors of a test's guest."""

from virtio.errors import Error
from vmm.ending.ending import Ending


class GuestEndedError(Error):
    """The guest ended while the test was using it; ``ending`` tells how.

    ``doing`` says what the test waited for then, and ``seconds`` for how long.
    """

    def __init__(self, ending: Ending, doing: str = "", seconds: float = 0.0) -> None:
        cut_off = f" while {doing} ({seconds:.1f} s)" if doing else ""
        super().__init__(ending.message + cut_off)
        self.ending = ending
