"""The output of a command, on its way from the guest to whoever takes it."""

from collections import deque
from typing import Final

from virtio.named_tuple import NamedTuple

STREAMS: Final = ("stdout", "stderr")


class Output(NamedTuple):
    """Some bytes of a command's output; ``stream`` is ``"stdout"`` or ``"stderr"``."""

    stream: str
    data: bytes


class OutputBuffer:
    """Keeps output that nobody has taken yet, in its order.

    The bytes stand in one piece, and beside them how many of one stream follow each other. So a
    guest that sends single bytes, each of the other stream, costs little more than their number: an
    object for each would take a hundred times as much.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._runs: deque[int] = deque()  # of stdout above 0, of stderr below

    def __len__(self) -> int:
        """Return how many bytes wait."""
        return len(self._bytes)

    def add(self, stream: str, data: bytes) -> None:
        """Take at least one byte from the guest."""
        size = len(data) if stream == "stdout" else -len(data)
        if self._runs and (self._runs[-1] > 0) == (size > 0):
            self._runs[-1] += size
        else:
            self._runs.append(size)
        self._bytes += data

    def take(self) -> Output | None:
        """Return the first bytes, as many as are of one stream; None when there are none."""
        if not self._runs:
            return None
        run = self._runs.popleft()
        data = bytes(self._bytes[: abs(run)])
        del self._bytes[: abs(run)]
        return Output("stdout" if run > 0 else "stderr", data)

    def clear(self) -> None:
        """Drop all."""
        self._bytes.clear()
        self._runs.clear()
