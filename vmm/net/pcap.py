"""Packets written to a file as they pass, for Wireshark and tcpdump.

The format is the classic one, of draft-ietf-opsawg-pcap: a header, then each frame behind its time
and length. A frame that is left uncut is written whole.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from struct import Struct
from typing import Final

from virtio.device.lifecycle import EventLoop
from virtio.errors import ConfigurationError
from virtio.log import Logger
from virtio.net.backend import NetBackend, NetEnd
from virtio.net.packet import HEADER_BYTES
from vmm.host.resource import Resource

_FILE_HEADER: Final = Struct("<IHHiIII").pack(0xA1B23C4D, 2, 4, 0, 0, 1 << 18, 1)
"""Magic number of nanoseconds, version, no time zone, longest frame, LINKTYPE_ETHERNET."""
_FRAME_HEADER: Final = Struct("<IIII")

_log = Logger(__name__)


class Capture(NetBackend, Resource):
    """A backend whose packets, both ways, go to a file, too; the machine closes both.

    A file that cannot be written any more ends the capture, not the network. Raises
    :class:`ConfigurationError` for one that cannot be made.
    """

    def __init__(self, backend: NetBackend, path: Path) -> None:
        self.name, self.takes, self.link = backend.name, backend.takes, backend.link
        self.max_pairs = backend.max_pairs
        self._backend = backend
        self._path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags, 0o644)
            os.write(self._fd, _FILE_HEADER)
        except OSError as error:
            raise ConfigurationError(f"net pcap={path}: {error.strerror}") from None

    def attach(self, end: NetEnd) -> None:
        """Put ourselves in between."""
        self._end = end
        self._backend.attach(self)

    def send(self, packets: Sequence[bytes], pair: int) -> int:
        """Send packets, and write those that were taken."""
        taken = self._backend.send(packets, pair)
        self._write(packets[:taken])
        return taken

    def deliver(self, packets: Sequence[bytes], pair: int | None = None) -> int:
        """Take packets for the guest, and write those that there is room for."""
        taken = self._end.deliver(packets, pair)
        self._write(packets[:taken])
        return taken

    def space(self, pair: int = 0) -> None:
        """Pass it on."""
        self._end.space(pair)

    def set_link(self, up: bool) -> None:
        """Pass it on."""
        self._end.set_link(up)

    def arrived(self, pair: int) -> bool | None:
        """Have the backend read, as native code writes no file."""
        return None

    def start(self, loop: EventLoop) -> None:
        """Pass it on."""
        self._backend.start(loop)

    def stop(self) -> None:
        """Pass it on."""
        self._backend.stop()

    def resume(self) -> None:
        """Pass it on."""
        self._backend.resume()

    def set_offloads(self, mask: int, pairs: int) -> None:
        """Pass it on."""
        self._backend.set_offloads(mask, pairs)

    def _write(self, packets: Sequence[bytes]) -> None:
        if self._fd < 0 or not packets:
            return
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        parts = []
        for packet in packets:
            size = len(packet) - HEADER_BYTES
            parts += [_FRAME_HEADER.pack(seconds, nanoseconds, size, size), packet[HEADER_BYTES:]]
        data = b"".join(parts)
        try:
            if os.write(self._fd, data) < len(data):
                raise OSError(28, "the file is full")
        except OSError as error:
            _log.warning("%s: %s; no more packets are written", self._path, error.strerror)
            self._close_file()

    def _close_file(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """Close the file, and the backend."""
        self._close_file()
        close = getattr(self._backend, "close", None)
        if close is not None:
            close()
