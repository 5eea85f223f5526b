"""Tells a guest that stays after its panic from one that only printed the words.

With ``panic=0`` Linux neither resets nor halts: it waits in the kernel for ever, with interrupts on
(kernel/panic.c), so its clock ticks on and its processor is busy. What it never does again is to
run a program, or to idle. So after the words the processors are looked at, many times.
"""

import threading
from collections.abc import Callable
from typing import Final

INTERVAL_SECONDS: Final = 0.25

LOOKS_OF_SILENCE: Final = 20
"""So many looks one after the other without life make a panic."""

LOOKS_FOR_LIFE: Final = 40
"""Life counts after so many: the other processors run on while the first one prints its trace."""

CallLater = Callable[[float, Callable[[], object]], object]


class PanicWatch:
    """Calls ``on_silence`` when looks find no life for long, and ``on_life`` when a late one does.

    ``shows_life`` says whether a processor runs a program or idles; it and the others are called by
    ``call_later``, which is the event loop's.
    """

    def __init__(
        self,
        call_later: CallLater,
        shows_life: Callable[[], bool],
        on_life: Callable[[], object],
        on_silence: Callable[[], object],
    ) -> None:
        self._call_later = call_later
        self._shows_life = shows_life
        self._on_life = on_life
        self._on_silence = on_silence
        self._lock = threading.Lock()
        self._watching = False
        self._looks = 0
        self._silent = 0

    def start(self) -> None:
        """Begin to look; without effect while a watch is under way. From any thread."""
        with self._lock:
            if self._watching:
                return
            self._watching = True
            self._looks = self._silent = 0
        self._call_later(INTERVAL_SECONDS, self._look)

    def _look(self) -> None:
        alive = self._shows_life()
        with self._lock:
            self._looks += 1
            self._silent = 0 if alive else self._silent + 1
            silent = self._silent == LOOKS_OF_SILENCE
            lives = alive and self._looks >= LOOKS_FOR_LIFE
            self._watching = not (silent or lives)
        if silent:
            self._on_silence()
        elif lives:
            self._on_life()
        else:
            self._call_later(INTERVAL_SECONDS, self._look)
