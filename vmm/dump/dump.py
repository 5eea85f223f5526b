"""Dumps a machine, one that runs or one that was saved, to a core file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vmm.dump.core_file import Note, Segment, new_core, write_core
from vmm.dump.vmcoreinfo import find_vmcoreinfo
from vmm.x86 import ELF_MACHINE, kernel_segments, saved_core_status

_VMCOREINFO = b"VMCOREINFO"


def dump_memory(
    target: int,
    memory: int,
    regions: Sequence[tuple[int, int]],
    statuses: Sequence[bytes],
) -> None:
    """Write a core file to ``target`` of RAM with these ``regions``, one after another in a file.

    ``statuses`` are the NT_PRSTATUS of the vCPUs. Raises ``ConfigurationError`` when it cannot be
    written.
    """
    info = find_vmcoreinfo(memory)
    notes = [Note(b"CORE", 1, one) for one in statuses]
    if info:
        notes.append(Note(_VMCOREINFO, 0, info))
    segments, offset = [], 0
    for start, length in regions:
        segments += [
            Segment(virtual, physical, size, offset + physical - start)
            for virtual, physical, size in kernel_segments(memory, info, start, length)
        ]
        offset += length
    write_core(target, memory, ELF_MACHINE, notes, segments)


def dump_snapshot(folder: Path, path: Path) -> None:
    """Write a core file at ``path`` of a saved machine; its disks and shares are not looked at.

    Raises ``ConfigurationError`` for a damaged snapshot, and when there is a file already.
    """
    from vmm.snapshot.snapshot import saved_machine
    from vmm.x86 import ram_regions

    with saved_machine(folder) as (config, state, memory), new_core(path) as target:
        vcpus = [saved_core_status(index, one) for index, one in enumerate(state.vcpus)]
        dump_memory(target, memory, ram_regions(config.memory_bytes), vcpus)


def size_of(path: Path) -> str:
    """Return what a file takes on its disk, in words."""
    return f"{os.stat(path).st_blocks * 512 / (1 << 20):.1f} MiB"
