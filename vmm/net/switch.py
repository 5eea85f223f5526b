"""An Ethernet switch in the process: guests on it, and ends in Python.

Packets pass as the guests hand them over: with a checksum left, or uncut, they come to the next
card, which finishes them if its guest does not take such. IEEE 802.1D "Learning".
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol, Unpack

from virtio.net.backend import NetBackend, NetEnd
from virtio.net.packet import EVERYTHING, HEADER_BYTES
from vmm.host.resource import Resource
from vmm.host.threads import start_thread
from vmm.net.fate import Fate, FateOptions

if TYPE_CHECKING:
    from vmm.net.port import Port

MAX_ADDRESSES: Final = 4096
MAX_LATE: Final = 100_000
"""How many frames may be on their way at once; others are lost."""

_TARGET: Final = slice(HEADER_BYTES, HEADER_BYTES + 6)
_SOURCE: Final = slice(HEADER_BYTES + 6, HEADER_BYTES + 12)


class Plug(Protocol):
    """What is plugged into a switch."""

    def arrive(self, packets: Sequence[bytes]) -> int:
        """Take packets, and return how many there was room for."""


class Switch(Resource):
    """Carries frames between all that is plugged in; the options are those of :class:`Fate`.

    Give it to guests, as one of ``MachineConfig.nets``, and make ends in Python by :meth:`port`:

        with Switch(loss=0.1, seed=1) as switch:
            port = switch.port()
            port.send(frame)
            answer = port.expect(lambda frame: frame[12:14] == b"\\x08\\x06", timeout=5)

    It learns which address is where, and sends frames for others everywhere. ``forwarded`` counts
    frames that came to somebody, ``lost`` those that did not; all may be called from any thread.
    """

    name = "switch"

    def __init__(self, **options: Unpack[FateOptions]) -> None:
        self._fate = Fate(**options)
        self.forwarded = 0
        self.lost = 0
        self._lock = threading.Lock()
        self._plugs: tuple[Plug, ...] = ()
        self._places: dict[bytes, Plug] = {}
        self._late: list[tuple[float, int, Plug, bytes]] = []
        self._numbers = count()
        self._wake = threading.Condition(self._lock)
        self._postman: threading.Thread | None = None
        self._closed = False

    def open(self) -> NetBackend:
        """Return the network of one more guest."""
        cable = Cable(self)
        self.plug_in(cable)
        return cable

    def port(self, mac: bytes | None = None) -> Port:
        """Return an end in Python, with an address to be sent to."""
        from vmm.net.port import Port

        return Port(self, mac or b"\x02port" + bytes([len(self._plugs) & 0xFF]))

    def plug_in(self, plug: Plug) -> None:
        """Connect something."""
        with self._lock:
            self._plugs = (*self._plugs, plug)

    def unplug(self, plug: Plug) -> None:
        """Disconnect it, and forget which addresses are there."""
        with self._lock:
            self._plugs = tuple(one for one in self._plugs if one is not plug)
            self._places = {at: one for at, one in self._places.items() if one is not plug}

    def forward(self, source: Plug, packets: Sequence[bytes]) -> None:
        """Carry packets from one plug to the others."""
        with self._lock:
            routed = self._route(source, packets)
            if not self._fate.is_plain:
                routed = self._delayed(routed)
        self._hand_over(routed)

    def close(self) -> None:
        """Carry nothing more."""
        with self._lock:
            self._closed = True
            self._plugs, self._places, self._late = (), {}, []
            postman, self._postman = self._postman, None
            self._wake.notify_all()
        if postman is not None:
            postman.join()

    def _route(self, source: Plug, packets: Sequence[bytes]) -> dict[Plug, list[bytes]]:
        """Return which packets go to whom, and learn where their senders are."""
        places, routed = self._places, dict[Plug, list[bytes]]()
        for packet in packets:
            address = packet[_SOURCE]
            if places.get(address) is not source and not address[0] & 1:
                if len(places) >= MAX_ADDRESSES:
                    places.pop(next(iter(places)))
                places[address] = source
            target = packet[_TARGET]
            place = None if target[0] & 1 else places.get(target)
            for plug in self._plugs if place is None else (place,):
                if plug is not source:
                    routed.setdefault(plug, []).append(packet)
        return routed

    def _delayed(self, routed: dict[Plug, list[bytes]]) -> dict[Plug, list[bytes]]:
        """Have frames meet their fate; returns those that come at once."""
        now, at_once = time.monotonic(), dict[Plug, list[bytes]]()
        for plug, packets in routed.items():
            for packet in packets:
                copies = self._fate.copies()
                self.lost += not copies
                for _ in range(copies):
                    if self._fate.keeps_time:
                        self._post(plug, packet, now)
                    else:
                        at_once.setdefault(plug, []).append(packet)
        return at_once

    def _post(self, plug: Plug, packet: bytes, now: float) -> None:
        when = self._fate.arrival(plug, len(packet) - HEADER_BYTES, now)
        if when is None or len(self._late) >= MAX_LATE or self._closed:
            self.lost += 1
            return
        heappush(self._late, (when, next(self._numbers), plug, packet))
        if self._postman is None:
            self._postman = threading.Thread(target=self._deliver_late, name="switch", daemon=True)
            start_thread(self._postman)
        self._wake.notify_all()

    def _deliver_late(self) -> None:
        while True:
            due: dict[Plug, list[bytes]] = {}
            with self._lock:
                while not self._closed and not due:
                    left = self._late[0][0] - time.monotonic() if self._late else None
                    if left is None or left > 0:
                        self._wake.wait(left)
                        continue
                    while self._late and self._late[0][0] <= time.monotonic():
                        _, _, plug, packet = heappop(self._late)
                        due.setdefault(plug, []).append(packet)
                if self._closed:
                    return
            self._hand_over(due)

    def _hand_over(self, routed: dict[Plug, list[bytes]]) -> None:
        for plug, packets in routed.items():
            taken = plug.arrive(packets)
            with self._lock:
                self.forwarded += taken
                self.lost += len(packets) - taken


class Cable(NetBackend):
    """From a guest's card to a switch, which drops what the guest has no room for."""

    name = "switch"
    takes = EVERYTHING

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._end: NetEnd | None = None

    def attach(self, end: NetEnd) -> None:
        """Have the card."""
        self._end = end

    def send(self, packets: Sequence[bytes], pair: int) -> int:
        """Send packets to all whom they concern."""
        self._switch.forward(self, packets)
        return len(packets)

    def arrive(self, packets: Sequence[bytes]) -> int:
        """Take packets for the guest."""
        return 0 if self._end is None else self._end.deliver(packets)

    def close(self) -> None:
        """Leave the switch."""
        self._switch.unplug(self)
