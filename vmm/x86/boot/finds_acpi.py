"""Whether a loaded Linux finds its devices by ACPI, or has to be told on the command line.

A device that is announced in both ways is claimed twice, and the kernel complains. A kernel
without CONFIG_ACPI reads no tables, and one with it takes the number on the command line for one of
its own numbers of interrupts, which are none of the IOAPIC.
"""

import re
from typing import Final

from vmm.x86.boot.image_file import BootMemory
from vmm.x86.boot.kernel import LoadedKernel

# The name of a parameter that drivers/acpi/osl.c has, which is in no kernel without it.
_MARK: Final = re.compile(b"acpi_no_auto_serialize")
_OFF: Final = re.compile(r'(?:^|\s)"?acpi=off"?(?:\s|$)')


def finds_acpi(memory: BootMemory, kernel: LoadedKernel, cmdline: str) -> bool:
    """Whether the kernel in ``memory``, started with this command line, reads ACPI tables."""
    if _OFF.search(cmdline):
        return False
    view = memory.view(kernel.start, kernel.end - kernel.start)
    try:
        return _MARK.search(view) is not None
    finally:
        view.release()
