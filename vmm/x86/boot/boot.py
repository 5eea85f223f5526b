"""Writes everything that Linux needs at its start into guest memory, in place of a firmware.

Addresses are those of :mod:`vmm.x86.layout`.
"""

import os
from collections.abc import Sequence

from virtio.named_tuple import NamedTuple
from vmm.x86 import layout
from vmm.x86.boot.cmdline import build_cmdline, write_cmdline
from vmm.x86.boot.e820 import memory_map
from vmm.x86.boot.entry import EntryPoint, write_tables
from vmm.x86.boot.image_file import BootMemory
from vmm.x86.boot.initrd import Initrd, LoadedInitrd, load_initrd
from vmm.x86.boot.kernel import LoadedKernel, load_kernel
from vmm.x86.boot.mptable import write_mp_table
from vmm.x86.boot.pvh import write_start_info
from vmm.x86.boot.zero_page import write_zero_page
from vmm.x86.layout import VirtioMmioWindow
from vmm.x86.limits import BootProtocol


class BootSource(NamedTuple):
    """A guest to boot: kernel file, initrd (a file, or its bytes), command line, entry protocol.

    ``acpi`` says whether it is told of its machine by ACPI, too.
    """

    kernel: str | os.PathLike[str]
    initrd: Initrd | None = None
    cmdline: str = ""
    protocol: BootProtocol = "auto"
    acpi: bool = False


def write_boot(
    memory: BootMemory,
    source: BootSource,
    *,
    apic_ids: Sequence[int],
    windows: Sequence[VirtioMmioWindow] = (),
    pci_slots: Sequence[int] = (),
) -> EntryPoint:
    """Load the guest and write all tables, for the processors with these IDs and the ``windows``.

    ``pci_slots`` are the slots of a PCI bus; there is such a bus if there are any.

    A kernel that reads ACPI tables finds the windows there; any other one is told of them on the
    command line. Raises :class:`ConfigurationError` when the source cannot be booted in this
    memory.
    """
    write_mp_table(memory, apic_ids, pci_slots)
    kernel = load_kernel(source.kernel, memory, protocol=source.protocol)
    announced = windows
    if source.acpi:
        from vmm.x86.acpi.tables import Described, write_acpi_tables
        from vmm.x86.boot.finds_acpi import finds_acpi

        pci_windows = layout.PCI_WINDOWS if pci_slots else ()
        write_acpi_tables(memory, Described(apic_ids, windows, pci_windows))
        if finds_acpi(memory, kernel, source.cmdline):
            announced = ()
    write_cmdline(memory, build_cmdline(source.cmdline, announced, kernel.cmdline_max))
    initrd = load_initrd(source.initrd, memory, kernel) if source.initrd is not None else None
    write_tables(memory, kernel.protocol)
    return _write_start(memory, kernel, initrd, layout.ACPI_RSDP if source.acpi else 0)


def _write_start(
    memory: BootMemory, kernel: LoadedKernel, initrd: LoadedInitrd | None, rsdp: int
) -> EntryPoint:
    ranges = memory_map(memory.regions)
    if kernel.protocol == "pvh":
        write_start_info(memory, initrd, ranges, rsdp)
        return EntryPoint("pvh", kernel.entry, rbx=layout.PVH_START_INFO)
    write_zero_page(memory, kernel, initrd, ranges, rsdp)
    return EntryPoint("linux64", kernel.entry, rsi=layout.ZERO_PAGE, rsp=layout.BOOT_STACK)
