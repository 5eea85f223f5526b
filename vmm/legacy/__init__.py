"""The devices of a PC that Linux looks for by itself, and two ports that end a guest."""

from vmm.legacy.debug_exit import DEBUG_EXIT_PORT, DebugExit
from vmm.legacy.i8042 import I8042, I8042State
from vmm.legacy.pvpanic import (
    PVPANIC_CRASH_LOADED,
    PVPANIC_PANICKED,
    PVPANIC_PORT,
    PVPANIC_SHUTDOWN,
    Pvpanic,
)
from vmm.legacy.serial import COM1_BASE, COM1_IRQ, Serial16550A, SerialState

__all__ = [
    "COM1_BASE",
    "COM1_IRQ",
    "DEBUG_EXIT_PORT",
    "I8042",
    "PVPANIC_CRASH_LOADED",
    "PVPANIC_PANICKED",
    "PVPANIC_PORT",
    "PVPANIC_SHUTDOWN",
    "DebugExit",
    "I8042State",
    "Pvpanic",
    "Serial16550A",
    "SerialState",
]
