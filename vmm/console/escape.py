"""The escape key, with which a user speaks to the machine rather than to the guest."""

import enum

ESCAPE = 0x01
HELP_TEXT = (
    "Ctrl-A x  end the machine\r\n"
    "Ctrl-A p  press the guest's power button, which asks it to switch itself off\r\n"
    "Ctrl-A a  send Ctrl-A to the guest\r\n"
    "Ctrl-A z  stop vmm, until the shell continues it\r\n"
    "Ctrl-A h  show this help\r\n"
)


class EscapeAction(enum.Enum):
    """A wish of the user, by the escape key."""

    QUIT = "quit"
    POWER_BUTTON = "power button"
    HELP = "help"
    SUSPEND = "suspend"


class EscapeFilter:
    """Takes Ctrl-A and the key after it out of the input.

    >>> EscapeFilter().feed(b"ls\\n\\x01x")
    (b'ls\\n', <EscapeAction.QUIT: 'quit'>)
    """

    def __init__(self) -> None:
        self._escaped = False

    def feed(self, data: bytes) -> tuple[bytes, EscapeAction | None]:
        """Return the input for the guest, and the user's wish, if there is one.

        The key may come in a later call than the Ctrl-A; a key without a meaning is dropped, and so
        is all input after a wish to quit.
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
            elif key in b"pP":
                action = EscapeAction.POWER_BUTTON
            elif key in b"zZ\x1a":
                action = EscapeAction.SUSPEND
            elif key in b"aA\x01":
                kept.append(ESCAPE)
        return bytes(kept), action
