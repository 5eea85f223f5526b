"""Small kernel modules and trees of them, made by hand for the tests of what reads them."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

RELEASE = "6.1.0-9-test"


def module_file(
    name: str = "",
    depends: str = "",
    *,
    release: str = RELEASE,
    softdep: str = "",
    machine: int = 62,
) -> bytes:
    """Return an ELF file of two sections: ``.modinfo``, and the names of both."""
    texts = [f"name={name}", f"depends={depends}", f"vermagic={release} SMP preempt mod_unload "]
    texts += [f"softdep={softdep}"] if softdep else []
    content = b"".join(text.encode() + b"\0" for text in texts)
    names = b"\0.modinfo\0.shstrtab\0"
    sections = 64 + len(content) + len(names)
    header = struct.pack(
        "<4sBBB9xHHIQQQIHHHHHH",
        *(b"\x7fELF", 2, 1, 1, 1, machine, 1, 0, 0, sections, 0, 64, 0, 0, 64, 3, 2),
    )
    table = bytes(64)
    for name_at, start, size in ((1, 64, len(content)), (10, 64 + len(content), len(names))):
        table += struct.pack("<IIQQQQIIQQ", name_at, 1, 0, 0, start, size, 0, 0, 1, 0)
    return header + content + names + table


def installed(
    folder: Path,
    modules: Mapping[str, Sequence[str]],
    builtin: Sequence[str] = (),
    *,
    dep: bool = True,
) -> Path:
    """Make ``/lib/modules/RELEASE`` with modules and what each needs, with modules.dep or not."""
    (folder / "kernel").mkdir(parents=True)
    for name, needs in modules.items():
        (folder / f"kernel/{name}.ko").write_bytes(module_file(name, ",".join(needs)))
    lines = [
        f"kernel/{name}.ko: {' '.join(f'kernel/{one}.ko' for one in needs)}".rstrip()
        for name, needs in modules.items()
    ]
    if dep:
        (folder / "modules.dep").write_text("".join(f"{line}\n" for line in lines))
    order = "".join(f"kernel/{name}.ko\n" for name in modules)
    (folder / "modules.order").write_text(order)
    (folder / "modules.builtin").write_text("".join(f"kernel/{one}.ko\n" for one in builtin))
    return folder
