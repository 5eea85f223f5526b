"""Programs for the guest: compiled once by the host's C compiler, then cached."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from virtio.errors import ConfigurationError
from vmm.image import cache

_FREESTANDING = (
    *("-Os", "-std=gnu11", "-ffreestanding", "-fno-builtin", "-fno-stack-protector"),
    *("-fno-asynchronous-unwind-tables", "-fno-pie", "-fcf-protection=none"),
    *("-static", "-no-pie", "-nostdlib"),
    "-Wl,--build-id=none,-z,norelro,-z,noseparate-code,-s",
)


def compiled_freestanding(source: Path) -> Path | None:
    """Return the program of some kilobytes that a C file without libc makes; as ``compiled``."""
    return compiled(source, _FREESTANDING)


def compiled(source: Path, flags: Sequence[str] = ("-Os", "-static", "-s")) -> Path | None:
    """Return the cached program that the C file ``source`` makes; None without a compiler.

    The file may include the headers beside it. A guest has no shared libraries, so ``flags`` must
    make a static program. Raises ``ConfigurationError`` when the compiler is there and fails.
    """
    headers = sorted(source.parent.glob("*.h"))
    content = [path.read_bytes() for path in (source, *headers)]
    name = f"{source.stem}-{cache.digest(*content, *flags)}"
    if found := cache.lookup(name):
        return found / source.stem
    from vmm.image.debian import find_tool

    compiler = find_tool("gcc")
    if compiler is None:
        return None
    return cache.obtain(name, lambda entry: _compile(compiler, source, flags, entry)) / source.stem


def _compile(compiler: str, source: Path, flags: Sequence[str], entry: Path) -> None:
    import subprocess

    command = [compiler, *flags, "-o", str(entry / source.stem), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line]
        raise ConfigurationError(f"gcc failed for {source}: {(lines or ['no message'])[-1]}")
