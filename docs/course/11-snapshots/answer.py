"""Save and restore: a solution."""


def save(lab, memory):
    return bytes(memory), bytes(lab.special_registers()), lab.registers()


def restore(lab, memory, state):
    memory[:], special, registers = state
    lab.set_special_registers(special)
    lab.set_registers(**registers)
