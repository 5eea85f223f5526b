"""A driver of the file system device: speaks FUSE as a guest's kernel does.

Written from Linux include/uapi/linux/fuse.h, with none of the device's own numbers::

    fuse = FuseDriver(Bench(Fs(system, "src")))
    fuse.init()
    node = fuse.lookup(1, b"README").node
"""

import struct
from collections.abc import Sequence

from virtio.named_tuple import NamedTuple
from virtio.testing.bench import Bench
from virtio.testing.driver import QueueDriver, Used

ROOT = 1
PAGE = 4096


class FuseError(Exception):
    """The device answered with an errno."""

    def __init__(self, number: int) -> None:
        super().__init__(f"errno {number}")
        self.errno = number


class Attributes(NamedTuple):
    """``struct fuse_attr``."""

    ino: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int
    flags: int


class Entry(NamedTuple):
    """What of ``struct fuse_entry_out`` a test wants."""

    node: int
    valid_seconds: int
    attributes: Attributes


class Listed(NamedTuple):
    """One entry of a listing; ``entry`` is None in READDIR."""

    name: bytes
    ino: int
    offset: int
    kind: int
    entry: Entry | None


class FuseDriver:
    """Sends requests on queue 1 of a bench, FORGET and INTERRUPT on queue 0, and reads answers.

    ``order`` is the driver's byte order; ``uid`` and ``gid`` are who asks.
    """

    def __init__(self, bench: Bench, *, order: str = "<", queue: int = 1) -> None:
        self.bench = bench
        self.order = order
        self.queue = queue
        self.uid = self.gid = 0
        self.unique = 0

    # Messages

    def message(self, opcode: int, node: int, body: bytes, *, length: int | None = None) -> bytes:
        """Return a header and a body; ``length`` is what the header says, if not the truth."""
        self.unique += 2
        said = 40 + len(body) if length is None else length
        fields = said, opcode, self.unique, node, self.uid, self.gid, 77, 0, 0
        return struct.pack(self.order + "IIQQIIIHH", *fields) + body

    def send(self, opcode: int, node: int = ROOT, body: bytes = b"", *, room: int = PAGE) -> int:
        """Make a request available without having it served; returns its ``unique``."""
        message = self.message(opcode, node, body)
        writable = [16, room] if room else [16]
        self.driver.add([message[:40], message[40:]] if body else [message], writable)
        return self.unique

    @property
    def driver(self) -> QueueDriver:
        """The driver's side of the request queue."""
        return self.bench.drivers[self.queue]

    def collect(self) -> dict[int, bytes | FuseError]:
        """Return the answers that came, by ``unique``."""
        return dict(map(self.parse, self.driver.collect()))

    def parse(self, used: Used) -> tuple[int, bytes | FuseError]:
        """Read an answer; its length must be what the device told the queue."""
        length, error, unique = struct.unpack_from(self.order + "IiQ", used.data)
        assert length == used.length, f"the answer says {length} bytes, {used.length} were used"
        if error:
            assert length == 16
            return unique, FuseError(-error)
        return unique, used.data[16:length]

    def ask(self, opcode: int, node: int = ROOT, body: bytes = b"", *, room: int = PAGE) -> bytes:
        """Send a request, serve it, and return its answer; raises :class:`FuseError`."""
        unique = self.send(opcode, node, body, room=room)
        self.bench.serve()
        answers = self.collect()
        assert list(answers) == [unique], f"{answers} came for {unique}"
        answer = answers[unique]
        if isinstance(answer, FuseError):
            raise answer
        return answer

    def tell(self, opcode: int, node: int, body: bytes) -> None:
        """Send a request on the high-priority queue, which has no answer."""
        used = self.bench.request([self.message(opcode, node, body)], queue=0)
        assert used.length == 0

    def pack(self, layout: str, *fields: int) -> bytes:
        """Return a structure in the driver's byte order."""
        return struct.pack(self.order + layout, *fields)

    def unpack(self, layout: str, data: bytes) -> tuple[int, ...]:
        """Return the fields that ``data`` begins with."""
        return struct.unpack_from(self.order + layout, data)

    # Operations

    def init(self, flags: int = 0xFFFF_FFFF, *, minor: int = 37, major: int = 7) -> dict[str, int]:
        """INIT: returns ``minor``, ``flags`` and ``max_write`` of the answer."""
        body = self.pack("IIII", major, minor, 128 << 10, flags) + bytes(48)
        fields = self.unpack("IIIIHHIIHHI", self.ask(26, 0, body))
        names = "major minor readahead flags background congestion max_write gran max_pages"
        return dict(zip(names.split(), fields, strict=False))

    def entry(self, data: bytes) -> Entry:
        """Read ``struct fuse_entry_out``."""
        node, _, valid, *_ = self.unpack("QQQQII", data)
        return Entry(node, valid, self.attributes(data[40:]))

    def attributes(self, data: bytes) -> Attributes:
        """Read ``struct fuse_attr``."""
        return Attributes(*self.unpack("6Q10I", data))

    def lookup(self, parent: int, name: bytes) -> Entry:
        """LOOKUP."""
        return self.entry(self.ask(1, parent, name + b"\0"))

    def walk(self, path: bytes) -> Entry:
        """LOOKUP one name after the other, from the root on."""
        entry, node = None, ROOT
        for name in path.split(b"/"):
            entry = self.lookup(node, name)
            node = entry.node
        assert entry is not None
        return entry

    def forget(self, node: int, count: int = 1) -> None:
        """FORGET."""
        self.tell(2, node, self.pack("Q", count))

    def getattr(self, node: int, handle: int | None = None) -> Attributes:
        """GETATTR."""
        flags = 0 if handle is None else 1
        return self.attributes(self.ask(3, node, self.pack("IIQ", flags, 0, handle or 0))[16:])

    def setattr(self, node: int, valid: int, handle: int = 0, **fields: int) -> Attributes:
        """SETATTR: ``fields`` are size, mode, uid, gid, atime and mtime."""
        names = "size owner atime mtime ctime atimensec mtimensec ctimensec mode unused uid gid"
        values = [fields.get(name, 0) for name in names.split()]
        body = self.pack("IIQQQQQQIIIIIIII", valid, 0, handle, *values, 0)
        return self.attributes(self.ask(4, node, body)[16:])

    def open(self, node: int, flags: int = 0, *, directory: bool = False) -> int:
        """OPEN or OPENDIR: returns the handle."""
        return self.opened(node, flags, directory=directory)[0]

    def opened(self, node: int, flags: int = 0, *, directory: bool = False) -> tuple[int, int]:
        """OPEN or OPENDIR: returns the handle and the flags of the answer."""
        data = self.ask(27 if directory else 14, node, self.pack("II", flags, 0))
        handle, open_flags, _ = self.unpack("QII", data)
        return handle, open_flags

    def create(
        self, parent: int, name: bytes, flags: int = 2, mode: int = 0o644
    ) -> tuple[int, int]:
        """CREATE: returns the node and the handle."""
        data = self.ask(35, parent, self.pack("IIII", flags, mode, 0, 0) + name + b"\0")
        return self.entry(data).node, self.unpack("Q", data[128:])[0]

    def read(self, handle: int, offset: int, size: int, *, node: int = ROOT) -> bytes:
        """READ."""
        body = self.pack("QQIIQII", handle, offset, size, 0, 0, 0, 0)
        return self.ask(15, node, body, room=size)

    def write(
        self, handle: int, offset: int, data: bytes, *, flags: int = 0, node: int = ROOT
    ) -> int:
        """WRITE: returns how many bytes."""
        body = self.pack("QQIIQII", handle, offset, len(data), flags, 0, 0, 0) + data
        return self.unpack("II", self.ask(16, node, body))[0]

    def release(self, handle: int, *, directory: bool = False) -> None:
        """RELEASE or RELEASEDIR."""
        self.ask(29 if directory else 18, ROOT, self.pack("QIIQ", handle, 0, 0, 0))

    def list(
        self, handle: int, offset: int = 0, *, plus: bool, size: int = PAGE
    ) -> Sequence[Listed]:
        """READDIR or READDIRPLUS, once."""
        body = self.pack("QQIIQII", handle, offset, size, 0, 0, 0, 0)
        data, found = self.ask(44 if plus else 28, ROOT, body, room=size), []
        while data:
            entry = self.entry(data) if plus else None
            record = data[128:] if plus else data
            ino, after, length, kind = self.unpack("QQII", record)
            found.append(Listed(record[24 : 24 + length], ino, after, kind, entry))
            data = record[(24 + length + 7) & ~7 :]
        return found

    def names(self, node: int, *, plus: bool = False, size: int = PAGE) -> Sequence[bytes]:
        """Return all names in a directory, as READDIR tells them, without ``.`` and ``..``."""
        handle, offset, names = self.open(node, directory=True), 0, []
        while listed := self.list(handle, offset, plus=plus, size=size):
            names += [one.name for one in listed]
            offset = listed[-1].offset
        self.release(handle, directory=True)
        return [name for name in names if name not in (b".", b"..")]
