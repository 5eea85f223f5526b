"""What every contender is given: the program that is its kernel, and a disk of known content."""

from __future__ import annotations

from array import array
from pathlib import Path

from virtio.errors import ConfigurationError
from vmm.image import Progress
from vmm.image.debian import ensure, find_tool
from vmm.image.kernel import recipe_folder
from vmm.image.program import compiled, is_compiled

_FLAGS = (
    *("-O2", "-std=gnu11", "-ffreestanding", "-fno-builtin", "-fno-stack-protector"),
    *("-fno-asynchronous-unwind-tables", "-fno-pie", "-fcf-protection=none"),
    *("-mgeneral-regs-only", "-mno-red-zone", "-static", "-no-pie", "-nostdlib"),
    "-Wl,--build-id=none,-z,norelro,-z,noseparate-code",
    "-Wl,-Ttext-segment=0x1000000,-e,start",
)
_SOURCE = recipe_folder() / "bench" / "bench.c"
_WORD_BYTES = 8
_CHUNK_WORDS = 1 << 17


def has_bench_kernel() -> bool:
    """Whether the guest is compiled already, or there is the compiler for it."""
    return is_compiled(_SOURCE, _FLAGS) or find_tool("gcc") is not None


def bench_kernel(progress: Progress) -> Path:
    """Return the guest's ELF file, compiled at first use.

    Raises :class:`ConfigurationError` when there is no C compiler and none can be installed.
    """
    if not has_bench_kernel():
        ensure({"gcc": "gcc"}, "the benchmark's guest", progress)
    kernel = compiled(_SOURCE, _FLAGS)
    if kernel is None:
        raise ConfigurationError("the benchmark's guest: gcc went away")
    return kernel


def write_image(path: Path, size_bytes: int) -> None:
    """Write a disk image whose 8-byte words are numbered from 0, as the guest expects it."""
    words = size_bytes // _WORD_BYTES
    with path.open("wb") as image:
        for first in range(0, words, _CHUNK_WORDS):
            array("Q", range(first, min(first + _CHUNK_WORDS, words))).tofile(image)
