"""Kernels of a page or two, compiled by the host: as 64-bit ELF, or 32-bit with Multiboot."""

from pathlib import Path
from typing import Final

import pytest

from vmm.image.program import compiled

_FOLDER: Final = Path(__file__).parent
_FLAGS: Final = (
    *("-O1", "-std=gnu11", "-ffreestanding", "-fno-builtin", "-fno-stack-protector", "-Wall"),
    *("-fno-asynchronous-unwind-tables", "-fno-pie", "-fcf-protection=none", "-Wextra", "-Werror"),
    *("-mgeneral-regs-only", "-static", "-no-pie", "-nostdlib"),
    "-Wl,--build-id=none,-z,norelro,-z,noseparate-code,-Ttext-segment=0x200000,-e,start",
)


def own_kernel(name: str, *, bits: int) -> Path:
    """Return the kernel of ``name.c``; the test is skipped without a compiler."""
    extra = ("-mno-red-zone",) if bits == 64 else ()
    found = compiled(_FOLDER / f"{name}.c", (f"-m{bits}", *extra, *_FLAGS))
    if found is None:
        pytest.skip("no C compiler, and the kernel was not compiled before")
    return found
