"""Save and restore.

``save(lab, memory)`` returns the state of a machine, whose only memory is ``memory``; the machine
goes on. ``restore(lab, memory, state)`` brings a fresh machine, with memory of its own, to that
state. A state may be restored any number of times.
"""


def save(lab, memory):
    return lab.registers()


def restore(lab, memory, state):
    lab.set_registers(**state)
