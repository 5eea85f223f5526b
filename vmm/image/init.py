"""The default guest's first process: compiled from C where there is a compiler, else a script."""

from __future__ import annotations

from pathlib import Path

from virtio.errors import ConfigurationError
from vmm.image import cache
from vmm.image.kernel import recipe_folder

_FLAGS = (
    *("-Os", "-std=gnu11", "-ffreestanding", "-fno-builtin", "-fno-stack-protector"),
    *("-fno-asynchronous-unwind-tables", "-fno-pie", "-fcf-protection=none"),
    *("-static", "-no-pie", "-nostdlib"),
    "-Wl,--build-id=none,-z,norelro,-z,noseparate-code,-s",
)
_FILE_NAME = "init"


def default_init() -> Path:
    """Return the file that becomes ``/init``: the cached program, or the script without a compiler.

    Both do the same; the program spares an emulated host some seconds. Raises
    ``ConfigurationError`` when the compiler is there and fails.
    """
    folder = recipe_folder()
    source = folder / "init.c"
    name = f"init-{cache.digest(source.read_bytes(), *_FLAGS)}"
    if found := cache.lookup(name):
        return found / _FILE_NAME
    from vmm.image.debian import find_tool

    compiler = find_tool("gcc")
    if compiler is None:
        return folder / "init"
    return cache.obtain(name, lambda entry: _compile(compiler, source, entry)) / _FILE_NAME


def _compile(compiler: str, source: Path, entry: Path) -> None:
    import subprocess

    command = [compiler, *_FLAGS, "-o", str(entry / _FILE_NAME), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line]
        raise ConfigurationError(f"gcc failed for {source}: {(lines or ['no message'])[-1]}")
