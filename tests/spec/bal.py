"""A memory balloon for its tests: what a driver sends it, and a host that notes what it gets back.

All numbers are typed from VIRTIO 1.4 "Traditional Memory Balloon Device".
"""

import struct
from collections.abc import Sequence
from typing import Any

from tests.spec.devices import EVERY_RING
from tests.spec.rig import SPLIT, Form, Rig
from virtio.balloon import Balloon, BalloonStatistics
from virtio.memory import FlatMemory
from virtio.testing.driver import Segment

F_MUST_TELL_HOST, F_STATS_VQ, F_DEFLATE_ON_OOM = 1, 2, 4
F_FREE_PAGE_HINT, F_PAGE_POISON, F_REPORTING = 8, 16, 32
EVERYTHING = 63
INFLATE, DEFLATE, STATS, HINT, REPORT = range(5)
NUM_PAGES, ACTUAL, HINT_ID, POISON = 0, 4, 8, 12
STOP, DONE = 0, 1
PAGE = 4096
RAM_BYTES = 4 << 20

Given = tuple[int, int, bool]


class BalloonRig(Rig):
    """A live balloon; ``given`` are address, length and promise of what came back to the host.

    The host fills with ``x`` what it takes, so that a test sees where.
    """

    def __init__(
        self,
        form: Form = SPLIT,
        features: int = EVERYTHING,
        *,
        size: int = 8,
        memory: FlatMemory | None = None,
        **options: Any,
    ) -> None:
        self.given: list[Given] = []
        self.told: list[BalloonStatistics] = []
        self.hinted = 0
        options.setdefault("host_page_bytes", PAGE)
        self.balloon = Balloon(self._take, ring_features=EVERY_RING, **options)
        self.balloon.on_statistics = self.told.append
        self.balloon.on_hinted = self._hinted
        super().__init__(self.balloon, memory)
        self.start(features, form, size=size)

    def _take(self, address: int, length: int, *, zeroed: bool) -> None:
        assert address % PAGE == length % PAGE == 0, "no whole pages"
        assert length, "nothing is given back"
        self.memory.view(address, length)[:] = b"x" * length  # fails outside RAM
        self.given.append((address, length, zeroed))

    def _hinted(self) -> None:
        self.hinted += 1

    def settle(self) -> None:
        """Let the device do all that it can do now."""
        self.serve()
        while self.loop.advance():
            self.serve()

    def send(self, queue: int, data: bytes, *sizes: int) -> None:
        """Send a chain of data and buffers, which must come back with nothing written."""
        self.add(queue, ((data,) if data else (), sizes))
        self.settle()
        [used] = self.rings[queue].collect()
        assert used.length == 0

    def inflate(self, *numbers: int) -> list[Given]:
        """Put pages into the balloon, and return what the host got for them."""
        self.given.clear()
        self.send(INFLATE, numbers_of(numbers))
        return list(self.given)

    def name(self, queue: int, *parts: tuple[int, int], queued: bool = False) -> None:
        """Name ranges of memory, by buffers there; they come back with nothing written."""
        segments = [Segment(address, length, True) for address, length in parts]
        self.rings[queue].add_segments(segments)
        self.driver.notify(queue)
        if queued:
            return
        self.settle()
        [used] = self.rings[queue].collect()
        assert used.length == 0

    def number(self, offset: int) -> int:
        """Read a field of configuration space."""
        return int.from_bytes(self.read_config(offset, 4), "little")

    def set_number(self, offset: int, value: int) -> None:
        """Write a field of configuration space."""
        self.write_config(offset, struct.pack("<I", value))

    def ask(self) -> int:
        """Have the host ask for hints, and return the command's ID."""
        self.balloon.ask_for_hints()
        self.settle()
        return self.number(HINT_ID)

    def say(self, command: int) -> None:
        """Send a command of the driver's to the queue of hints."""
        self.send(HINT, struct.pack("<I", command))


def numbers_of(numbers: Sequence[int]) -> bytes:
    """Return page numbers as a driver sends them."""
    return struct.pack(f"<{len(numbers)}I", *numbers)


def entries(*pairs: tuple[int, int]) -> bytes:
    """Return statistics as a driver sends them: tags and values."""
    return b"".join(struct.pack("<HQ", *pair) for pair in pairs)
