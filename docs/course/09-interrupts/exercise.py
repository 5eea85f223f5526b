"""When to interrupt.

The device has just moved the used index from ``old`` to ``new``, by up to 32768 chains. The driver
wrote ``used_event``: "interrupt me when you have used the chain with this index". Was it among the
chains of this move? The first one of the move has the index ``old``, the last one ``new - 1``. All
three are numbers of 16 bits: behind 65535 comes 0.
"""


def should_interrupt(old, new, used_event):
    return True
