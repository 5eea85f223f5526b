"""Free-page hinting: which pages a guest says are free while the host asks for them.

VIRTIO 1.4 "Free Page Hinting". The host asks by a command ID in configuration space. The driver
repeats the ID in a buffer, names pages by buffers, and ends with STOP. The host may then do with
those pages what it likes, unless the guest has written them *since the ID was given*: it may take a
page back at any time, and says nothing. Only who knows what the guest wrote can use a hint, so the
device collects them and changes nothing.
"""

from typing import Final

from virtio.balloon.pages import Range

STOP: Final = 0
DONE: Final = 1
FIRST_ID: Final = 2
LAST_ID: Final = 0xFFFF_FFFF

MAX_RANGES: Final = 1 << 16
"""How many ranges are kept, whatever a driver sends; those beyond are as if it had not sent them.

Linux names blocks of 4 MiB: these are 256 GiB.
"""


class Hints:
    """What came in answer to the command ``id``, STOP for none; ``told`` is the ID of the driver.

    ``last_id`` is that of the newest command: no ID is used twice before all others were.
    """

    def __init__(self) -> None:
        self.last_id = FIRST_ID - 1
        self.forget()

    def forget(self) -> None:
        """Know of no command: the driver is reset."""
        self.id = self.told = STOP
        self.ranges: list[Range] = []
        self.is_complete = False

    def begin(self) -> int:
        """Begin a command, and return its ID."""
        self.last_id = self.id = FIRST_ID if self.last_id >= LAST_ID else self.last_id + 1
        self.ranges, self.is_complete = [], False
        return self.id

    def end(self) -> None:
        """Know that the host uses no hint any more, new ones included."""
        self.id, self.ranges, self.is_complete = STOP, [], False

    def hear(self, command: int) -> bool:
        """Take a command of the driver's; returns whether it has told all pages of ours by it."""
        if command != STOP:
            self.told = command
            return False
        ended, self.told = self.told, STOP
        completes = self.id != STOP and ended == self.id and not self.is_complete
        self.is_complete |= completes
        return completes

    def add(self, part: Range) -> None:
        """Take a hint; one for another command than ours is ignored (``BAL-05``)."""
        current = self.id != STOP and self.told == self.id and not self.is_complete
        if current and len(self.ranges) < MAX_RANGES:
            self.ranges.append(part)
