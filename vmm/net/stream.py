"""A network over a stream socket: frames, each behind its length in 32 bits, big-endian.

The protocol of QEMU's ``-netdev stream`` and of passt(1).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import Final

from virtio.errors import ConfigurationError
from virtio.net.lending import Descriptor
from virtio.net.packet import HEADER_BYTES, MAX_FRAME_BYTES, PLAIN
from vmm.net.watched import WatchedBackend

READ_BYTES: Final = 1 << 18
CONNECT_SECONDS: Final = 10.0


class StreamNetwork(WatchedBackend):
    """Frames over the connected socket ``fd``, which it closes; they are finished, both ways."""

    def __init__(self, fd: int, name: str = "socket") -> None:
        super().__init__(name, [fd])
        os.set_blocking(fd, False)
        self._read = bytearray()
        self._unsent = b""
        self._broken = False

    def send(self, packets: Sequence[bytes], pair: int) -> int:
        """Send frames; nothing while a part of those before waits for the peer."""
        if self._failed:
            return len(packets)
        if self._unsent:
            return 0
        parts = []
        for packet in packets:
            parts += [(len(packet) - HEADER_BYTES).to_bytes(4, "big"), packet[HEADER_BYTES:]]
        self._write(b"".join(parts))
        return len(packets)

    def _write(self, data: bytes) -> None:
        try:
            written = os.write(self.fds[0], data)
        except BlockingIOError:
            written = 0
        except OSError as error:
            self._unsent = b""
            self.fail(os.strerror(error.errno or 0))
            return
        self._unsent = data[written:]
        if self._unsent and self._loop is not None:
            self._loop.add_writer(self.fds[0], self._writable)

    def _writable(self) -> None:
        self._write(self._unsent)
        if not self._unsent:
            if self._loop is not None and not self._failed:
                self._loop.remove_writer(self.fds[0])
            if self._end is not None:
                for pair in range(self.max_pairs):
                    self._end.space(pair)

    def resume(self) -> None:
        """Read again, and write what the peer had no room for before a reset."""
        super().resume()
        if self._unsent and self._loop is not None and not self._failed:
            self._loop.add_writer(self.fds[0], self._writable)

    def read_packets(self, pair: int) -> list[bytes]:
        """Return the frames that are complete."""
        try:
            data = os.read(self.fds[0], READ_BYTES)
        except BlockingIOError:
            return []
        if not data:
            raise OSError(errno.EPIPE, "the peer has gone")
        self._read += data
        return self._complete_packets()

    def descriptor(self, pair: int) -> Descriptor:
        """Return the socket."""
        return Descriptor(self.fds[0], framed=True)

    def lend_reading(self, pair: int) -> bytes | None:
        """Hand over what came of the next frame."""
        if super().lend_reading(pair) is None:
            return None
        begun = bytes(self._read)
        self._read.clear()
        return begun

    def return_reading(self, pair: int, data: bytes) -> None:
        """Keep the frames that are complete, and what came of the next."""
        self._read += data
        self._kept[pair] += self._complete_packets()

    def read_on(self, pair: int) -> None:
        """Deliver frames, up to one that is too long: behind that nobody knows where one begins."""
        super().read_on(pair)
        if self._broken:
            self.fail(os.strerror(errno.EPROTO))

    def lends_writing(self, pair: int) -> bool:
        """Let native code write, when nothing is left of what was sent before."""
        return not self._unsent and not self._failed

    def return_writing(self, pair: int, data: bytes) -> None:
        """Write the rest of what native code wrote in part."""
        self._write(data)

    def _complete_packets(self) -> list[bytes]:
        data, at, packets = self._read, 0, list[bytes]()
        while at + 4 <= len(data):
            length = int.from_bytes(data[at : at + 4], "big")
            if length > MAX_FRAME_BYTES:
                self._broken = True
                break
            if at + 4 + length > len(data):
                break
            packets.append(PLAIN + data[at + 4 : at + 4 + length])
            at += 4 + length
        del data[:at]
        return packets


def connect(place: str) -> int:
    """Return the descriptor of a socket that is connected to ``HOST:PORT``, or to a path.

    Raises :class:`ConfigurationError` when nobody is there.
    """
    host, colon, port = place.rpartition(":")
    is_tcp = bool(colon) and port.isdecimal() and "/" not in place
    if is_tcp and not 0 < int(port) < 1 << 16:
        raise ConfigurationError(f"net socket={place}: the port must be 1 to 65535")
    try:
        made = _connect_tcp(host.strip("[]"), int(port)) if is_tcp else _connect_unix(place)
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigurationError(
            f"net socket={place}: {why}; a socket where somebody listens is needed, or HOST:PORT"
        ) from None
    return made.detach()


def _connect_tcp(host: str, port: int) -> socket.socket:
    made = socket.create_connection((host or "localhost", port), CONNECT_SECONDS)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _connect_unix(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(CONNECT_SECONDS)
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made


def taken_over(text: str) -> int:
    """Return a descriptor of our own for one that the user opened, ``fd:N``.

    Raises :class:`ConfigurationError` when it is not open.
    """
    number = text.removeprefix("fd:")
    if not number.isdecimal() or len(number) > 9:
        raise ConfigurationError(f"net {text!r}: must be fd:N with the number of a descriptor")
    try:
        return os.dup(int(number))
    except OSError as error:
        raise ConfigurationError(f"net {text}: {error.strerror}; must be an open one") from None
