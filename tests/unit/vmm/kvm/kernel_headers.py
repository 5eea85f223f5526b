"""Asks a C compiler what the kernel's headers say."""

import ctypes
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vmm.kvm.ioctl import Request


def requests_of(*modules: ModuleType) -> dict[str, int]:
    """Return the numbers of the requests that the modules define, by name."""
    return {
        item.name: item.number
        for module in modules
        for name, item in vars(module).items()
        if isinstance(item, Request)
    }


def layout_expressions(
    layouts: Iterable[tuple[str, type[Any]]], left_out: Iterable[str] = ()
) -> dict[str, int]:
    """Return C expressions for size and offsets of each structure, and our own values of them."""
    expected = {}
    for name, structure in layouts:
        expected[f"sizeof(struct {name})"] = ctypes.sizeof(structure)
        for field, *_ in structure._fields_:
            if field not in left_out:
                offset = getattr(structure, field).offset
                expected[f"__builtin_offsetof(struct {name}, {field})"] = offset
    return expected


def values_in_kernel_headers(expressions: Iterable[str], folder: Path) -> dict[str, int]:
    """Return the values of C expressions over ``linux/kvm.h``; skip without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None or not Path("/usr/include/linux/kvm.h").exists():
        pytest.skip("needs a C compiler and linux-libc-dev")
    expressions = list(expressions)
    source = folder / "probe.c"
    lines = "".join(f'printf("%lu\\n", (unsigned long)({item}));\n' for item in expressions)
    source.write_text(f"#include <linux/kvm.h>\n#include <stdio.h>\nint main(void) {{\n{lines}}}\n")
    subprocess.run([compiler, "-o", folder / "probe", source], check=True)
    output = subprocess.run([folder / "probe"], check=True, capture_output=True, text=True).stdout
    return dict(zip(expressions, map(int, output.split()), strict=True))
