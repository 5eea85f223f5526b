"""Finds the BusyBox that the initramfs is made from: a user land in one static program."""

from __future__ import annotations

from pathlib import Path

from virtio.errors import ConfigurationError

_PLACES = (Path("/bin/busybox"), Path("/usr/bin/busybox"))
_PT_INTERP = 3


def find_busybox() -> Path:
    """Return the path of a static BusyBox; as root, install Debian's when there is none.

    Raises ``ConfigurationError`` when there is none, or only one that needs shared libraries.
    """
    present = [path for path in _PLACES if path.exists()]
    if not present:
        from vmm.image.debian import install
        from vmm.image.progress import silent

        install(["busybox-static"], "the default initramfs", silent)
        present = [path for path in _PLACES if path.exists()]
    for path in present:
        if is_static(path):
            return path
    raise ConfigurationError(
        "/bin/busybox: needs libraries that the guest lacks: apt-get install busybox-static"
    )


def is_static(program: Path) -> bool:
    """Say whether ``program`` is an ELF file that asks for no dynamic loader (``elf(5)``)."""
    with program.open("rb") as file:
        header = file.read(64)
        if header[:5] != b"\x7fELF\x02" or len(header) < 64:
            return False
        offset = int.from_bytes(header[32:40], "little")
        size = int.from_bytes(header[54:56], "little")
        count = int.from_bytes(header[56:58], "little")
        file.seek(offset)
        table = file.read(size * count)
    kinds = (table[at : at + 4] for at in range(0, len(table), size or 1))
    return all(int.from_bytes(kind, "little") != _PT_INTERP for kind in kinds)
