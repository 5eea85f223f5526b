"""VMCOREINFO: the note that a Linux guest keeps in its memory for who looks at a copy of it.

Lines such as ``OSRELEASE=6.1.0`` and ``SYMBOL(_stext)=ffffffff81000000``. The kernel writes them at
boot to a page of their own (Linux kernel/crash_core.c, kernel/vmcore_info.c), whose address it
tells nobody but the firmware of a machine that has one for it. So its page is searched for: by what
it begins with, and by the entries that every kernel writes. Linux
admin-guide/kdump/vmcoreinfo.rst.
"""

from __future__ import annotations

import mmap
import os
import re
from typing import Final

_PAGE_BYTES: Final = 4096
_BEGIN: Final = b"OSRELEASE="
_ALWAYS: Final = (b"\nPAGESIZE=", b"\nSYMBOL(init_uts_ns)=", b"\nSYMBOL(_stext)=")
_HEX_ENTRY: Final = r"^SYMBOL\({}\)=([0-9a-f]{{1,16}})$"
_NUMBER_ENTRY: Final = r"^NUMBER\({}\)=(-?[0-9]{{1,20}})$"


def find_vmcoreinfo(memory: int) -> bytes:
    """Return the note in guest memory, an open file; empty when there is none.

    The guest does not run meanwhile, or may be told from what it wrote half.
    """
    size = os.fstat(memory).st_size
    with mmap.mmap(memory, size, mmap.MAP_PRIVATE, mmap.PROT_READ) as data:
        at = data.find(_BEGIN)
        while at >= 0:
            if at % _PAGE_BYTES == 0:
                note = data[at : at + _PAGE_BYTES].partition(b"\0")[0]
                if all(one in note for one in _ALWAYS):
                    return note
            # Only the beginning of a page can be it.
            at = data.find(_BEGIN, at + 1)
    return b""


def symbol(note: bytes, name: str) -> int | None:
    """Return the address of a symbol that the note tells.

    >>> hex(symbol(b"SYMBOL(_stext)=ffffffff81000000\\n", "_stext"))
    '0xffffffff81000000'
    """
    found = re.search(_HEX_ENTRY.format(name).encode(), note, re.MULTILINE)
    return int(found[1], 16) if found else None


def number(note: bytes, name: str) -> int | None:
    """Return a number that the note tells.

    >>> number(b"NUMBER(phys_base)=-4096\\n", "phys_base")
    -4096
    """
    found = re.search(_NUMBER_ENTRY.format(name).encode(), note, re.MULTILINE)
    return int(found[1]) if found else None
