"""The protocol between the host and the guest's agent: frames on the byte stream of a port.

Ours; ``guest-images/agent.c`` is the other side, and :mod:`vmm.agent.answers` checks all that it
says. A frame is ``struct { u32 length; u32 id; u8 kind; u8 data[length - 5]; }``, little-endian, as
is everything in it; ``length`` is 5 to 131072 for the guest, 5 to 65536 for the host.

The host sends:

======= ======= ========================================================================
HELLO   1       nothing; answered by READY with the same id
RUN     2       ``u32 timeout_ms, credit; u16 arguments, variables; u8 flags; u16 columns,
                rows``, then strings, each with its zero: the folder or nothing, the arguments,
                the ``NAME=value``
READ    3       ``u32 credit; char path[]`` with its zero
WRITE   4       ``u32 mode; char path[]`` with its zero; the content follows as DATA, END
DATA    5       bytes for the command's standard input, or for the file that is written
END     6       no more DATA
CREDIT  7       ``u32 bytes; u8 errors`` that the guest may send in addition of OUTPUT, or of
                ERRORS if ``errors`` is not 0
KILL    8       ``u32 signal`` for a command and its process group; ends READ and WRITE
REFRESH 9       ``u64 nanoseconds`` since 1970 or 0; then up to 512 bytes of randomness
POWER   10      ``u8 how, status``: 0 power off, 1 reboot, 2 report the status, 3 panic
RESIZE  11      ``u16 columns, rows`` of a command's terminal
CLOSE   12      ``u8 errors``: nobody reads the command's output, or errors, any more
LOG     13      nothing; answered by what the kernel printed since it was asked for last
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
STATUS answers REFRESH and POWER. The guest ignores what the host sends to an id without a job: the
job may have ended meanwhile. The guest sends nothing for an id after its last frame.

LOG is answered by OUTPUT, then STATUS: a line with ``/proc/sys/kernel/tainted``, empty where that
is not known, and then records as ``/dev/kmsg`` gives them, until there are no more, or until they
have LOG_BYTES. One LOG is answered at a time, and needs no credit.

**Flow control.** Neither side keeps data without bound, and no job holds up another. The guest
sends at most as many bytes of OUTPUT, and of ERRORS, as it has credit for, and no frame of them is
empty; RUN and READ give the same credit for each. Without credit it leaves the pipe unread and the
command waits; after CLOSE it closes the pipe, and a command that writes on gets SIGPIPE. For each
job the host sends at most WINDOW_BYTES of DATA that are not reported as CONSUMED; the agent can
keep that many while a command does not read. Everything else is small, and the agent reads no
further requests while the port does not take its answers. The host always takes what comes.

**Start and resynchronisation.** The agent sends READY with id 0 when it has opened its end of the
port and the host's end is open. When the host closes its end, the agent kills what is running,
closes its own end, which drops all data under way, and begins anew. The host looks for the READY
frame in what comes after it has opened, and so passes over the remains of an earlier conversation.
"""

import enum
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple

VERSION: Final = 2
JOBS: Final = 16
WINDOW_BYTES: Final = 32 << 10
LONGEST_REQUEST: Final = 128 << 10
LONGEST_ANSWER: Final = 64 << 10
LONGEST_SEED: Final = 512
LOG_BYTES: Final = 128 << 10

HEADER: Final = struct.Struct("<IIB")
REST_BYTES: Final = HEADER.size - 4

_COMMAND: Final = struct.Struct("<IIHHBHH")
_U32: Final = struct.Struct("<I")
_CREDIT: Final = struct.Struct("<IB")
_SIZE: Final = struct.Struct("<HH")
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
    RESIZE = 11
    CLOSE = 12
    LOG = 13


JOB_REQUESTS: Final = frozenset({Request.RUN, Request.READ, Request.WRITE})
"""The requests that begin a job: it takes one of the guest's places, and can be killed."""


class Answer(enum.IntEnum):
    """What the guest sends."""

    READY = 0x81
    OUTPUT = 0x82
    ERRORS = 0x83
    CONSUMED = 0x84
    STATUS = 0x85
    REFUSED = 0x86


class Flag(enum.IntFlag):
    """How to run a command: ``flags`` of RUN."""

    MERGE_ERRORS = 1
    WITH_INPUT = 2
    REPLACE_ENVIRONMENT = 4
    TERMINAL = 8
    AS_USER = 16  # the first argument is uid:gid:group:group...


class How(enum.IntEnum):
    """How a job ended, and the value that goes with it."""

    EXITED = 0  # the exit status; 0 for all but commands
    KILLED = 1  # the signal
    NOT_EXECUTED = 2  # errno of execve(2)
    NO_FOLDER = 3  # errno of chdir(2)
    FAILED = 4  # errno of what failed; of open, read or write for a file
    TIMED_OUT = 5  # SIGKILL


class Power(enum.IntEnum):
    """How to end the machine."""

    OFF = 0
    REBOOT = 1
    REPORT = 2
    PANIC = 3


class Frame(NamedTuple):
    """One frame from the guest; ``kind`` may be none of :class:`Answer`."""

    id: int
    kind: int
    data: bytes


def encode(job: int, kind: Request, data: bytes = b"") -> bytes:
    """Return a frame; raises ``ConfigurationError`` when the guest would not take its length."""
    length = len(data) + REST_BYTES
    if length > LONGEST_REQUEST:
        raise ConfigurationError(
            f"agent: a request of {length} bytes: must be at most {LONGEST_REQUEST}"
        )
    return HEADER.pack(length, job, kind) + data


def encode_number(job: int, kind: Request, number: int) -> bytes:
    """Return a KILL frame."""
    return encode(job, kind, _U32.pack(number))


def encode_credit(job: int, count: int, *, errors: bool) -> bytes:
    """Return a CREDIT frame: for ``count`` more bytes of errors or of output."""
    return encode(job, Request.CREDIT, _CREDIT.pack(count, errors))


def encode_size(job: int, size: tuple[int, int]) -> bytes:
    """Return a RESIZE frame; ``size`` is in columns and rows."""
    return encode(job, Request.RESIZE, _SIZE.pack(*size))


def command(
    arguments: Sequence[bytes],
    variables: Iterable[bytes],
    folder: bytes,
    *,
    flags: Flag,
    timeout_ms: int,
    credit: int,
    size: tuple[int, int] = (0, 0),
) -> bytes:
    """Return the data of RUN; the words must hold no zero bytes; ``size`` is a terminal's."""
    variables = tuple(variables)
    if len(arguments) + len(variables) > _MOST_WORDS:
        raise ConfigurationError(
            f"agent: {len(arguments) + len(variables)} arguments and variables: "
            f"must be at most {_MOST_WORDS}"
        )
    head = _COMMAND.pack(timeout_ms, credit, len(arguments), len(variables), flags, *size)
    return head + b"".join(word + b"\0" for word in (folder, *arguments, *variables))


def file(number: int, path: bytes) -> bytes:
    """Return the data of READ (``number`` is the credit) or WRITE (it is the mode)."""
    return _U32.pack(number) + path + b"\0"


def refreshment(seed: bytes, unix_time_ns: int) -> bytes:
    """Return the data of REFRESH."""
    if len(seed) > LONGEST_SEED:
        raise ConfigurationError(
            f"agent: a seed of {len(seed)} bytes: must be at most {LONGEST_SEED}"
        )
    return struct.pack("<Q", unix_time_ns) + seed
