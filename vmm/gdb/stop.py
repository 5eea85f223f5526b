"""Why a vCPU stopped for the debugger."""

from __future__ import annotations

from typing import Final, Literal

from virtio.named_tuple import NamedTuple

SIGINT: Final = 2
SIGTRAP: Final = 5
SIGABRT: Final = 6

Kind = Literal["", "swbreak", "hwbreak", "watch", "rwatch", "awatch"]


class Stop(NamedTuple):
    """The vCPU by its index, the signal that GDB is told, and the breakpoint if it was one."""

    vcpu: int
    signal: int = SIGTRAP
    kind: Kind = ""
    address: int = 0


Move = Literal["step", "continue"]
"""How a vCPU is let go."""
