"""A drgn program on the memory of a guest: its kernel's objects from Python, with nothing in it.

drgn "Program.set_linux_kernel_custom" (since 0.1), which walks the guest's page tables by what
VMCOREINFO says. Each read looks at the memory of this moment: pause the machine for several that
must fit together.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from virtio.errors import ConfigurationError
from virtio.memory import MemoryAccessError
from vmm.dump.vmcoreinfo import find_vmcoreinfo

if TYPE_CHECKING:
    from drgn import Program

    from vmm.machine import Machine

_NO_DRGN = "drgn is not installed: pip install 'pyvmm[drgn]'"
_NO_NOTE = (
    "the guest's kernel has left no VMCOREINFO in memory (yet): it needs CONFIG_PROC_KCORE or"
    " CONFIG_CRASH_DUMP, as MachineConfig(debug_kernel=True) has"
)
_NO_SYMBOLS = (
    "no symbols of the guest's kernel: name the vmlinux that has them, or take"
    " MachineConfig(debug_kernel=True), which vmm image build --debug builds"
)


def drgn_program(machine: Machine, symbols: Path | str | None = None) -> Program:
    """Return a ``drgn.Program`` on the memory of ``machine``, with the kernel's ``symbols``.

    Those of the kernel for debuggers are found. Raises ``ConfigurationError`` without drgn, without
    symbols that fit, and for a kernel that has left no VMCOREINFO.
    """
    try:
        import drgn
    except ImportError:
        raise ConfigurationError(_NO_DRGN) from None
    symbols = symbols or _own_symbols(machine)
    if symbols is None or not os.path.exists(symbols):
        missing = "" if symbols is None else f"{symbols}: no such file: "
        raise ConfigurationError(f"{missing}{_NO_SYMBOLS}")
    note = _note_of(machine)
    if not note:
        raise ConfigurationError(_NO_NOTE)
    ram = machine.hardware.ram

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        try:
            with ram.view(address, count) as view:
                return bytes(view)
        except (MemoryAccessError, IndexError):
            raise drgn.FaultError("not in guest RAM", address) from None

    program = drgn.Program(drgn.host_platform)
    for start, length in ram.regions:
        program.add_memory_segment(start, length, read, physical=True)
    program.set_linux_kernel_custom(note, is_live=True)
    try:
        program.load_debug_info([str(symbols)])
        program["init_task"]  # a file of another kernel is passed over
    except (drgn.MissingDebugInfoError, LookupError):
        raise ConfigurationError(f"{symbols}: has no symbols of this guest's kernel") from None
    return program


def _own_symbols(machine: Machine) -> Path | None:
    from vmm.image.kernel import cached_kernel

    config = machine.config
    if not config.debug_kernel:
        return None
    found = cached_kernel(cpus=config.cpus, pci=config.uses_pci, debug=True)
    return found.symbols if found is not None else None


def _note_of(machine: Machine) -> bytes:
    """Return the note, with all vCPUs held, as the file of a copy has to be made for the look."""
    with machine.held(), machine.hardware.ram.file() as memory:
        return find_vmcoreinfo(memory)
