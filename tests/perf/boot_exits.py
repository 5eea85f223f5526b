"""``python -m tests.perf.exits --boot``: what brings the default guest out of the guest mode.

Counts the exits from the kernel's entry to the first instructions of ``/init``, and the accesses by
who answers them. A guest that is alone on its processor makes the same ones each time, so a test
may say how many there are.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from vmm.bus import Bus
from vmm.config import MachineConfig, Transport
from vmm.image.initramfs import Initramfs
from vmm.machine import Machine

TRANSPORTS: tuple[Transport, ...] = ("mmio", "pci")
DEADLINE_SECONDS = 300.0
DEBUG_EXIT = 0xF4
REACHED = 0

_CODE_AT = 0x40_0000
_HEADERS = 64 + 56
# ioperm(0xf4, 1, 1), then the status to the port, for ever. Linux syscall_64.tbl: 173 is ioperm.
_INIT = bytes.fromhex("b8ad000000 bff4000000 be01000000 ba01000000 0f05 31c0 e6f4 ebfc")


@dataclass(frozen=True, slots=True)
class BootExits:
    """``exits`` by reason, without those that end a run of the vCPU for a signal of ours.

    ``accesses`` are by the name of who answered, of a device or a part of the platform.
    """

    exits: dict[str, int]
    accesses: dict[str, int]

    @property
    def total(self) -> int:
        """How many exits there were."""
        return sum(self.exits.values())


def init_program() -> bytes:
    """Return a program that ends its machine with the status ``REACHED``, as an ELF file."""
    size = _HEADERS + len(_INIT)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(2, 62, 1, _CODE_AT + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0),
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _CODE_AT, _CODE_AT, size, size, 0x1000)
    return header + load + _INIT


def count(transport: Transport, cpus: int = 1) -> BootExits:
    """Boot the default guest up to its first process, and return what it did till then."""
    initramfs = Initramfs()
    initramfs.add_file("init", init_program(), 0o755)
    config = MachineConfig(initrd=initramfs.to_bytes(), transport=transport, cpus=cpus)
    with Machine(config) as machine:
        accesses: Counter[str] = Counter()
        for bus in (machine.hardware.ports, machine.hardware.mmio):
            _count_accesses(bus, accesses)
        machine.boot()
        ending = machine.wait(DEADLINE_SECONDS)
        if ending.status != REACHED:
            raise SystemExit(f"the guest did not reach its first process: {ending.message}")
        exits = machine.statistics.exits
    exits.pop("interrupted", None)
    return BootExits(exits, dict(accesses.most_common()))


def _count_accesses(bus: Bus, accesses: Counter[str]) -> None:
    read, write, ranges = bus.read, bus.write, bus.ranges()

    def name(address: int) -> str:
        owners = (name for base, length, name in ranges if base <= address < base + length)
        return next(owners, "nobody")

    def counted_read(address: int, length: int) -> bytes:
        accesses[name(address)] += 1
        return read(address, length)

    def counted_write(address: int, data: bytes) -> None:
        accesses[name(address)] += 1
        write(address, data)

    bus.read, bus.write = counted_read, counted_write  # type: ignore[method-assign]


def lines() -> Iterator[str]:
    """Give the counts of each transport, as text."""
    for transport in TRANSPORTS:
        found = count(transport)
        yield f"{transport}: {found.total} exits from entry to /init: {_pairs(found.exits)}"
        yield f"    accesses: {_pairs(found.accesses)}"


def _pairs(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items())
