"""Chapter 11: save a machine, and let two others go on from there."""

import mmap

from vmm.course.lab import EXIT_HLT, Lab

CODE = bytes.fromhex(
    # again:
    "fe 06 00 11"  # inc byte [0x1100]
    "fe c1"  #       inc cl
    "f4"  #          hlt
    "eb f7"  #       jmp again
)


def new_memory():
    return mmap.mmap(-1, 4096)


def step(lab, times):
    for _ in range(times):
        assert lab.run() == EXIT_HLT


def show(name, lab, memory):
    print(f"{name}: memory {memory[0x100]}, CL {lab.registers()['rcx'] & 0xFF}")


def save(lab, memory):
    """Return all that the machine is, as a value."""
    return bytes(memory), lab.special_registers(), lab.registers()


def restore(lab, memory, state):
    """Make a fresh machine that one."""
    memory[:], special, registers = state
    lab.set_special_registers(special)
    lab.set_registers(**registers)


memory = new_memory()
memory[: len(CODE)] = CODE
with Lab() as lab:
    lab.add_slot(0x1000, memory)
    lab.start_at(0x1000, rcx=100)
    step(lab, 3)
    state = save(lab, memory)
    step(lab, 4)
    show("the original", lab, memory)

for name, times in (("one clone", 1), ("another", 10)):
    memory = new_memory()
    with Lab() as lab:
        lab.add_slot(0x1000, memory)
        restore(lab, memory, state)
        step(lab, times)
        show(name, lab, memory)
