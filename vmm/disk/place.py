"""Where a disk is: the path of a file, or the URI of an export."""

from __future__ import annotations

import os
import re
from typing import Final

_SCHEME: Final = re.compile(r"nbds?(\+[a-z]+)?://")


def is_url(path: str) -> bool:
    """Whether a disk is named by a URI.

    >>> is_url("nbd://host/export"), is_url("nbd/file")
    (True, False)
    """
    return _SCHEME.match(path) is not None


def absolute(path: str) -> str:
    """Return the name of a disk that is good in every folder.

    Raises :class:`ConfigurationError` for a URI that is none.
    """
    if not is_url(path):
        return os.path.abspath(path)
    from vmm.disk.nbd.place import NbdPlace

    return NbdPlace.parse(path).absolute.url
