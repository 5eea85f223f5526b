"""Runs and watches vCPUs by ``run.c``, which returns only for exits that need Python.

Importing it raises ``ImportError`` where the C part was not built.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from virtio.memory import GuestMemory
from vmm.kvm.vcpu import VcpuFd
from vmm.x86._run import ffi, lib


class NativeRun:
    """Lets C enter the guest for ``vcpu``, and counts the instructions that it emulated."""

    def __init__(self, vcpu: VcpuFd, memory: GuestMemory) -> None:
        self._emulated = ffi.new("struct emulated *")
        self._ram = _ram_of(memory)
        with ffi.from_buffer("uint8_t[]", vcpu.run_area) as area:
            # The vCPU keeps its area where it is for as long as it can be entered, as the machine
            # does with guest memory.
            run_area = ffi.cast("void *", area)
        vcpu.enter = partial(lib.run_vcpu, vcpu.fd, run_area, self._ram, self._emulated)

    @property
    def counts(self) -> dict[str, int]:
        """How many instructions were emulated, by mnemonic; without those that did not occur."""
        done = self._emulated
        counts = {"clac": done.clac, "stac": done.stac, "syscall": done.syscall}
        return {name: count for name, count in counts.items() if count}


def wait_idle(clocks: Sequence[int], interval_ms: int, stop_fd: int) -> bool:
    """Wait as ``vmm.ending.halt_watch.wait_idle_plainly`` does, without the GIL."""
    return bool(lib.wait_idle(ffi.new("int32_t[]", clocks), len(clocks), interval_ms, stop_fd))


def _ram_of(memory: GuestMemory) -> Any:
    ram = ffi.new("struct ram *")
    regions = memory.regions[: lib.MAX_REGIONS]
    ram.regions = len(regions)
    for place, (start, length) in zip(ram.region, regions, strict=False):
        view = memory.view(start, length)
        with ffi.from_buffer("uint8_t[]", view) as host:
            place.start, place.end, place.host = start, start + length, host
        view.release()
    return ram
