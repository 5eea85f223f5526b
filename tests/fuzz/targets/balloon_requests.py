"""Fuzz the memory balloon with what a driver and a host may do.

Input: 1 byte of features, 1 of the form, then up to 64 steps of 8 bytes: operation, queue, two
numbers. What is given back is always whole pages inside RAM (the rig looks at each), none of it for
hints, none while pages must hold a poison, and the device lives unless a buffer is outside RAM.
"""

import struct

from tests.spec.bal import (
    ACTUAL,
    DEFLATE,
    F_FREE_PAGE_HINT,
    F_PAGE_POISON,
    F_REPORTING,
    F_STATS_VQ,
    HINT,
    INFLATE,
    PAGE,
    POISON,
    RAM_BYTES,
    REPORT,
    STATS,
    BalloonRig,
    numbers_of,
)
from tests.spec.rig import PACKED, SPLIT
from virtio.testing.driver import QueueFull

STEP = struct.Struct("<BBHI")
STEPS_MAX = 64
RAW, NUMBERS, NAME, COMMAND, CONFIGURE, POLL, ASK, END, RESTART = range(9)
FIRST_FREE = 2 << 20  # behind the rings, which a driver would not give away


class Bay(BalloonRig):
    """A live balloon, and at which indices its queues are."""

    def __init__(self, features: int, form: int) -> None:
        self.accepted = features & 63
        super().__init__(PACKED if form & 1 else SPLIT, self.accepted)
        optional = ((STATS, F_STATS_VQ), (HINT, F_FREE_PAGE_HINT), (REPORT, F_REPORTING))
        kinds = [INFLATE, DEFLATE, *(kind for kind, bit in optional if features & bit)]
        self.kinds = dict(enumerate(kinds))
        self.breaks = False

    def put(self, index: int, data: bytes, *parts: tuple[int, int]) -> None:
        """Make a chain available, serve it, and look at what came of it."""
        self.given.clear()
        if self.breaks:
            return
        try:
            if parts:
                self.breaks = any(at + length > RAM_BYTES for at, length in parts if length)
                self.name(index, *parts, queued=True)
            else:
                self.add(index, ((data,), ()))
        except QueueFull:
            self.rings[index].collect()
            return
        self.settle()
        for one in self.rings[index].collect():
            assert one.length == 0, "a balloon writes nothing"
        self.check(self.kinds[index])

    def check(self, kind: int) -> None:
        """Look at what was given back, and at what is kept."""
        poisoned = bool(self.accepted & F_PAGE_POISON)
        if kind not in (INFLATE, REPORT) or (kind == REPORT and self.number(POISON)):
            assert not self.given, "pages were given back that nobody gave"
        for _, _, zeroed in self.given:
            assert zeroed == (kind == REPORT and poisoned)
        assert self.driver.status == 0x0F or self.breaks, "the device broke"


def one_input(data: bytes) -> None:
    """Run one input."""
    if len(data) < 2:
        return
    bay = Bay(data[0], data[1])
    script = data[2 : 2 + STEPS_MAX * STEP.size]
    try:
        for operation, queue, a, b in STEP.iter_unpack(script[: len(script) // 8 * 8]):
            step(bay, operation % 9, queue % len(bay.kinds), a, b)
    finally:
        bay.close()


def step(bay: Bay, operation: int, index: int, a: int, b: int) -> None:
    """Do one step, and let the device do all it can."""
    if operation == RAW:
        bay.put(index, struct.pack("<IH", b, a) * (1 + a % 9) + bytes(a & 3))
    elif operation == NUMBERS:
        first = b if a & 1 else FIRST_FREE // PAGE + b % 600
        numbers = [(first + i * (1 + (a >> 8) % 3)) & 0xFFFF_FFFF for i in range(1 + a % 64)]
        bay.put(index, numbers_of(numbers))
    elif operation == NAME:
        address = FIRST_FREE + b % (RAM_BYTES - FIRST_FREE)
        bay.put(index, b"", (address, 1 + a), (FIRST_FREE + a * PAGE % (1 << 20), b & 0xFFFF))
    elif operation == COMMAND:
        current = bay.balloon.free_page_hint_cmd_id
        bay.put(index, struct.pack("<I", b if a & 1 else (current if a & 2 else 0)))
    elif operation == CONFIGURE:
        bay.set_number((0, ACTUAL, 8, POISON)[a & 3], b)
    elif operation == RESTART:
        bay.start(bay.accepted, SPLIT if a & 1 else PACKED)
        bay.breaks = False
    else:
        (bay.balloon.poll, bay.balloon.ask_for_hints, bay.balloon.end_hints)[operation - POLL]()
        if a & 1:
            bay.balloon.num_pages = b
        bay.settle()
