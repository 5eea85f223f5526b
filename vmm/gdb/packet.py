"""Packets of GDB's remote protocol: ``$data#checksum``, acknowledgements and the interrupt byte.

GDB "Remote Protocol: Overview".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

MAX_PACKET_BYTES: Final = 0x4000
"""The longest packet that we take, framing included; a debugger is told."""

INTERRUPT: Final = b"\x03"
ACK: Final = b"+"
NAK: Final = b"-"

_ESCAPE: Final = 0x7D
_ESCAPED: Final = b"$#}*"
_CHECKSUM_DIGITS: Final = 2


class BadPacket:
    """Stands for a packet whose checksum was wrong, or that was too long."""


class PacketReader:
    """Cuts what a debugger sends into packets, acknowledgements and interrupts."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._skips = False

    def feed(self, data: bytes) -> Iterator[bytes | BadPacket]:
        """Give what is complete: a packet behind ``$``, or one of the single bytes.

        Other bytes between packets mean nothing, and are dropped.
        """
        self._data += data
        while self._data:
            first = bytes(self._data[:1])
            if self._skips or first not in (b"$", ACK, NAK, INTERRUPT):
                if not self._drop():
                    return
            elif first != b"$":
                del self._data[0]
                yield first
            elif (packet := self._take()) is None:
                if len(self._data) <= MAX_PACKET_BYTES:
                    return
                self._skips = True
                yield BadPacket()
            else:
                yield packet

    def _drop(self) -> bool:
        """Drop up to where a packet may begin; False when more is needed to tell."""
        if self._skips:
            end = self._data.find(b"#")
            if end < 0:
                self._data.clear()
                return False
            self._skips = False
            del self._data[: end + 1]
            return True
        del self._data[0]
        return True

    def _take(self) -> bytes | BadPacket | None:
        end = self._data.find(b"#", 0, MAX_PACKET_BYTES)
        # A packet that was cut is lost where the next one begins.
        again = self._data.find(b"$", 1, end if end >= 0 else MAX_PACKET_BYTES)
        if again > 0:
            del self._data[:again]
            return BadPacket()
        if end < 0 or len(self._data) < end + 1 + _CHECKSUM_DIGITS:
            return None
        content = bytes(self._data[1:end])
        digits = bytes(self._data[end + 1 : end + 1 + _CHECKSUM_DIGITS])
        del self._data[: end + 1 + _CHECKSUM_DIGITS]
        if digits.lower() != _checksum(content):
            return BadPacket()
        return b"$" + content


def packet(content: bytes) -> bytes:
    """Return ``content``, which is escaped where it must be, as a packet.

    >>> packet(b"OK")
    b'$OK#9a'
    """
    return b"$" + content + b"#" + _checksum(content)


def escaped(data: bytes) -> bytes:
    """Return binary data as it stands in a packet.

    >>> escaped(b"a#b")
    b'a}\\x03b'
    """
    if not any(one in data for one in _ESCAPED):
        return data
    parts = (bytes((_ESCAPE, one ^ 0x20)) if one in _ESCAPED else bytes((one,)) for one in data)
    return b"".join(parts)


def unescaped(data: bytes) -> bytes:
    """Return what :func:`escaped` was given.

    >>> unescaped(b"a}\\x03b")
    b'a#b'
    """
    head, *rest = data.split(bytes((_ESCAPE,)))
    return head + b"".join(bytes((one[0] ^ 0x20,)) + one[1:] for one in rest if one)


def _checksum(content: bytes) -> bytes:
    return b"%02x" % (sum(content) & 0xFF)
