"""An end of a switch in Python: frames sent, and frames waited for."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from virtio.errors import ConfigurationError, Error
from virtio.net.offload import finished
from virtio.net.packet import ETHERNET_BYTES, HEADER_BYTES, MAX_FRAME_BYTES, packet_of

if TYPE_CHECKING:
    from vmm.net.switch import Switch

MAX_FRAMES: Final = 10_000
SHOWN: Final = 5

Filter = Callable[[bytes], bool] | bytes


class NoSuchFrame(Error):
    """No frame came in time that a test expects; ``others`` are those that did."""

    def __init__(self, message: str, others: Sequence[bytes]) -> None:
        super().__init__(message)
        self.others = others


class Port:
    """Sends Ethernet frames into a switch, and gets what the switch sends here.

    ``mac`` is an address for frames to and from here; nothing else depends on it, and all frames
    that come are kept, the last 10 000 of them. They are as on a wire: with checksums, and cut.
    """

    def __init__(self, switch: Switch, mac: bytes) -> None:
        if len(mac) != 6 or mac[0] & 1:
            raise ConfigurationError(f"port: MAC address {mac.hex(':')}: must be one station's")
        self.mac = mac
        self._switch = switch
        self._frames: deque[bytes] = deque(maxlen=MAX_FRAMES)
        self._came = threading.Condition()
        switch.plug_in(self)

    def send(self, *frames: bytes) -> None:
        """Send frames, from the target's address on and without a checksum behind.

        Raises :class:`ConfigurationError` for one that no Ethernet carries.
        """
        for frame in frames:
            if not ETHERNET_BYTES <= len(frame) <= MAX_FRAME_BYTES:
                raise ConfigurationError(
                    f"frame of {len(frame)} bytes: must have {ETHERNET_BYTES} to {MAX_FRAME_BYTES}"
                )
        self._switch.forward(self, [packet_of(bytes(frame)) for frame in frames])

    def expect(self, wanted: Filter, timeout: float) -> bytes:
        """Return the first frame that a filter wants, and drop those that came before.

        ``wanted`` is a function that tells so of a frame, or bytes that it must contain. Raises
        :class:`NoSuchFrame` when none comes within ``timeout`` seconds.
        """
        end, others = time.monotonic() + timeout, list[bytes]()
        fits = (lambda frame: wanted in frame) if isinstance(wanted, bytes) else wanted
        with self._came:
            while True:
                while self._frames:
                    frame = self._frames.popleft()
                    if fits(frame):
                        return frame
                    others.append(frame)
                if not self._came.wait(end - time.monotonic()) and not self._frames:
                    raise NoSuchFrame(_told(timeout, others), others)

    def frames(self) -> list[bytes]:
        """Return, and take away, all frames that are here."""
        with self._came:
            frames = list(self._frames)
            self._frames.clear()
        return frames

    def arrive(self, packets: Sequence[bytes]) -> int:
        """Take packets of the switch."""
        frames = [one[HEADER_BYTES:] for packet in packets for one in finished(packet, 0)]
        with self._came:
            self._frames.extend(frames)
            self._came.notify_all()
        return len(packets)

    def close(self) -> None:
        """Leave the switch."""
        self._switch.unplug(self)


def _told(timeout: float, others: Sequence[bytes]) -> str:
    came = f"{len(others)} others came" if others else "nothing came"
    last = "".join(f"; {frame[:40].hex(' ')}" for frame in others[-SHOWN:])
    return f"no such frame in {timeout:g} s: {came}{last}"
