"""The default guest's first process: compiled from C where there is a compiler, else a script."""

from __future__ import annotations

from pathlib import Path

from vmm.image.kernel import recipe_folder
from vmm.image.program import compiled

_FLAGS = (
    *("-Os", "-std=gnu11", "-ffreestanding", "-fno-builtin", "-fno-stack-protector"),
    *("-fno-asynchronous-unwind-tables", "-fno-pie", "-fcf-protection=none"),
    *("-static", "-no-pie", "-nostdlib"),
    "-Wl,--build-id=none,-z,norelro,-z,noseparate-code,-s",
)


def default_init() -> Path:
    """Return the file that becomes ``/init``: the cached program, or the script without a compiler.

    Both do the same; the program spares an emulated host some seconds. Raises
    ``ConfigurationError`` when the compiler is there and fails.
    """
    folder = recipe_folder()
    return compiled(folder / "init.c", _FLAGS) or folder / "init"
