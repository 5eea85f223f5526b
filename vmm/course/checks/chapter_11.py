"""Chapter 11: a machine as a value."""

import mmap
import struct
from typing import Any, Final

from vmm.course.lab import EXIT_HLT, EXIT_NAMES, Lab
from vmm.course.missing import Step, function, need

COUNTER: Final = bytes.fromhex("fe 06 00 01 fe c1 f4 eb f7")  # inc [0x100]; inc cl; hlt; again
DATA_BASE: Final = 0x1000
_DS: Final = 24  # of struct kvm_sregs
_BASE: Final = "the segments: special_registers()"


def check(mine: Any, step: Step) -> None:
    """Save a machine that counts, and see how others go on."""
    save = function(mine, "save", "save(lab, memory)")
    restore = function(mine, "restore", "restore(lab, memory, state)")
    with mmap.mmap(-1, 4096) as memory, Lab() as lab:
        memory[: len(COUNTER)] = COUNTER
        lab.add_slot(0x1000, memory)
        lab.start_at(0x1000, rcx=50)
        special = lab.special_registers()
        struct.pack_into("<QIH", special, _DS, DATA_BASE, 0xFFFF, DATA_BASE >> 4)
        lab.set_special_registers(special)
        _run(lab, 3, "the machine")
        state = save(lab, memory)
        need(state is not None, "save returned None, must be the state")
        step("a state was saved")
        _expect(lab, memory, 2, (5, 55), "the machine that was saved, which runs on")
    step("the saved machine went on")
    for name in ("the first clone", "the second clone, of the same state"):
        with mmap.mmap(-1, 4096) as memory, Lab() as lab:
            lab.add_slot(0x1000, memory)
            restore(lab, memory, state)
            need(memory[:1] != b"\0", f"{name} has no code: its memory was not restored")
            data = int.from_bytes(lab.special_registers()[_DS : _DS + 8], "little")
            need(data == DATA_BASE, f"{name} has not its data segment's base: restore {_BASE}")
            need(
                memory[0x100] != 5,
                f"{name} begins at the end of the one that was saved: copy the memory",
            )
            _expect(lab, memory, 4, (7, 57), name)
        step(f"{name} went on")


def _run(lab: Lab, times: int, name: str) -> None:
    for _ in range(times):
        reason = lab.run()
        what = EXIT_NAMES.get(reason, reason)
        need(reason == EXIT_HLT, f"{name} stopped by {what}, must halt: are its registers right?")


def _expect(lab: Lab, memory: mmap.mmap, times: int, wanted: tuple[int, int], name: str) -> None:
    _run(lab, times, name)
    found = (memory[0x100], lab.registers()["rcx"] & 0xFF)
    text = "memory {}, CL {}"
    need(found == wanted, f"{name} has {text.format(*found)}, must be {text.format(*wanted)}")
