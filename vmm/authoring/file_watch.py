"""Tells when files were saved, by looking at them a few times a second.

A look is one ``stat`` of each file, a microsecond. inotify(7) would tell earlier, and would have to
be told of an editor that writes a new file and renames it, of one that removes the old file first,
and of file systems that other hosts change; a look sees all of these.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from vmm.host.threads import start_thread

INTERVAL_SECONDS: Final = 0.03
CLOSE_SECONDS: Final = 10.0
"""How long a call that is being made has to return when the run ends."""

_Version = tuple[int, int, int] | None
_Key = tuple[str, Path]


class FileWatch:
    """Calls ``on_saved``, on a thread of its own, with each name one of whose files was saved.

    ``files`` returns the files of each name, and is asked at each look. A file counts as saved when
    it is there, is another one than before, and was the same at two looks: an editor may write it
    in pieces. That also tells two savings apart that fall into one tick of the file system's clock.
    """

    def __init__(
        self,
        files: Callable[[], Mapping[str, Iterable[Path]]],
        on_saved: Callable[[str], object],
    ) -> None:
        self._files = files
        self._on_saved = on_saved
        self._known = self._last = self._now()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="file-watch", daemon=True)

    def start(self) -> None:
        """Begin to look; what was saved since this was made is told first."""
        start_thread(self._thread)

    def close(self) -> None:
        """Look no more, and wait a while for a call that is made; harmless when repeated."""
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_SECONDS)

    def look(self) -> None:
        """Look once."""
        last, self._last = self._last, self._now()
        saved = [
            key
            for key, version in self._last.items()
            if version is not None and version == last.get(key, version)
            if version != self._known.get(key, version)
        ]
        self._known = self._last | self._known | {key: self._last[key] for key in saved}
        for name in dict.fromkeys(name for name, _ in saved):
            self._on_saved(name)

    def _run(self) -> None:
        while not self._closed.wait(INTERVAL_SECONDS):
            self.look()

    def _now(self) -> dict[_Key, _Version]:
        files = self._files()
        return {(name, path): _version(path) for name, paths in files.items() for path in paths}


def _version(path: Path) -> _Version:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
