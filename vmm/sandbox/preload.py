"""Imports, before the files are out of reach, what a machine imports late.

Failures need the most: an exception wants its traceback, a guest that broke down its instruction.
"""

import time
from importlib import import_module
from typing import Final

from virtio.engine import data_paths

_FAILURES: Final = ("vmm.x86.emulation.failure", "traceback", "vmm.cli.report")


def preload(*modules: str) -> None:
    """Import these modules and those that tell of failures."""
    for name in (*_FAILURES, *modules):
        import_module(name)
    data_paths()  # which imports what serves the rings in C
    time.tzset()  # which reads the file of the time zone
