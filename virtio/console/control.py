"""What device and driver tell each other about ports, and what waits for a buffer of the driver.

VIRTIO 1.4 "Multiport Device Operation".
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from virtio.named_tuple import NamedTuple

VIRTIO_CONSOLE_DEVICE_READY: Final = 0
VIRTIO_CONSOLE_DEVICE_ADD: Final = 1
VIRTIO_CONSOLE_DEVICE_REMOVE: Final = 2
VIRTIO_CONSOLE_PORT_READY: Final = 3
VIRTIO_CONSOLE_CONSOLE_PORT: Final = 4
VIRTIO_CONSOLE_RESIZE: Final = 5
VIRTIO_CONSOLE_PORT_OPEN: Final = 6
VIRTIO_CONSOLE_PORT_NAME: Final = 7

HEADER: Final = struct.Struct("<IHH")
assert HEADER.size == 8
SIZE: Final = struct.Struct("<HH")
assert SIZE.size == 4


class Message(NamedTuple):
    """A control message: ``struct virtio_console_control``, and what follows it.

    .. code:: c

        struct virtio_console_control { le32 id; le16 event; le16 value; };
    """

    port: int
    event: int
    value: int = 1
    extra: bytes = b""

    @classmethod
    def parse(cls, data: bytes) -> Message | None:
        """Return the message; ``None`` for what is too short to be one (``CON-07``)."""
        if len(data) < HEADER.size:
            return None
        return cls(*HEADER.unpack_from(data))

    @classmethod
    def resize(cls, port: int, columns: int, rows: int) -> Message:
        """Return the message that tells the size of a console.

        .. code:: c

            struct virtio_console_resize { le16 cols; le16 rows; };

        Linux without commit 5326ab737a47 (6.15, and stable trees) takes them the other way round.
        """
        return cls(port, VIRTIO_CONSOLE_RESIZE, extra=SIZE.pack(columns, rows))

    def encode(self) -> bytes:
        """Return the bytes on the wire."""
        return HEADER.pack(self.port, self.event, self.value) + self.extra

    def replaces(self, earlier: Message) -> bool:
        """Whether an earlier message that still waits has nothing more to say.

        A port that closed and opened again does both for the driver to see.
        """
        if (self.port, self.event) != (earlier.port, earlier.event):
            return False
        return self.event != VIRTIO_CONSOLE_PORT_OPEN or earlier.value >= self.value


class Outbox:
    """The messages that wait for a buffer, in order.

    It needs no bound of its own, and no driver that starves it loses what matters (``CON-08``): a
    message takes the place of the one that it contradicts, so that at most seven wait for a port.
    """

    def __init__(self, messages: Iterable[Message] = ()) -> None:
        self._waiting = deque(messages)

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: Message) -> None:
        """Let a message wait behind the others."""
        self._waiting = deque(one for one in self._waiting if not message.replaces(one))
        self._waiting.append(message)

    def put_removal(self, port: int) -> None:
        """Let DEVICE_REMOVE wait instead of all else about a port.

        A driver that was not told of the port yet is told nothing at all (``CON-06``).
        """
        mine = [one for one in self._waiting if one.port == port]
        unknown = any(one.event == VIRTIO_CONSOLE_DEVICE_ADD for one in mine)
        gone = [one for one in mine if one.event != VIRTIO_CONSOLE_DEVICE_REMOVE]
        self._waiting = deque(one for one in self._waiting if one not in gone)
        if not unknown:
            self._waiting.append(Message(port, VIRTIO_CONSOLE_DEVICE_REMOVE))

    def first(self) -> bytes:
        """Return the bytes of the message whose turn it is."""
        return self._waiting[0].encode()

    def drop_first(self) -> None:
        """Let go of it: it was written to the driver."""
        self._waiting.popleft()

    def state(self) -> tuple[tuple[Any, ...], ...]:
        """Return what waits, as plain values; ``Outbox(Message(*one) for one in state)`` has it."""
        return tuple(tuple(one) for one in self._waiting)
