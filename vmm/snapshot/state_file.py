"""The file that a snapshot's state is kept in: one line that says what it is, then JSON.

    pyvmm-snapshot 7 sha256=<64 hexadecimal digits of all that follows the line>
    {"host": ..., "contents": ...}

So ``head -1`` tells the version, and ``tail -n +2 | python3 -m json.tool`` shows a saved machine.
The digest finds damage, not malice: all that is read is checked, and bounded before it is parsed.
"""

import json
import os
import re
from typing import Any, Final

from virtio.errors import ConfigurationError
from vmm.host.digest import sha256
from vmm.snapshot.folder import SnapshotFolder

VERSION: Final = 7
"""Raised whenever a part of the state changes its form or its meaning."""

STATE_FILE: Final = "state"
MAX_STATE_BYTES: Final = 64 << 20
MAX_VALUES: Final = 1 << 20
"""How many values the JSON may have: each takes up to 100 times as much memory as text."""

_HEAD = re.compile(rb"pyvmm-snapshot (\d{1,9}) sha256=([0-9a-f]{64})\n")
_HEAD_BYTES: Final = 128


def write_state(folder: SnapshotFolder, content: dict[str, Any]) -> None:
    """Write a state file; :class:`ConfigurationError` for a state too large to be read again."""
    body = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    if fault := _too_large(body):
        raise ConfigurationError(f"snapshot {folder.path}: cannot be saved: {fault}")
    head = f"pyvmm-snapshot {VERSION} sha256={sha256(body).hexdigest()}\n"
    with open(folder.new_file(STATE_FILE), "wb") as file:
        file.write(head.encode() + body)


def read_state(folder: SnapshotFolder) -> dict[str, Any]:
    """Return the content of a state file.

    Raises :class:`ConfigurationError` when it is none, is damaged, or is of another version.
    """
    with open(folder.open_file(STATE_FILE), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_STATE_BYTES:
            raise folder.damaged(f"{size} bytes, at most {MAX_STATE_BYTES} are read", STATE_FILE)
        data = file.read(MAX_STATE_BYTES + 1)
    head = _HEAD.match(data[:_HEAD_BYTES])
    if head is None:
        raise folder.damaged("not the state of a machine", STATE_FILE)
    if int(head[1]) != VERSION:
        raise folder.damaged(
            f"of version {int(head[1])}, this program reads version {VERSION}: take it again",
            STATE_FILE,
        )
    body = data[head.end() :]
    if sha256(body).hexdigest().encode() != head[2]:
        raise folder.damaged("damaged: its checksum is wrong", STATE_FILE)
    return _parsed(folder, body)


def _parsed(folder: SnapshotFolder, body: bytes) -> dict[str, Any]:
    if fault := _too_large(body):
        raise folder.damaged(f"damaged: {fault}")
    try:
        content = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise folder.damaged("damaged: lists in lists without end") from None
    except ValueError:  # of JSON, of UTF-8, or of a number with thousands of digits
        raise folder.damaged("damaged: it is no JSON that a machine was saved as") from None
    if not isinstance(content, dict):
        raise folder.damaged("damaged: it is no JSON object")
    return content


def _too_large(body: bytes) -> str:
    if len(body) > MAX_STATE_BYTES - _HEAD_BYTES:
        return f"its state has {len(body)} bytes, at most {MAX_STATE_BYTES} are possible"
    values = sum(map(body.count, (b",", b"[", b"{")))
    if values > MAX_VALUES:
        return f"its state has over {values} values, at most {MAX_VALUES} are possible"
    return ""


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of a state")
