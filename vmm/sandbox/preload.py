"""Imports, before the files are out of reach, what a machine imports late.

Failures need the most: a guest that broke down wants its instruction shown.
"""

import gc
import time
from importlib import import_module
from typing import Final

from virtio.engine import data_paths

_FAILURES: Final = (
    *("vmm.ending.oops", "vmm.ending.untouched"),
    *("vmm.x86.emulation.failure", "virtio.frames"),
)


def preload(*modules: str) -> None:
    """Import these modules and those that tell of failures."""
    collects = gc.isenabled()
    gc.disable()  # for imports make many objects and no garbage: this halves their time
    for name in (*_FAILURES, *modules):
        import_module(name)
    data_paths()  # which imports what serves the rings in C
    if collects:
        gc.enable()
    time.tzset()  # which reads the file of the time zone
