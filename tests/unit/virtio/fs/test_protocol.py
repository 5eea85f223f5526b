"""The numbers and layouts of FUSE, against the header that Linux' driver is built from."""

import shutil
import subprocess
from pathlib import Path
from struct import Struct

import pytest

from virtio.fs import protocol
from virtio.fs.protocol import LITTLE

HEADER = Path("/usr/include/linux/fuse.h")
PREFIXES = ("FUSE_", "FATTR_", "FOPEN_")
OURS = {
    "FUSE_KERNEL_MINOR_VERSION",  # the header may be newer
}
# Structures whose end a driver may leave out, or that stand together.
SHORTER = {"init_in": 16, "setxattr_in": 8}
COMBINED = {
    "create_out": "sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out)",
    "direntplus": "sizeof(struct fuse_direntplus)",
    "dirent": "__builtin_offsetof(struct fuse_dirent, name)",
}


def expected() -> dict[str, int]:
    """Return the value of each C expression, as we have it."""
    found = {
        name: value
        for name, value in vars(protocol).items()
        if name.startswith(PREFIXES) and isinstance(value, int) and name not in OURS
    }
    for name, layout in vars(LITTLE).items():
        if isinstance(layout, Struct) and name not in SHORTER:
            found[COMBINED.get(name, f"sizeof(struct fuse_{name})")] = layout.size
    found["sizeof(struct fuse_in_header)"] = protocol.IN_HEADER_BYTES
    found["sizeof(struct fuse_out_header)"] = protocol.OUT_HEADER_BYTES
    found["__builtin_offsetof(struct fuse_init_in, flags2)"] = LITTLE.init_in.size
    found["FUSE_COMPAT_SETXATTR_IN_SIZE"] = LITTLE.setxattr_in.size
    found["__builtin_offsetof(struct fuse_init_out, flags2)"] = LITTLE.init_out.size - 32
    found["__builtin_offsetof(struct fuse_setattr_in, mode)"] = Struct("<IIQQQQQQIII").size
    found["__builtin_offsetof(struct fuse_attr, mode)"] = Struct("<QQQQQQIII").size
    return found


def test_numbers_and_layouts_are_those_of_the_kernels_header(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None or not HEADER.exists():
        pytest.skip("needs a C compiler and linux-libc-dev")
    ours = expected()
    lines = [f'printf("{one}=%lu\\n", (unsigned long)({one}));\n' for one in ours]
    source = tmp_path / "probe.c"
    source.write_text(
        "#include <stdio.h>\n#include <stdint.h>\n#include <linux/fuse.h>\n"
        f"int main(void) {{\n{''.join(lines)}}}\n"
    )
    subprocess.run([compiler, "-o", tmp_path / "probe", source], check=True)
    output = subprocess.run([tmp_path / "probe"], check=True, capture_output=True, text=True)
    pairs = (line.rsplit("=", 1) for line in output.stdout.splitlines())

    assert {name: int(value) for name, value in pairs} == ours
    assert len(ours) > 110


def test_layouts_of_both_byte_orders_are_equally_long() -> None:
    little = {name: one.size for name, one in vars(LITTLE).items() if isinstance(one, Struct)}
    big = {name: one.size for name, one in vars(protocol.BIG).items() if isinstance(one, Struct)}

    assert little == big
