"""A short story of a disk, as events: two reads of one notification, told of by one interrupt."""

from struct import Struct

from vmm.trace.events import (
    Access,
    Command,
    Completed,
    Event,
    Exit,
    Interrupt,
    Kick,
    Milestone,
    Snapshot,
    Status,
    Taken,
)

_HEADER = Struct("<IIQ")
READ = ((0x1000, 16, 0), (0x2000, 4096, 2), (0x3000, 1, 2))
WHERE = ("block0", "block0", 0)


def taken(at: int, number: int, request: str = "read", sector: int = 8) -> Taken:
    head = _HEADER.pack(0, 0, sector)
    return Taken(at, *WHERE, number, 3, head, READ, request, f"8 sectors at {sector}")


STORY: list[Event] = [
    Milestone(1_000, "MainThread", what="the guest runs"),
    Status(2_000, "vcpu-0", "block0", before=11, after=15, names="ACKNOWLEDGE DRIVER"),
    Access(
        *(3_000, "vcpu-0", "block0", -1, "mmio", 700),
        *(0xD0000050, 4, 0, True, "QueueNotify", "0"),
    ),
    Kick(10_000, *WHERE, 2),
    taken(11_000, 0),
    taken(11_100, 3),
    Completed(15_000, *WHERE, 3, 4097),
    Completed(16_000, *WHERE, 0, 4097),
    Interrupt(17_000, *WHERE),
    Exit(18_000, "vcpu-0", reason="interrupted", duration=100),
    Command(20_000, "MainThread", number=1, step="run", what="ls /"),
    Command(30_000, "console", number=1, step="done"),
    Snapshot(40_000, "MainThread", duration=5_000),
]
