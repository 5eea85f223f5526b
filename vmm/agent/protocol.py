"""The protocol between the host and the guest's agent: frames on the byte stream of a port.

Ours; the other side of it is ``guest-images/agent.c``. A frame is ``struct { u32 length; u32 id; u8
kind; u8 data[length - 5]; }``, little-endian, as is everything in it; ``length`` is 5 to 131072 for
the guest, 5 to 65536 for the host.

The host sends:

======= ======= ========================================================================
HELLO   1       nothing; answered by READY with the same id
RUN     2       ``u32 timeout_ms, credit; u16 arguments, variables; u8 flags``, then strings,
                each with its zero: the folder or nothing, the arguments, the ``NAME=value``
READ    3       ``u32 credit; char path[]`` with its zero
WRITE   4       ``u32 mode; char path[]`` with its zero; the content follows as DATA, END
DATA    5       bytes for the command's standard input, or for the file that is written
END     6       no more DATA
CREDIT  7       ``u32 bytes`` that the guest may send in addition
KILL    8       ``u32 signal`` for a command and its process group; ends READ and WRITE
REFRESH 9       ``u64 nanoseconds`` since 1970 or 0; then up to 512 bytes of randomness
POWER   10      ``u8 how, status``: 0 power off, 1 reboot, 2 report the status
======= ======= ========================================================================

The guest sends:

======== ====== ========================================================================
READY    0x81   ``char magic[8]; u32 version, pid; char release[]``
OUTPUT   0x82   bytes of the command's standard output, or of the file that is read
ERRORS   0x83   bytes of its standard error
CONSUMED 0x84   ``u32 bytes`` of DATA that have found their place
STATUS   0x85   ``u8 how; u32 value``; the last frame of its id
REFUSED  0x86   ``u32 errno; char why[]``: the request made no sense; also the last of its id
======== ====== ========================================================================

RUN, READ and WRITE begin a job under an id of the host's choice, not 0; 16 may be open at a time.
REFRESH and POWER are answered by STATUS. What is sent to an id without a job is ignored, as a job
may end while something is on its way to it.

**Flow control.** Neither side keeps data without bound, and no job holds up another. The guest
sends at most as many bytes of OUTPUT and ERRORS as it has credit for; without credit it leaves the
pipe unread and the command waits. The host sends at most WINDOW_BYTES of DATA that are not reported
as CONSUMED, for each job; so many the agent can keep while a command does not read. Everything
else is small, and the agent reads no further requests while the port does not take its answers. The
host always takes what comes.

**Start and resynchronisation.** The agent sends READY with id 0 when it has opened its end of the
port and the host's end is open. When the host closes its end, the agent kills what is running,
closes its own end, by which all data on its way is dropped, and begins anew. The host looks for the
READY frame in what comes after it has opened, so that remains of an earlier conversation are passed
over.
"""

import enum
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from virtio.errors import ConfigurationError, Error
from vmm.agent import PORT_NAME as PORT_NAME

VERSION: Final = 1
JOBS: Final = 16
WINDOW_BYTES: Final = 32 << 10
LONGEST_REQUEST: Final = 128 << 10
LONGEST_ANSWER: Final = 64 << 10
LONGEST_SEED: Final = 512

_MAGIC: Final = b"vmmagent"
_HEADER: Final = struct.Struct("<IIB")
_COMMAND: Final = struct.Struct("<IIHHB")
_READY: Final = struct.Struct("<8sII")
_STATUS: Final = struct.Struct("<BI")
_U32: Final = struct.Struct("<I")
_REST_BYTES: Final = _HEADER.size - 4
_MOST_WORDS: Final = 8189


class Request(enum.IntEnum):
    """What the host sends."""

    HELLO = 1
    RUN = 2
    READ = 3
    WRITE = 4
    DATA = 5
    END = 6
    CREDIT = 7
    KILL = 8
    REFRESH = 9
    POWER = 10


class Answer(enum.IntEnum):
    """What the guest sends."""

    READY = 0x81
    OUTPUT = 0x82
    ERRORS = 0x83
    CONSUMED = 0x84
    STATUS = 0x85
    REFUSED = 0x86


class Flag(enum.IntFlag):
    """How a command is run: ``flags`` of RUN."""

    MERGE_ERRORS = 1
    WITH_INPUT = 2
    REPLACE_ENVIRONMENT = 4


class How(enum.IntEnum):
    """How a job ended; what its value is, is said behind each."""

    EXITED = 0  # the exit status; 0 for a file
    KILLED = 1  # the signal
    NOT_EXECUTED = 2  # errno of execve(2)
    NO_FOLDER = 3  # errno of chdir(2)
    FAILED = 4  # errno of whatever it was, for a file that of open, read or write
    TIMED_OUT = 5  # SIGKILL


class Power(enum.IntEnum):
    """How the machine is to end."""

    OFF = 0
    REBOOT = 1
    REPORT = 2


