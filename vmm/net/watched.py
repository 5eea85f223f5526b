"""What networks behind a descriptor have in common: read when there is data, and room for it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from virtio.device.lifecycle import EventLoop
from virtio.log import Logger
from virtio.net.backend import NetEnd
from virtio.net.lending import Lender
from vmm.host.resource import Resource

_log = Logger(__name__)


class WatchedBackend(Lender, Resource):
    """Reads descriptors, one for each queue pair, on the loop of the live device.

    All runs under the device's work lock. A subclass has :meth:`read_packets`. When a read or a
    write fails for good, the cable is pulled, with one line that says why.
    """

    def __init__(self, name: str, fds: Sequence[int]) -> None:
        self.name = name
        self.fds = list(fds)
        self.max_pairs = len(self.fds)
        self._end: NetEnd | None = None
        self._loop: EventLoop | None = None
        self._kept: list[list[bytes]] = [[] for _ in self.fds]
        self._failed = False

    def attach(self, end: NetEnd) -> None:
        """Have the device to deliver to."""
        self._end = end

    def start(self, loop: EventLoop) -> None:
        """Read from now on."""
        self._loop = loop
        self.resume()

    def stop(self) -> None:
        """Read nothing more; the loop has forgotten us."""
        self._loop = None

    def resume(self) -> None:
        """Deliver what was kept, and read again."""
        if self._loop is not None and not self._failed:
            for pair, fd in enumerate(self.fds):
                if self._deliver(pair, ()):
                    self._loop.add_reader(fd, lambda pair=pair: self._readable(pair))  # type: ignore[misc]

    def read_packets(self, pair: int) -> list[bytes]:
        """Return the packets that are there, some at a time; raises ``OSError`` at the end."""
        raise NotImplementedError

    def _readable(self, pair: int) -> None:
        watched = None if self._end is None else self._end.arrived(pair)
        if watched is None:
            self.read_on(pair)
        elif not watched and self._loop is not None:
            self._loop.remove_reader(self.fds[pair])

    def read_on(self, pair: int) -> None:
        """Deliver what was kept, or else what can be read; watch no further what has no room."""
        if self._failed:
            return
        try:
            packets = [] if self._kept[pair] else self.read_packets(pair)
        except OSError as error:
            self.fail(os.strerror(error.errno or 0))
            return
        if not self._deliver(pair, packets) and self._loop is not None:
            self._loop.remove_reader(self.fds[pair])

    def lend_reading(self, pair: int) -> bytes | None:
        """Let native code read, when nothing is kept."""
        return None if self._failed or self._kept[pair] or self._loop is None else b""

    def return_reading(self, pair: int, data: bytes) -> None:
        """Keep the packet."""
        self._kept[pair].append(data)

    def lends_writing(self, pair: int) -> bool:
        """Let native code write, while the network is there."""
        return not self._failed

    def return_writing(self, pair: int, data: bytes) -> None:
        """Have nothing to write: a packet goes whole or not at all."""

    def _deliver(self, pair: int, packets: Sequence[bytes]) -> bool:
        """Hand packets to the device; tells whether it took all, and those kept before."""
        kept = self._kept[pair]
        kept += packets
        if kept and self._end is not None:
            del kept[: self._end.deliver(kept, pair if len(self.fds) > 1 else None)]
        return not kept

    def fail(self, why: str) -> None:
        """Pull the cable for good: the network has gone."""
        if self._failed:
            return
        self._failed = True
        _log.warning("%s: %s; the guest's cable is pulled", self.name, why)
        if self._loop is not None:
            for fd in self.fds:
                self._loop.remove_reader(fd)
                self._loop.remove_writer(fd)
        if self._end is not None:
            self._end.set_link(False)

    def close(self) -> None:
        """Close the descriptors."""
        fds, self.fds = self.fds, []
        for fd in fds:
            os.close(fd)
