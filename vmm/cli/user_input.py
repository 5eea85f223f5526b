"""The descriptor by which the user's input is read."""

import os
from functools import cache
from typing import Final

STANDARD_INPUT: Final = 0


@cache
def user_input() -> int:
    """Return a descriptor of standard input; of a terminal one whose reads never wait.

    What epoll(7) saw on a terminal may be gone at the read: a shell that has the foreground now
    took it. The flag for that belongs to the open file, which we share with that shell, so this
    opens the terminal again. A terminal that may not be opened, as after su(1), is read as it is.

    Opened once, as a confined process opens no file.
    """
    if os.isatty(STANDARD_INPUT):
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            return os.open(f"/proc/self/fd/{STANDARD_INPUT}", flags)
        except OSError:
            pass
    return STANDARD_INPUT
