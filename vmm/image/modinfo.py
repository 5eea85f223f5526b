"""What a kernel module says of itself: its version, what it needs, its section ``.modinfo``.

Linux ``include/linux/module.h`` and ``moduleparam.h`` fill the section with ``key=value`` texts, a
zero byte after each; ``elf(5)`` tells where it is.
"""

from __future__ import annotations

import struct
from typing import Final

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from vmm.x86 import ELF_MACHINE

_ELF64_LE: Final = b"\x7fELF\x02\x01"
_HEADER: Final = struct.Struct("<16xHHIQQQIHHHHHH")  # Elf64_Ehdr
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")  # Elf64_Shdr


class ModuleInfo(NamedTuple):
    """The modules that a module needs, the kernel release that it was built for, and its aliases.

    ``softly`` are those that it does without, and that are loaded before it where they are.
    """

    name: str
    depends: tuple[str, ...]
    softly: tuple[str, ...]
    release: str
    aliases: tuple[str, ...]


def module_info(data: bytes, where: str) -> ModuleInfo:
    """Return what the unpacked module ``data`` says; ``where`` names it in errors.

    Raises ``ConfigurationError`` for what is no module, or one of another processor.
    """
    texts = _section(data, where).split(b"\0")
    pairs = [text.decode(errors="replace").partition("=") for text in texts if b"=" in text]
    values = {key: value for key, _, value in pairs}
    depends = [plain_name(one) for one in values.get("depends", "").split(",") if one]
    soft = [value for key, _, value in pairs if key == "softdep"]
    return ModuleInfo(
        plain_name(values.get("name", "")),
        tuple(depends),
        tuple(plain_name(one) for text in soft for one in _pre(text)),
        values.get("vermagic", "").partition(" ")[0],
        tuple(value for key, _, value in pairs if key == "alias"),
    )


def plain_name(name: str) -> str:
    """Return the name of a module as the kernel spells it, which takes no dash.

    >>> plain_name("virtio-rng")
    'virtio_rng'
    """
    return name.replace("-", "_")


def _pre(softdep: str) -> list[str]:
    """Return the modules of ``pre: a b post: c`` that are loaded before; modprobe.d(5)."""
    names, pre = [], False
    for word in softdep.split():
        if word.endswith(":"):
            pre = word == "pre:"
        elif pre:
            names.append(word)
    return names


def _section(data: bytes, where: str) -> bytes:
    """Return the content of ``.modinfo``."""
    if len(data) < _HEADER.size or not data.startswith(_ELF64_LE):
        raise ConfigurationError(f"{where}: is no kernel module of a 64-bit PC (not ELF)")
    _, machine, *_, sections, _, _, _, _, size, count, names_at = _HEADER.unpack_from(data)
    if machine != ELF_MACHINE:
        raise ConfigurationError(f"{where}: is for another processor (ELF machine {machine})")
    if size != _SECTION.size or sections + count * size > len(data) or names_at >= count:
        raise ConfigurationError(f"{where}: is damaged: its sections are not in the file")
    table = [_SECTION.unpack_from(data, sections + index * size) for index in range(count)]
    names = _content(data, table[names_at], where)
    for section in table:
        if names[section[0] : section[0] + 9] == b".modinfo\0":
            return _content(data, section, where)
    raise ConfigurationError(f"{where}: is no kernel module: it has no section .modinfo")


def _content(data: bytes, section: tuple[int, ...], where: str) -> bytes:
    offset, size = section[4], section[5]
    if offset + size > len(data):
        raise ConfigurationError(f"{where}: is truncated: a section ends at byte {offset + size}")
    return data[offset : offset + size]
