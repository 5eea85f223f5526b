"""Files that appear under their name when they are complete, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from virtio.errors import ConfigurationError
from vmm.host.files import write_all


def replace_file(path: Path, data: bytes) -> None:
    """Make ``path`` a file with ``data``; whatever fails leaves what was there.

    A pipe or device of that name is written to. Raises :class:`ConfigurationError`.
    """
    try:
        if _takes_writes(path):
            with path.open("wb", buffering=0) as there:
                write_all(there.fileno(), data)
            return
        target = path.resolve()  # a link stays one
        unfinished = target.with_name(f".unfinished-{os.urandom(8).hex()}")
        try:
            with unfinished.open("xb") as file:
                file.write(data)
            unfinished.rename(target)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None


def _takes_writes(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode)
