"""The breakpoints of a debugger: bytes in guest memory, and what debug registers watch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from virtio.errors import ConfigurationError
from virtio.memory import GuestMemory
from vmm.x86 import (
    BREAKPOINT,
    HARDWARE_BREAKPOINTS,
    HardwareBreakpoint,
    check_hardware_breakpoint,
)

Translate = Callable[[int], int | None]
MAX_BREAKPOINTS: Final = 1000
MAX_WATCHED_BYTES: Final = 4096


class Watched:
    """Memory that is compared after each step, where no debug register sees the guest's kernel."""

    def __init__(self, address: int, view: memoryview) -> None:
        self.address = address
        self._view = view
        self._value = bytes(view)

    @property
    def length(self) -> int:
        """How many bytes are watched."""
        return len(self._view)

    def changed(self) -> bool:
        """Whether the bytes have changed since the last look."""
        before, self._value = self._value, bytes(self._view)
        return before != self._value

    def release(self) -> None:
        """Let go of guest memory."""
        self._view.release()


class Breakpoints:
    """All breakpoints that are set; the vCPUs are out of the guest when they change.

    A software breakpoint is an INT3 in guest memory. It is kept by its physical address, so that it
    is found again whatever the guest has mapped there, and readers do not see it (:meth:`hide`).
    """

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self._software: dict[int, tuple[int, int]] = {}  # by address: physical one, byte below
        self.hardware: list[HardwareBreakpoint] = []
        self.watched: list[Watched] = []

    def has_software(self, address: int) -> bool:
        """Whether there is a software breakpoint at a virtual address."""
        return address in self._software

    def insert_software(self, address: int, translate: Translate) -> None:
        """Set one; raises ``ConfigurationError`` where there is no memory."""
        if address in self._software:
            return
        if len(self._software) >= MAX_BREAKPOINTS:
            raise ConfigurationError(f"{MAX_BREAKPOINTS} breakpoints are there already")
        physical = translate(address)
        if physical is None:
            raise ConfigurationError(f"address {address:#x}: nothing is mapped there")
        below = next((byte for at, byte in self._software.values() if at == physical), None)
        with self._memory.view(physical, 1) as view:
            self._software[address] = physical, view[0] if below is None else below
            view[0] = BREAKPOINT

    def remove_software(self, address: int) -> None:
        """Take one out; harmless where there is none."""
        if address not in self._software:
            return
        physical, byte = self._software.pop(address)
        if any(at == physical for at, _ in self._software.values()):
            return
        with self._memory.view(physical, 1) as view:
            if view[0] == BREAKPOINT:  # else the guest has put something else there
                view[0] = byte

    def insert_hardware(self, one: HardwareBreakpoint) -> None:
        """Have a debug register watch; raises ``ConfigurationError`` when it cannot, or none is
        left.
        """
        check_hardware_breakpoint(one)
        if one in self.hardware:
            return
        if len(self.hardware) >= HARDWARE_BREAKPOINTS:
            raise ConfigurationError(f"{HARDWARE_BREAKPOINTS} debug registers are in use already")
        self.hardware.append(one)

    def remove_hardware(self, one: HardwareBreakpoint) -> None:
        """Let go of a debug register."""
        if one in self.hardware:
            self.hardware.remove(one)

    def insert_watched(self, address: int, length: int, translate: Translate) -> None:
        """Watch memory by comparing it; raises ``ConfigurationError`` where there is none."""
        if not 0 < length <= MAX_WATCHED_BYTES or len(self.watched) >= MAX_BREAKPOINTS:
            raise ConfigurationError(f"{length} bytes: 1 to {MAX_WATCHED_BYTES} can be watched")
        physical = translate(address)
        last = translate(address + length - 1)
        if physical is None or last != physical + length - 1:
            raise ConfigurationError(f"address {address:#x}: nothing is mapped there, or in parts")
        self.watched.append(Watched(address, self._memory.view(physical, length)))

    def remove_watched(self, address: int, length: int) -> None:
        """Watch that memory no more."""
        for one in self.watched:
            if (one.address, one.length) == (address, length):
                self.watched.remove(one)
                one.release()
                return

    def hide(self, physical: int, data: bytearray) -> None:
        """Put into ``data``, which was read at ``physical``, what is below software breakpoints."""
        for at, byte in self._software.values():
            if 0 <= at - physical < len(data) and data[at - physical] == BREAKPOINT:
                data[at - physical] = byte

    def keep(self, physical: int, data: bytearray) -> None:
        """Put software breakpoints into ``data``, which is to be written at ``physical``."""
        for address, (at, _) in self._software.items():
            if 0 <= at - physical < len(data):
                self._software[address] = at, data[at - physical]
        for at, _ in self._software.values():
            if 0 <= at - physical < len(data):
                data[at - physical] = BREAKPOINT

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Have none in guest memory inside the block, in which no vCPU runs: for a copy of it."""
        there = []
        for at, byte in set(self._software.values()):
            with self._memory.view(at, 1) as view:
                if view[0] == BREAKPOINT:
                    view[0] = byte
                    there.append(at)
        try:
            yield
        finally:
            for at in there:
                with self._memory.view(at, 1) as view:
                    view[0] = BREAKPOINT

    def clear(self) -> None:
        """Take all out."""
        for address in list(self._software):
            self.remove_software(address)
        self.hardware.clear()
        for one in self.watched:
            one.release()
        self.watched.clear()
