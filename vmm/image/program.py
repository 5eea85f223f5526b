"""Programs for the guest, static and in C: built with the package, or once on this host.

Those of :data:`PACKAGED` are compiled when the package is built and travel in it, so that a host
needs no C compiler for them. A program's file is named after a digest of all that went into it, so
that no old program serves a source that was changed in a checkout: that one is compiled anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError
from vmm.image import cache

PACKAGED: Final = ("agent", "init")
"""The programs that travel in the package, each of one freestanding C file."""

BUILT: Final = Path(__file__).with_name("programs")
"""The folder of the programs that were built with the package."""

_COMPILERS: Final = ("gcc", "cc", "clang")
_FREESTANDING: Final = (
    *("-Os", "-std=gnu11", "-ffreestanding", "-fno-builtin", "-fno-stack-protector"),
    *("-fno-asynchronous-unwind-tables", "-fno-pie", "-fcf-protection=none"),
    *("-static", "-no-pie", "-nostdlib"),
    "-Wl,--build-id=none,-z,norelro,-z,noseparate-code,-s",
)


def compiled_freestanding(source: Path) -> Path | None:
    """Return the program of some kilobytes that a C file without libc makes; as ``compiled``."""
    return compiled(source, _FREESTANDING)


def compiled(source: Path, flags: Sequence[str] = ("-Os", "-static", "-s")) -> Path | None:
    """Return the program that the C file ``source`` makes, built with the package or cached.

    The file may include the headers beside it. A guest has no shared libraries, so ``flags`` must
    make a static program. Returns None where the program was not built yet and no compiler is
    found; raises ``ConfigurationError`` when the compiler is there and fails.
    """
    name = _name(source, flags)
    built = BUILT / name
    if built.exists():
        return built
    if found := cache.lookup(name):
        return found / source.stem
    compiler = find_compiler()
    if compiler is None:
        return None

    def make(entry: Path) -> None:
        _compile(compiler, source, flags, entry / source.stem)

    return cache.obtain(name, make) / source.stem


def is_compiled(source: Path, flags: Sequence[str]) -> bool:
    """Say whether ``compiled`` would return a program that is there already."""
    name = _name(source, flags)
    return (BUILT / name).exists() or cache.lookup(name) is not None


def is_packaged(source: Path) -> bool:
    """Say whether the program of a freestanding C file was built with the package."""
    return (BUILT / _name(source, _FREESTANDING)).exists()


def build_packaged(sources: Path, folder: Path) -> list[Path]:
    """Compile :data:`PACKAGED` from C in ``sources`` into ``folder``; those of before are removed.

    For the build of the package. Raises ``ConfigurationError`` without a compiler, or when it
    fails.
    """
    compiler = find_compiler()
    if compiler is None:
        raise ConfigurationError(f"no C compiler: none of {', '.join(_COMPILERS)} is installed")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    made = []
    for stem in PACKAGED:
        source = sources / f"{stem}.c"
        made.append(folder / _name(source, _FREESTANDING))
        _compile(compiler, source, _FREESTANDING, made[-1])
    return made


def find_compiler() -> str | None:
    """Return the path of this host's C compiler, None without one."""
    from vmm.image.debian import find_tool

    return next(filter(None, map(find_tool, _COMPILERS)), None)


def _name(source: Path, flags: Sequence[str]) -> str:
    headers = sorted(source.parent.glob("*.h"))
    content = [path.read_bytes() for path in (source, *headers)]
    return f"{source.stem}-{cache.digest(*content, *flags)}"


def _compile(compiler: str, source: Path, flags: Sequence[str], program: Path) -> None:
    import subprocess

    command = [compiler, *flags, "-o", str(program), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        name = Path(compiler).name
        lines = [line for line in done.stderr.splitlines() if "error" in line]
        raise ConfigurationError(f"{name} failed for {source}: {(lines or ['no message'])[-1]}")
