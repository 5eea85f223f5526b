"""Writes everything that Linux needs at its start into guest memory, in place of a firmware.

Addresses are those of :mod:`vmm.x86.layout`.
"""

import os
from collections.abc import Callable, Sequence
from typing import Final

from virtio.log import Logger
from virtio.named_tuple import NamedTuple
from vmm.x86 import layout
from vmm.x86.boot.cmdline import build_cmdline, write_cmdline
from vmm.x86.boot.e820 import memory_map
from vmm.x86.boot.entry import EntryPoint, write_tables
from vmm.x86.boot.image_file import BootMemory
from vmm.x86.boot.initrd import Initrd, LoadedInitrd, load_initrd
from vmm.x86.boot.kernel import OWN_PROTOCOLS, LoadedKernel, load_kernel
from vmm.x86.boot.mptable import write_mp_table
from vmm.x86.boot.pvh import write_start_info
from vmm.x86.boot.zero_page import write_zero_page
from vmm.x86.layout import VirtioMmioWindow
from vmm.x86.limits import BootProtocol

logger = Logger(__name__)

_MULTIBOOT_MAGIC: Final = {"multiboot": 0x2BADB002, "multiboot2": 0x36D76289}


class BootSource(NamedTuple):
    """A guest to boot: kernel file, initrd (a file, or its bytes), command line, entry protocol.

    ``acpi`` says whether it is told of its machine by ACPI, too. ``own_cmdline`` is for a kernel
    other than Linux, for which the parameters of that in ``cmdline`` mean nothing.
    ``check_config`` is called with the configuration that the kernel holds in itself, if it does.
    """

    kernel: str | os.PathLike[str]
    initrd: Initrd | None = None
    cmdline: str = ""
    protocol: BootProtocol = "auto"
    acpi: bool = False
    own_cmdline: str = ""
    check_config: Callable[[str], None] | None = None


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
    logger.info("the kernel is entered at %#x by %s", kernel.entry, kernel.protocol)
    if source.check_config is not None:
        from vmm.x86.boot.embedded_config import embedded_config

        if text := embedded_config(memory, kernel):
            source.check_config(text)
    is_own = kernel.protocol in OWN_PROTOCOLS
    text, announced = (source.own_cmdline, ()) if is_own else (source.cmdline, windows)
    if source.acpi:
        from vmm.x86.acpi.tables import Described, write_acpi_tables
        from vmm.x86.boot.finds_acpi import finds_acpi

        pci_windows = layout.PCI_WINDOWS if pci_slots else ()
        write_acpi_tables(memory, Described(apic_ids, windows, pci_windows))
        if announced and finds_acpi(memory, kernel, source.cmdline):
            announced = ()
    cmdline = build_cmdline(text, announced, kernel.cmdline_max)
    write_cmdline(memory, cmdline)
    initrd = load_initrd(source.initrd, memory, kernel) if source.initrd is not None else None
    write_tables(memory, kernel.protocol)
    rsdp = layout.ACPI_RSDP if source.acpi else 0
    if kernel.protocol in ("multiboot", "multiboot2"):
        return _write_multiboot_start(memory, kernel, initrd, rsdp, cmdline)
    return _write_start(memory, kernel, initrd, rsdp)


def _write_start(
    memory: BootMemory, kernel: LoadedKernel, initrd: LoadedInitrd | None, rsdp: int
) -> EntryPoint:
    ranges = memory_map(memory.regions)
    if kernel.protocol in ("pvh", "elf64"):
        write_start_info(memory, initrd, ranges, rsdp)
        if kernel.protocol == "pvh":
            return EntryPoint("pvh", kernel.entry, rbx=layout.PVH_START_INFO)
        # As behind a call: the return address is 0, and the stack is aligned below it.
        stack = layout.BOOT_STACK - 8
        return EntryPoint("elf64", kernel.entry, rdi=layout.PVH_START_INFO, rsp=stack)
    write_zero_page(memory, kernel, initrd, ranges, rsdp)
    return EntryPoint("linux64", kernel.entry, rsi=layout.ZERO_PAGE, rsp=layout.BOOT_STACK)


def _write_multiboot_start(
    memory: BootMemory,
    kernel: LoadedKernel,
    initrd: LoadedInitrd | None,
    rsdp: int,
    cmdline: bytes,
) -> EntryPoint:
    from vmm.x86.boot.multiboot_info import write_multiboot2_info, write_multiboot_info

    ranges = memory_map(memory.regions)
    magic = _MULTIBOOT_MAGIC[kernel.protocol]
    if kernel.protocol == "multiboot":
        write_multiboot_info(memory, initrd, ranges)
    else:
        write_multiboot2_info(memory, initrd, ranges, cmdline, rsdp)
    return EntryPoint(kernel.protocol, kernel.entry, rax=magic, rbx=layout.MULTIBOOT_INFO)
