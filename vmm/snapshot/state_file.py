"""The file that a snapshot's state is kept in: one line that says what it is, then JSON.

    pyvmm-snapshot 2 sha256=<64 hexadecimal digits of all that follows the line>
    {"host": ..., "state": ...}

So ``head -1`` tells the version, and ``tail -n +2 | python3 -m json.tool`` shows a saved machine.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

from virtio.errors import ConfigurationError
from vmm.host.digest import sha256

VERSION: Final = 2
"""Raised whenever a part of the state changes its form or its meaning."""

_HEAD = re.compile(rb"pyvmm-snapshot (\d{1,9}) sha256=([0-9a-f]{64})\n")
_HEAD_BYTES: Final = 128


def write_state(path: Path, content: dict[str, Any]) -> None:
    """Write a state file."""
    body = json.dumps(content, separators=(",", ":")).encode()
    head = f"pyvmm-snapshot {VERSION} sha256={sha256(body).hexdigest()}\n"
    path.write_bytes(head.encode() + body)


def read_state(path: Path) -> dict[str, Any]:
    """Return the content of a state file.

    Raises :class:`ConfigurationError` when it is none, is damaged, or is of another version.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"snapshot {path}: {error.strerror}") from None
    head = _HEAD.match(data[:_HEAD_BYTES])
    if head is None:
        raise ConfigurationError(f"snapshot {path}: not the state of a machine")
    if int(head[1]) != VERSION:
        raise ConfigurationError(
            f"snapshot {path}: of version {int(head[1])}, this program reads version {VERSION}:"
            " take it again"
        )
    body = data[head.end() :]
    if sha256(body).hexdigest().encode() != head[2]:
        raise ConfigurationError(f"snapshot {path}: damaged: its checksum is wrong")
    content: dict[str, Any] = json.loads(body)
    return content
