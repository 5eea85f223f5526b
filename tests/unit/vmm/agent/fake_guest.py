"""A guest that a test plays: the other end of the agent's port, without a machine or a program."""

import struct
from collections.abc import Callable

READY = 0x81
OUTPUT = 0x82
ERRORS = 0x83
CONSUMED = 0x84
STATUS = 0x85
REFUSED = 0x86
EXITED_0 = bytes(5)
READY_BODY = b"vmmagent" + struct.pack("<II", 2, 42) + b"6.1"


def frame(job: int, kind: int, data: bytes = b"") -> bytes:
    """Return a frame of the protocol."""
    return struct.pack("<IIB", len(data) + 5, job, kind) + data


class FakeGuest:
    """A port whose other end is the test: ``reply`` gets each request, and may answer."""

    def __init__(self) -> None:
        self.on_data: Callable[[bytes], int | None] | None = None
        self.on_space: Callable[[], object] | None = None
        self.on_guest_open: Callable[[bool], object] | None = None
        self.guest_open = True
        self.is_open = False
        self.takes = 1 << 30
        self.notices = True
        self.resumed = 0
        self.sent = bytearray()
        self.reply: Callable[[int, int, bytes], None] = lambda *request: None

    def send(self, data: bytes) -> int:
        taken = data[: self.takes]
        self.takes -= len(taken)
        self.sent += taken
        while len(self.sent) >= 9:
            length, job, kind = struct.unpack_from("<IIB", self.sent)
            if len(self.sent) < 4 + length:
                break
            body = bytes(self.sent[9 : 4 + length])
            del self.sent[: 4 + length]
            self.reply(job, kind, body)
        return len(taken)

    def open(self) -> None:
        self.is_open = True

    def close(self) -> None:
        self.is_open = False
        if self.notices:
            self.guest_closes()

    def resume(self) -> None:
        self.resumed += 1

    def guest_closes(self) -> None:
        self.guest_open = False
        assert self.on_guest_open
        self.on_guest_open(False)

    def frame(self, job: int, kind: int, data: bytes = b"") -> None:
        self.give(frame(job, kind, data))

    def give(self, data: bytes) -> None:
        """Have the client take all of ``data``, in as many rounds as it wants."""
        while data:
            data = data[self.offer(data) :]

    def offer(self, data: bytes) -> int:
        """Have the client take some of ``data``; returns how many bytes it took."""
        assert self.on_data
        taken = self.on_data(data)
        return len(data) if taken is None else taken

    def ready(self) -> None:
        self.guest_open = True
        self.frame(0, READY, READY_BODY)
