"""When to interrupt: a solution."""


def should_interrupt(old, new, used_event):
    return (used_event - old) % 65536 < (new - old) % 65536