class ProtocolError(Error):
    """The guest sent what is no frame of this protocol."""


class Frame(NamedTuple):
    """One frame from the guest; ``kind`` may be none of :class:`Answer`."""

    id: int
    kind: int
    data: bytes


class Ready(NamedTuple):
    """What an agent says of itself: its process id, and what ``uname -r`` says there."""

    version: int
    pid: int
    release: str


class Status(NamedTuple):
    """How a job ended; ``how`` is one of :class:`How`."""

    how: int
    value: int


def encode(job: int, kind: Request, data: bytes = b"") -> bytes:
    """Return a frame; raises ``ConfigurationError`` when the guest would not take its length."""
    length = len(data) + _REST_BYTES
    if length > LONGEST_REQUEST:
        raise ConfigurationError(
            f"agent: a request of {length} bytes: at most {LONGEST_REQUEST} are allowed"
        )
    return _HEADER.pack(length, job, kind) + data


def encode_number(job: int, kind: Request, number: int) -> bytes:
    """Return a CREDIT or KILL frame."""
    return encode(job, kind, _U32.pack(number))


def command(
    arguments: Sequence[bytes],
    variables: Iterable[bytes],
    folder: bytes,
    *,
    flags: Flag,
    timeout_ms: int,
    credit: int,
) -> bytes:
    """Return the data of RUN; the words must hold no zero bytes."""
    variables = tuple(variables)
    if len(arguments) + len(variables) > _MOST_WORDS:
        raise ConfigurationError(
            f"agent: {len(arguments) + len(variables)} arguments and variables: "
            f"at most {_MOST_WORDS} are allowed"
        )
    head = _COMMAND.pack(timeout_ms, credit, len(arguments), len(variables), flags)
    return head + b"".join(word + b"\0" for word in (folder, *arguments, *variables))


def file(number: int, path: bytes) -> bytes:
    """Return the data of READ (``number`` is the credit) or WRITE (it is the mode)."""
    return _U32.pack(number) + path + b"\0"


def refreshment(seed: bytes, unix_time_ns: int) -> bytes:
    """Return the data of REFRESH."""
    if len(seed) > LONGEST_SEED:
        raise ConfigurationError(
            f"agent: a seed of {len(seed)} bytes: at most {LONGEST_SEED} are allowed"
        )
    return struct.pack("<Q", unix_time_ns) + seed


def number(frame: Frame) -> int:
    """Return what a CONSUMED frame says."""
    value: int = _unpack(_U32, frame)[0]
    return value


def status(frame: Frame) -> Status:
    """Return what a STATUS frame says."""
    return Status(*_unpack(_STATUS, frame))


def refusal(frame: Frame) -> str:
    """Return what a REFUSED frame says."""
    _unpack(_U32, frame)
    return frame.data[_U32.size :].decode("ascii", "replace")


def ready(frame: Frame) -> Ready:
    """Return what a READY frame says; raises ``ProtocolError`` for a version that is not ours."""
    magic, version, pid = _unpack(_READY, frame)
    if magic != _MAGIC or version != VERSION:
        raise ProtocolError(f"agent: version {version} in the guest, the host's is {VERSION}")
    return Ready(version, pid, frame.data[_READY.size :].decode("ascii", "replace"))


def _unpack(layout: struct.Struct, frame: Frame) -> tuple[Any, ...]:
    if len(frame.data) < layout.size:
        raise ProtocolError(
            f"agent: a frame of kind {frame.kind:#x} with {len(frame.data)} bytes: "
            f"at least {layout.size} are allowed"
        )
    return layout.unpack_from(frame.data)


class Decoder:
    """Cuts what comes from the guest into frames, from the first READY with id 0 on."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._synchronous = False

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that ``data`` completes; raises ``ProtocolError`` for a bad length."""
        self._buffer += data
        if not self._synchronous and not self._find_start():
            return []
        frames = []
        at = 0
        while len(self._buffer) - at >= _HEADER.size:
            length, job, kind = _HEADER.unpack_from(self._buffer, at)
            if not _REST_BYTES <= length <= LONGEST_ANSWER:
                raise ProtocolError(
                    f"agent: a frame of {length} bytes: {_REST_BYTES} to {LONGEST_ANSWER} "
                    "are allowed"
                )
            end = at + 4 + length
            if end > len(self._buffer):
                break
            frames.append(Frame(job, kind, bytes(self._buffer[at + _HEADER.size : end])))
            at = end
        del self._buffer[:at]
        return frames

    def _find_start(self) -> bool:
        start = bytes(4) + bytes([Answer.READY]) + _MAGIC
        found = self._buffer.find(start, 4)
        if found >= 0:
            del self._buffer[: found - 4]
            self._synchronous = True
        else:
            # What may be the beginning of it stays.
            del self._buffer[: max(0, len(self._buffer) - len(start) - 3)]
        return self._synchronous
