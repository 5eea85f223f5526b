"""The default guest's first process: a program built with the package or here, else a script."""

from __future__ import annotations

from pathlib import Path

from vmm.image.kernel import recipe_folder
from vmm.image.program import compiled_freestanding


def default_init() -> Path:
    """Return the file that becomes ``/init``: the program, or the script where none can be built.

    Both do the same; with the program an emulated host boots some seconds sooner. Raises
    ``ConfigurationError`` when the compiler is there and fails.
    """
    folder = recipe_folder()
    return compiled_freestanding(folder / "init.c") or folder / "init"
