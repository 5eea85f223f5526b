"""One connection of the socket device, the host's end of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from virtio.errors import InternalError
from virtio.vsock.credit import Credit
from virtio.vsock.packet import (
    HEADER,
    HOST_CID,
    OP_CREDIT_REQUEST,
    OP_CREDIT_UPDATE,
    OP_REQUEST,
    OP_RESPONSE,
    OP_RST,
    OP_RW,
    OP_SHUTDOWN,
    SEQ_EOM,
    SEQPACKET,
    SHUTDOWN_BOTH,
    SHUTDOWN_RECEIVE,
    SHUTDOWN_SEND,
    Header,
)

BUFFER_BYTES: Final = 64 * 1024
"""The most that a connection holds of either direction."""

MESSAGES_MAX: Final = 256
"""The most messages that wait for the host: those without a byte take no credit."""

Key = tuple[int, int, int]
"""What names a connection: its type, the port of the host, the port of the guest."""


class VsockConnection:
    """Carries bytes, or messages, both ways; its methods belong to the device's event loop.

    ``kind`` is STREAM or SEQPACKET, and each call of :meth:`send` and ``on_data`` is one message
    where it is SEQPACKET. ``host_port`` and ``guest_port`` are the numbers of its two ends.

    One that the guest asked for begins with :meth:`accept` or :meth:`close`; one that the host
    asked for, with a call of ``on_open``. Then ``on_data(data)`` gets what the guest sends, and
    returns how many bytes it took, ``None`` for all; after fewer the rest waits, and the guest is
    held back by its credit, until :meth:`resume`. ``on_space()`` is called when :meth:`send`,
    having taken less than it was given, takes more again. ``on_end()`` is called when the guest
    will send nothing more, after all its data; ``on_close()`` once, when the connection is gone.

    The device gives ``ready(connection)``, called when a packet is due, and ``closing(connection)``
    when the guest has been told of the end and has to answer.
    """

    def __init__(
        self,
        kind: int,
        host_port: int,
        guest_port: int,
        ready: Callable[[VsockConnection], object],
        closing: Callable[[VsockConnection], object],
    ) -> None:
        self.kind = kind
        self.host_port = host_port
        self.guest_port = guest_port
        self.on_open: Callable[[], object] = _nothing
        self.on_data: Callable[[bytes], int | None] = _drop
        self.on_space: Callable[[], object] = _nothing
        self.on_end: Callable[[], object] = _nothing
        self.on_close: Callable[[], object] = _nothing
        self.is_open = False
        self.is_closed = False
        self._ready = partial(ready, self)
        self._closing = partial(closing, self)
        self._credit = Credit(BUFFER_BYTES)
        self._is_asked = False
        self._due: list[int] = []  # the packets without data that are to be sent, by their op
        # To the guest. What a packet has room for goes off the first one.
        self._outgoing: deque[memoryview] = deque()
        self._outgoing_bytes = 0
        self._starved = self._credit_asked = False
        self._we_shut = self._told_shut = 0
        # From the guest: what the host did not take, and the message that is not whole yet.
        self._incoming: deque[bytes] = deque()
        self._message = bytearray()
        self._blocked = self._delivering = self._end_told = False
        self._peer_shut = 0

    @property
    def key(self) -> Key:
        """The name of the connection in its device."""
        return self.kind, self.host_port, self.guest_port

    # The host's side

    def request(self) -> None:
        """Ask the guest for the connection."""
        self._is_asked = True
        self._tell(OP_REQUEST)

    def accept(self) -> None:
        """Say yes to the guest (``VSK-07``); harmless when it is gone already."""
        if not self.is_open and not self.is_closed:
            self.is_open = True
            self._tell(OP_RESPONSE)

    def send(self, data: bytes) -> int:
        """Offer bytes, or one message, to the guest; returns how many of them were taken.

        A message is taken whole or not at all. 0 is the answer too when the guest, or
        :meth:`end`, closed this direction. Raises :class:`ValueError` for a message that is larger
        than the buffer of either end can hold.
        """
        if not self.is_open or self._we_shut & SHUTDOWN_SEND or not self.guest_reads:
            return 0
        room = BUFFER_BYTES - self._outgoing_bytes
        if self.kind == SEQPACKET:
            limit = min(BUFFER_BYTES, self._credit.peer_buf_alloc)
            if len(data) > limit:
                raise ValueError(f"message of {len(data)} bytes: the guest takes {limit} at most")
            fits = len(data) <= room and len(self._outgoing) < MESSAGES_MAX
            taken = len(data) if fits else 0
        else:
            taken = min(len(data), room)
            fits = taken > 0
        if fits:
            self._outgoing.append(memoryview(data)[:taken])
            self._outgoing_bytes += taken
            self._ready()
        self._starved = self._starved or taken < len(data) or not fits
        return taken

    @property
    def guest_reads(self) -> bool:
        """Whether the guest has not said that it takes no more; ``on_space`` is called then."""
        return not self._peer_shut & SHUTDOWN_RECEIVE

    def resume(self) -> None:
        """Go on with the data of the guest: there is room again after ``on_data`` took less."""
        self._blocked = False
        if not self._delivering:
            self._deliver()

    def end(self) -> None:
        """Send nothing more: the guest reads to the end of what was sent (``VSK-12``)."""
        self._shut(SHUTDOWN_SEND)

    def close(self) -> None:
        """End both directions, after what was sent already; the guest's data goes nowhere.

        One that was never open is refused, or given up.
        """
        if self.is_open:
            self._shut(SHUTDOWN_BOTH)
            self.on_data, self.on_space, self.on_end = _drop, _nothing, _nothing
            self.resume()
        else:
            self.abort()

    def abort(self) -> None:
        """Be gone at once, with what is under way; the guest is told."""
        if not self.is_closed:
            self._due = [OP_RST]
            self.forget()
            self._ready()

    def _shut(self, directions: int) -> None:
        if self.is_open and directions & ~self._we_shut:
            self._we_shut |= directions
            self._ready()

    def _tell(self, op: int) -> None:
        if op not in self._due:
            self._due.append(op)
        self._ready()

    # What the device calls

    @property
    def is_over(self) -> bool:
        """Whether it is gone, and the guest has been told."""
        return self.is_closed and not self._due

    def meet(self, header: Header) -> None:
        """Take what a packet of the guest says of its buffer."""
        self._credit.meet(header)

    def take(self, header: Header, data: bytes) -> bool:
        """Take a packet of the guest; returns whether it may be sent in this state (``VSK-05``)."""
        self.meet(header)
        self._credit_asked = False
        if self._outgoing:
            self._ready()
        if not self.is_open:
            return header.op == OP_RESPONSE and self._open()
        if header.op == OP_RW:
            return self._receive(header, data)
        if header.op == OP_SHUTDOWN:
            self._hear_shutdown(header.flags & SHUTDOWN_BOTH)
        elif header.op == OP_CREDIT_REQUEST:
            self._tell(OP_CREDIT_UPDATE)
        else:
            return header.op == OP_CREDIT_UPDATE
        return True

    def _open(self) -> bool:
        """Be open, as the guest says; returns whether it had been asked."""
        if not self._is_asked or OP_REQUEST in self._due:
            return False
        self.is_open = True
        self.on_open()
        return True

    def _hear_shutdown(self, directions: int) -> None:
        self._peer_shut |= directions
        if not self.guest_reads and not self.is_closed:
            self._outgoing.clear()
            self._outgoing_bytes = 0
            self.on_space()
        self._deliver()

    def _receive(self, header: Header, data: bytes) -> bool:
        if self._peer_shut & SHUTDOWN_SEND or not self._credit.received(len(data)):
            return False
        if self.kind == SEQPACKET:
            self._message += data
            if not header.flags & SEQ_EOM:
                return True
            data, self._message = bytes(self._message), bytearray()
            if len(self._incoming) >= MESSAGES_MAX:
                return False
        elif not data:
            return True
        self._incoming.append(data)
        self._deliver()
        return True

    def _deliver(self) -> None:
        """Hand over what the host takes, then the end of it."""
        self._delivering = True
        try:
            while self._incoming and not self._blocked:
                self._hand_over(self._incoming.popleft())
        finally:
            self._delivering = False
        if self.is_closed:
            return
        if self._credit.update_due:
            self._tell(OP_CREDIT_UPDATE)
        if self._incoming:
            return
        if self._peer_shut & SHUTDOWN_SEND and not self._end_told:
            self._end_told = True
            self.on_end()
        if self._peer_shut == SHUTDOWN_BOTH:
            self.abort()  # all of it has been read: the answer to that is RST (VSK-12)

    def _hand_over(self, data: bytes) -> None:
        self._blocked = True  # before the call: a resume() within it must not be lost
        taken = self.on_data(data)
        taken = len(data) if taken is None else taken
        if not 0 <= taken <= len(data):
            raise InternalError(f"on_data took {taken} of {len(data)} bytes")
        self._credit.consumed(taken)
        if taken < len(data) and not self.is_closed:
            self._incoming.appendleft(data[taken:])
        else:
            self._blocked = False

    def next_packet(self, room: int, guest_cid: int) -> tuple[bytes, memoryview] | None:
        """Return the packet that is due, its header and data, or None when there is none.

        ``room`` is how many bytes of data it may have.
        """
        data, flags = memoryview(b""), 0
        if self._due:
            op = self._due.pop(0)
        elif self._outgoing and (self._credit.room or not len(self._outgoing[0])):
            op = OP_RW
            data, flags = self._cut(min(room, self._credit.room))
        elif self._outgoing:
            if self._credit_asked:
                return None
            op, self._credit_asked = OP_CREDIT_REQUEST, True
        elif self._we_shut != self._told_shut:
            op, flags = OP_SHUTDOWN, self._we_shut
            self._told_shut = self._we_shut
            if self._told_shut == SHUTDOWN_BOTH:
                self._closing()
        else:
            return None
        credit = self._credit
        header = HEADER.pack(
            *(HOST_CID, guest_cid, self.host_port, self.guest_port),
            *(len(data), self.kind, op, flags, credit.buf_alloc, credit.fwd_cnt),
        )
        credit.told()
        return header, data

    def _cut(self, room: int) -> tuple[memoryview, int]:
        """Take up to ``room`` bytes off what waits for the guest, and the flags they go with."""
        whole = self._outgoing[0]
        data = whole[:room]
        if len(data) < len(whole):
            self._outgoing[0] = whole[len(data) :]
        else:
            self._outgoing.popleft()
        self._credit.sent(len(data))
        self._outgoing_bytes -= len(data)
        if self._starved and self._outgoing_bytes * 2 <= BUFFER_BYTES:
            self._starved = False
            self.on_space()
        ends = self.kind == SEQPACKET and len(data) == len(whole)
        return data, SEQ_EOM if ends else 0

    def forget(self) -> None:
        """Be gone without a word to the guest, which knows or has been reset."""
        if self.is_closed:
            return
        self.is_closed, self.is_open = True, False
        self._outgoing.clear()
        self._incoming.clear()
        self._message.clear()
        self._outgoing_bytes = 0
        self.on_close()


def _nothing() -> None:
    pass


def _drop(data: bytes) -> None:
    pass
