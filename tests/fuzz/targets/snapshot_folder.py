"""Fuzz the folder of a snapshot: a saved machine, changed in its state or its files.

Input: a byte that chooses the form. Even: up to 12 changes of 11 bytes each (a place in the state,
what to do there, a value); odd: what stands in the state file instead, as JSON or anything else.
The folder is loaded and all restored that needs no KVM. It is refused in one line, or its devices
work without a failure of ours; either way nothing stays open.
"""

import json
import os
import struct
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.fuzz.targets import assert_one_line
from tests.unit.vmm.snapshot.synthetic import make_image, restore, take_snapshot
from virtio.errors import ConfigurationError
from vmm.disk.disk import DiskConfig
from vmm.snapshot import Snapshot

CHANGE = struct.Struct("<HBq")
CHANGES_MAX = 12
LINE_MAX = 5000
REPEATED_MAX = 100_000
HEAD = "pyvmm-snapshot 7 sha256={}\n"
FILES = ("disk0", "disk1", "memory", "state")
VALUES: tuple[Any, ...] = (
    *(None, True, False, "", [], {}, 0, 1, -1, 1.5, 1e300, "disk0", "/etc/passwd", "../disk1"),
    *(255, 256, 65535, 65536, 32767, 32768, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63),
    *((1 << 64) - 1, 1 << 64, 1 << 127, 1 << 128, 1 << 300, {"bytes": ""}, {"bytes": "zz"}),
    *([[0, 1]], [[0, 1 << 40]], [[]] * 100, "x" * 5000, "\n\x1b[2J", {"bytes": "00" * 64}),
)

Place = tuple[str | int, ...]


class Folder:
    """A saved machine on the host's disk, put back after each input."""

    def __init__(self) -> None:
        self._owner = tempfile.TemporaryDirectory(prefix="fuzzed-snapshot-")
        root = Path(self._owner.name)
        self.image = make_image(root / "volatile.img")
        disks = (
            DiskConfig(str(make_image(root / "written.img"))),
            DiskConfig(str(self.image), volatile=True),
        )
        self.path = root / "saved"
        with take_snapshot(*disks) as snapshot:
            snapshot.save(self.path)
        self.files = {name: (self.path / name).read_bytes() for name in FILES}
        self.state = json.loads(self.files["state"].partition(b"\n")[2])
        self.places = [("contents", *place) for place in _places(self.state["contents"])]
        self.touched: set[str] = set()

    def write_state(self, body: bytes) -> None:
        """Write a state with a right checksum."""
        self._write("state", HEAD.format(sha256(body).hexdigest()).encode() + body)

    def cut(self, name: str, size: int) -> None:
        """Give a file another size."""
        os.truncate(self.path / name, size)
        self.touched.add(name)

    def put_back(self) -> None:
        """Undo everything."""
        for name in self.touched:
            self._write(name, self.files[name])
        self.touched.clear()

    def _write(self, name: str, content: bytes) -> None:
        (self.path / name).write_bytes(content)


def _places(value: Any) -> Iterator[Place]:
    """Return where each part of a state is, itself first."""
    yield ()
    parts = value if isinstance(value, dict) else {}
    if isinstance(value, list):
        parts = dict(enumerate(value))
    for key, item in parts.items():
        for place in _places(item):
            yield (key, *place)


FOLDER = Folder()


def one_input(data: bytes) -> None:
    """Run one input."""
    if not data:
        return
    before = len(os.listdir("/proc/self/fd"))
    try:
        FOLDER.write_state(data[1:] if data[0] & 1 else _changed(data[1:]))
        with Snapshot.load(FOLDER.path, trust_disks=[FOLDER.image]) as snapshot:
            restore(snapshot)
    except ConfigurationError as error:
        assert_one_line(error)
        assert_short(str(error))
    finally:
        FOLDER.put_back()
    assert len(os.listdir("/proc/self/fd")) == before, "a file stayed open"


def assert_short(line: str) -> None:
    """Assert that a line is as long as names may make it, and not as its file."""
    assert len(line) < LINE_MAX, "an error says too much"


def _changed(script: bytes) -> bytes:
    """Return the state after the changes of a script."""
    state = json.loads(json.dumps(FOLDER.state))
    script = script[: CHANGES_MAX * CHANGE.size]
    for where, what, value in CHANGE.iter_unpack(script[: len(script) // 11 * 11]):
        place = FOLDER.places[where % len(FOLDER.places)]
        try:
            *above, last = place
            owner = state
            for key in above:
                owner = owner[key]
            _apply(state, owner, last, what % 7, value)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    return json.dumps(state).encode()


def _apply(state: Any, owner: Any, key: Any, what: int, value: int) -> None:
    if what == 0:
        owner[key] = value
    elif what == 1:
        owner[key] = VALUES[value % len(VALUES)]
    elif what == 2:
        del owner[key]
    elif what == 3 and isinstance(owner[key], list):
        # Several changes of a list in lists multiply: the memory would be our own doing.
        small = len(json.dumps(owner[key])) < REPEATED_MAX
        owner[key] = owner[key] * (value % 50 if small else 2)
    elif what == 4:
        other = state
        for step in FOLDER.places[value % len(FOLDER.places)]:
            other = other[step]
        owner[key] = json.loads(json.dumps(other))
    elif what == 5:
        owner[key] += value % 17 - 8
    elif what == 6:
        FOLDER.cut(FILES[value % 3], (value >> 2) % (9 << 20))
