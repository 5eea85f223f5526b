"""The configuration that a kernel holds in itself.

Linux kernel/configs.c: gzip data between two marks, for CONFIG_IKCONFIG.
"""

from __future__ import annotations

import re
from typing import Final

from vmm.x86.boot.image_file import BootMemory
from vmm.x86.boot.kernel import LoadedKernel

_START: Final = re.compile(rb"IKCFG_ST(?=\x1f\x8b\x08)")
_PACKED_MAX: Final = 1 << 20
_TEXT_MAX: Final = 4 << 20


def embedded_config(memory: BootMemory, kernel: LoadedKernel) -> str | None:
    """Return the configuration in the loaded kernel; None when there is none, or a damaged one."""
    with memory.view(kernel.start, kernel.end - kernel.start) as view:
        found = _START.search(view)
        packed = b"" if found is None else bytes(view[found.end() : found.end() + _PACKED_MAX])
        del found
    if not packed:
        return None
    import zlib

    try:
        return zlib.decompressobj(wbits=31).decompress(packed, _TEXT_MAX).decode(errors="replace")
    except zlib.error:
        return None
