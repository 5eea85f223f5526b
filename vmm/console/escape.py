"""The escape key: what a user types at the machine, rather than at the guest."""

import enum

ESCAPE = 0x01
HELP_TEXT = (
    "Ctrl-A x  end the machine\r\n"
    "Ctrl-A a  send Ctrl-A to the guest\r\n"
    "Ctrl-A h  show this help\r\n"
)


class EscapeAction(enum.Enum):
    """What the user asked for with the escape key."""

    QUIT = "quit"
    HELP = "help"


class EscapeFilter:
    """Takes Ctrl-A and the key after it out of the input; other keys after it are swallowed."""

    def __init__(self) -> None:
        self._escaped = False

    def feed(self, data: bytes) -> tuple[bytes, EscapeAction | None]:
        """Return what is left for the guest, and what the user asked for, if anything.

        The key may come in a later call than the Ctrl-A. What follows a request to quit is
        dropped.
        """
        if not self._escaped and ESCAPE not in data:
            return data, None
        kept = bytearray()
        action = None
        for key in data:
            if not self._escaped:
                if key == ESCAPE:
                    self._escaped = True
                else:
                    kept.append(key)
                continue
            self._escaped = False
            if key in b"xX":
                return bytes(kept), EscapeAction.QUIT
            if key in b"hH?":
                action = EscapeAction.HELP
            elif key in b"aA\x01":
                kept.append(ESCAPE)
        return bytes(kept), action
