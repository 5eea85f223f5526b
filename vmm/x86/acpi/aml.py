"""AML, the byte code of ACPI: an encoder whose calls read like the ASL they stand for.

Each function returns the bytes of one term, and takes the bytes of those inside. So

    device("COM1", name("_HID", eisa_id("PNP0501")), name("_UID", integer(0)))

is what the compiler of ASL, ``iasl``, makes of

    Device (COM1) { Name (_HID, EisaId ("PNP0501"))  Name (_UID, Zero) }

Implements ACPI 6.5 "ACPI Machine Language (AML) Specification"; each function is named after the
grammar's rule.
"""

import struct
from typing import Final

ZERO_OP, ONE_OP, ONES_OP = b"\x00", b"\x01", b"\xff"
BYTE_PREFIX, WORD_PREFIX, DWORD_PREFIX, QWORD_PREFIX = b"\x0a", b"\x0b", b"\x0c", b"\x0e"
STRING_PREFIX: Final = b"\x0d"
DUAL_NAME_PREFIX, MULTI_NAME_PREFIX, NULL_NAME = b"\x2e", b"\x2f", b"\x00"

LOCAL0: Final = b"\x60"
ARG0: Final = b"\x68"

SYSTEM_MEMORY: Final = 0
SYSTEM_IO: Final = 1

_SEGMENT_LENGTH: Final = 4


# Names and data


def name_string(path: str) -> bytes:
    r"""Return a name, such as ``_CRS``, ``PC00.MBRD`` or ``\_SB.PWRB``.

    >>> name_string("\\_SB.PWRB").hex(" ")
    '5c 2e 5f 53 42 5f 50 57 52 42'
    """
    root = b"\\" if path.startswith("\\") else b""
    segments = [name_segment(part) for part in path.removeprefix("\\").split(".") if part]
    prefix = b""
    if not segments:
        prefix = NULL_NAME
    elif len(segments) == 2:
        prefix = DUAL_NAME_PREFIX
    elif len(segments) > 2:
        prefix = MULTI_NAME_PREFIX + bytes([len(segments)])
    return root + prefix + b"".join(segments)


def name_segment(name: str) -> bytes:
    """Return one part of a name: four characters, the last of which may be left out.

    Raises ValueError for what AML has no spelling of.
    """
    padded = name.ljust(_SEGMENT_LENGTH, "_")
    if len(padded) != _SEGMENT_LENGTH or padded[0].isdigit() or not _is_upper_word(padded):
        raise ValueError(f"{name!r}: must be 1 to 4 of A-Z, 0-9 and _, the first no digit")
    return padded.encode("ascii")


def _is_upper_word(text: str) -> bool:
    return all("A" <= one <= "Z" or "0" <= one <= "9" or one == "_" for one in text)


def integer(value: int) -> bytes:
    """Return a number in its shortest form, up to 64 bits.

    >>> integer(1).hex(" "), integer(0x3F8).hex(" ")
    ('01', '0b f8 03')
    """
    if value in (0, 1):
        return bytes([value])
    if value == 0xFFFF_FFFF_FFFF_FFFF:
        return ONES_OP
    for prefix, form in (
        (BYTE_PREFIX, "<B"),
        (WORD_PREFIX, "<H"),
        (DWORD_PREFIX, "<I"),
        (QWORD_PREFIX, "<Q"),
    ):
        if value < 1 << 8 * struct.calcsize(form):
            return prefix + struct.pack(form, value)
    raise ValueError(f"{value:#x}: an integer of AML has 64 bits at most")


def string(text: str) -> bytes:
    """Return a string of ASCII characters."""
    return STRING_PREFIX + text.encode("ascii") + b"\0"


def buffer(data: bytes) -> bytes:
    """Return a buffer that begins with ``data``, and has its length."""
    return b"\x11" + _with_length(integer(len(data)) + data)


def package(*elements: bytes) -> bytes:
    """Return a list of data."""
    return b"\x12" + _with_length(bytes([len(elements)]) + b"".join(elements))


def eisa_id(text: str) -> bytes:
    """Return a device's id, such as PNP0501, packed into a number.

    ACPI 6.5 "EISAID": three letters of five bits, then four hexadecimal digits, high byte first.

    >>> eisa_id("PNP0501").hex(" ")
    '0c 41 d0 05 01'
    """
    first, second, third = (ord(letter) - ord("@") for letter in text[:3])
    packed = first << 26 | second << 21 | third << 16 | int(text[3:], 16)
    return integer(int.from_bytes(packed.to_bytes(4, "big"), "little"))


# Objects of the name space


def name(path: str, value: bytes) -> bytes:
    """Return a named object with a constant value."""
    return b"\x08" + name_string(path) + value


def scope(path: str, *terms: bytes) -> bytes:
    """Return terms that stand inside an object which exists already."""
    return b"\x10" + _with_length(name_string(path) + b"".join(terms))


def device(path: str, *terms: bytes) -> bytes:
    """Return a device and all that it has."""
    return b"\x5b\x82" + _with_length(name_string(path) + b"".join(terms))


def method(path: str, *terms: bytes, arguments: int = 0, serialized: bool = False) -> bytes:
    """Return a procedure; of a serialized one no two calls run at the same time."""
    flags = arguments | serialized << 3
    return b"\x14" + _with_length(name_string(path) + bytes([flags]) + b"".join(terms))


def operation_region(path: str, space: int, offset: int, length: int) -> bytes:
    """Return a range of registers, in ``SYSTEM_MEMORY`` or ``SYSTEM_IO``."""
    return b"\x5b\x80" + name_string(path) + bytes([space]) + integer(offset) + integer(length)


def dword_field(region: str, path: str) -> bytes:
    """Return the name of the first 32 bits of a region, read and written as a whole."""
    any_lock_preserve_dword = b"\x03"
    element = name_segment(path) + _package_length(32)
    return b"\x5b\x81" + _with_length(name_string(region) + any_lock_preserve_dword + element)


# Statements


def store(source: bytes, target: bytes) -> bytes:
    """Return ``target = source``."""
    return b"\x70" + source + target


def bit_and(left: bytes, right: bytes) -> bytes:
    """Return ``left & right``."""
    return b"\x7b" + left + right + NULL_NAME


def if_(condition: bytes, *terms: bytes) -> bytes:
    """Return terms that are executed unless ``condition`` is zero."""
    return b"\xa0" + _with_length(condition + b"".join(terms))


def notify(target: str, value: int) -> bytes:
    """Return a message to the driver of an object."""
    return b"\x86" + name_string(target) + integer(value)


# Lengths


def _with_length(content: bytes) -> bytes:
    """Return ``content`` behind its length, which counts itself (``PkgLength``)."""
    for extra in range(4):
        whole = len(content) + 1 + extra
        if whole < (1 << 6 if extra == 0 else 1 << 4 + 8 * extra):
            return _encoded_length(whole, extra) + content
    raise ValueError(f"{len(content)} bytes are more than an object of AML can have")


def _package_length(value: int) -> bytes:
    """Return a number in the form of a length; that of a field's bits counts nothing else."""
    return _encoded_length(value, 0 if value < 1 << 6 else 1)


def _encoded_length(value: int, extra: int) -> bytes:
    """Return a length with ``extra`` bytes behind its first one.

    A single byte holds six bits. Else it tells in bits 7-6 how many follow, and holds the lowest
    four bits of the length only.
    """
    if extra == 0:
        return bytes([value])
    return bytes([extra << 6 | value & 0xF]) + (value >> 4).to_bytes(extra, "little")
