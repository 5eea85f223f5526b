"""What the benchmark's guest is asked to do, and what it says of it on its serial port.

The guest is ``guest-images/bench``; its command line and its lines are described there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = re.compile(r"^bench: ([a-z-]+)((?: [a-z_]+=\d+)+)\r?$", re.MULTILINE)
_ERROR = re.compile(r"^bench: error: (.*?)\r?$", re.MULTILINE)
_DONE = re.compile(r"^bench: done\r?$", re.MULTILINE)

_UNITS = ((1 << 20, "M"), (1 << 10, "K"))


class GuestFailed(Exception):
    """The guest did not do its work, or not rightly; the message is one line."""


@dataclass(frozen=True, slots=True)
class Workload:
    """``count`` requests of ``bytes`` each, ``depth`` of them at once; ``kind`` is the guest's."""

    kind: str
    bytes: int
    depth: int
    count: int
    random: bool = False
    event_idx: bool = False

    @property
    def name(self) -> str:
        """How the workload is called in tables: all of it but the count."""
        unit = next((unit for unit in _UNITS if self.bytes % unit[0] == 0), (1, ""))
        event_idx = " event-idx" if self.event_idx else ""
        return f"{self.kind} {self.bytes // unit[0]}{unit[1]} qd{self.depth}{event_idx}"

    @property
    def word(self) -> str:
        """The workload as a word of the guest's command line."""
        return (
            f"bench={self.kind},bytes={self.bytes},depth={self.depth},count={self.count},"
            f"random={self.random:d},event_idx={self.event_idx:d}"
        )


@dataclass(frozen=True, slots=True)
class Measurement:
    """One workload as the guest measured it, per request of its full size.

    ``cycles`` of the time stamp counter, and ``kicks``: how often the device wanted to be notified.
    """

    workload: Workload
    cycles: float
    kicks: float


def _block(kind: str, event_idx: bool) -> tuple[Workload, ...]:
    return (
        Workload(kind, 4096, 1, 2000, random=True, event_idx=event_idx),
        Workload(kind, 4096, 32, 8000, random=True, event_idx=event_idx),
        Workload(kind, 4096, 64, 8000, random=True, event_idx=event_idx),
        Workload(kind, 128 << 10, 4, 1000, event_idx=event_idx),
        Workload(kind, 1 << 20, 4, 200, event_idx=event_idx),
    )


WORKLOADS = (
    *_block("blk-read", event_idx=False),
    *_block("blk-read", event_idx=True),
    *_block("blk-write", event_idx=False),
    *_block("blk-write", event_idx=True),
    Workload("blk-stable", 4096, 1, 200, random=True),
    Workload("blk-stable", 4096, 32, 2000, random=True),
    Workload("entropy", 4096, 1, 2000),
    Workload("entropy", 4096, 1, 2000, event_idx=True),
)


def parse(console: str) -> list[Measurement]:
    """Return what the guest measured, in its order.

    Raises :class:`GuestFailed` with the guest's own words when it found something wrong, and when
    it did not come to its end.
    """
    if error := _ERROR.search(console):
        raise GuestFailed(error[1])
    if not _DONE.search(console):
        raise GuestFailed("the guest did not come to its end")
    return [_measurement(kind, text) for kind, text in _LINE.findall(console)]


def _measurement(kind: str, text: str) -> Measurement:
    pairs = (pair.split("=") for pair in text.split())
    values = {key: int(value) for key, value in pairs}
    try:
        workload = Workload(
            kind,
            values["bytes"],
            values["depth"],
            values["count"],
            random=bool(values["random"]),
            event_idx=bool(values["event_idx"]),
        )
        # An entropy device may give less than it is asked for.
        requests = values["moved"] / values["bytes"]
        return Measurement(workload, values["cycles"] / requests, values["kicks"] / requests)
    except (KeyError, ZeroDivisionError):
        raise GuestFailed(f"the guest's line cannot be read: {kind}{text}") from None
