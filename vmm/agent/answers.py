"""The frames that come from the guest, cut out of the byte stream and checked.

Nothing that the agent says is believed before it has passed here: lengths, versions, statuses and
errors are those that an agent can have, else it is an :class:`AgentProtocolError`.
"""

import struct
from typing import Any, Final

from virtio.named_tuple import NamedTuple
from vmm.agent.errors import AgentProtocolError
from vmm.agent.protocol import HEADER, LONGEST_ANSWER, REST_BYTES, VERSION, Answer, Frame, How
from vmm.console.text import printable

MOST_FRAMES: Final = 256
"""How many frames a decoder cuts out at a time: half a millisecond of work."""

_MAGIC: Final = b"vmmagent"
_READY: Final = struct.Struct("<8sII")
_STATUS: Final = struct.Struct("<BI")
_U32: Final = struct.Struct("<I")
_MOST_TEXT: Final = 200

_MOST_ERRNO: Final = 4095  # include/linux/err.h, MAX_ERRNO
_MOST_SIGNAL: Final = 64  # include/uapi/asm-generic/signal.h, _NSIG
_ERRNO: Final = range(1, _MOST_ERRNO + 1)
_VALUES: Final[dict[int, range]] = {
    How.EXITED: range(256),
    How.KILLED: range(1, _MOST_SIGNAL + 1),
    How.NOT_EXECUTED: _ERRNO,
    How.NO_FOLDER: _ERRNO,
    How.FAILED: _ERRNO,
    How.TIMED_OUT: range(256),  # its exit status, should it just have ended
}


class Ready(NamedTuple):
    """An agent's version, its process id, and the release of its kernel as ``uname -r`` says it."""

    version: int
    pid: int
    release: str


class Status(NamedTuple):
    """How a job ended, and the value that goes with it."""

    how: How
    value: int


def number(frame: Frame) -> int:
    """Return the number in a CONSUMED frame."""
    _check_size(frame, _U32.size)
    value: int = _U32.unpack(frame.data)[0]
    return value


def status(frame: Frame) -> Status:
    """Return how a job ended, from its STATUS frame."""
    _check_size(frame, _STATUS.size)
    how, value = _STATUS.unpack(frame.data)
    if value not in _VALUES.get(how, ()):
        raise AgentProtocolError(f"agent: a job ended in way {how} with value {value}: impossible")
    return Status(How(how), value)


def refusal(frame: Frame) -> str:
    """Return the reason in a REFUSED frame."""
    _unpack(_U32, frame)
    return _text(frame.data[_U32.size :])


def ready(frame: Frame) -> Ready:
    """Return what a READY frame says of the agent; its version must be the host's."""
    magic, version, pid = _unpack(_READY, frame)
    if magic != _MAGIC or version != VERSION:
        raise AgentProtocolError(f"agent: version {version} in the guest, the host's is {VERSION}")
    return Ready(version, pid, _text(frame.data[_READY.size :]))


def _unpack(layout: struct.Struct, frame: Frame) -> tuple[Any, ...]:
    if len(frame.data) < layout.size:
        raise AgentProtocolError(
            f"agent: a frame of kind {frame.kind:#x} with {len(frame.data)} bytes: "
            f"must be at least {layout.size}"
        )
    return layout.unpack_from(frame.data)


def _check_size(frame: Frame, size: int) -> None:
    if len(frame.data) != size:
        raise AgentProtocolError(
            f"agent: a frame of kind {frame.kind:#x} with {len(frame.data)} bytes: must be {size}"
        )


def _text(data: bytes) -> str:
    return printable(data[:_MOST_TEXT].decode("ascii", "replace"))


class Decoder:
    """Cuts the guest's bytes into frames, from the first READY with id 0 on."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._synchronous = False

    def feed(self, data: bytes) -> tuple[list[Frame], int]:
        """Return the frames that ``data`` completes, and how many of its bytes were used.

        After MOST_FRAMES frames the rest of ``data`` is left to the caller, who brings it again.
        Raises :class:`AgentProtocolError` for a length that no frame has.
        """
        self._buffer += data
        if not self._synchronous and not self._find_start():
            return [], len(data)
        frames: list[Frame] = []
        at = 0
        while len(self._buffer) - at >= HEADER.size and len(frames) < MOST_FRAMES:
            length, job, kind = HEADER.unpack_from(self._buffer, at)
            if not REST_BYTES <= length <= LONGEST_ANSWER:
                raise AgentProtocolError(
                    f"agent: a frame of {length} bytes: must be {REST_BYTES} to {LONGEST_ANSWER}"
                )
            end = at + 4 + length
            if end > len(self._buffer):
                break
            frames.append(Frame(job, kind, bytes(self._buffer[at + HEADER.size : end])))
            at = end
        unused = len(self._buffer) - at if len(frames) == MOST_FRAMES else 0
        del self._buffer[: at if not unused else None]
        return frames, len(data) - unused

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
