"""Guests of a few instructions: an ELF file with a PVH note around 32-bit code.

A PVH kernel is entered in flat 32-bit protected mode with paging off, so that it reaches every
address, and boots in no time. Opcodes are those of the Intel SDM vol. 2.
"""

import struct
from pathlib import Path

LOAD_ADDRESS = 0x100_0000

SERIAL = 0x3F8
HALT_FOR_EVER = bytes.fromhex("fa f4 eb fd")  # cli; 1: hlt; jmp 1b
SPIN = bytes.fromhex("eb fe")  # 1: jmp 1b
UNDEFINED = bytes.fromhex("0f 0b")  # ud2


def out8(port: int, value: int) -> bytes:
    """mov dx, port; mov al, value; out dx, al"""
    return b"\x66\xba" + struct.pack("<H", port) + b"\xb0" + bytes([value]) + b"\xee"


def say(text: str) -> bytes:
    """Send each byte of the text to the serial port."""
    return b"".join(out8(SERIAL, byte) for byte in text.encode())


def load32(address: int) -> bytes:
    """mov eax, [address]"""
    return b"\xa1" + struct.pack("<I", address)


def store32(address: int, value: int) -> bytes:
    """mov dword [address], value"""
    return b"\xc7\x05" + struct.pack("<II", address, value)


def say_eax() -> bytes:
    """mov dx, 0x3f8, then four times: out dx, al; shr eax, 8"""
    return b"\x66\xba\xf8\x03" + b"\xee\xc1\xe8\x08" * 4


def write_kernel(path: Path, code: bytes) -> Path:
    """Write an ELF kernel that runs ``code``, and return its path."""
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", LOAD_ADDRESS)
    headers = 64 + 2 * 56
    code_at = headers + len(note)
    elf = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(2, 62, 1, LOAD_ADDRESS, 64, 0, 0, 64, 56, 2, 0, 0, 0),
    )
    load = struct.pack(
        "<IIQQQQQQ", 1, 5, code_at, LOAD_ADDRESS, LOAD_ADDRESS, len(code), len(code), 1
    )
    notes = struct.pack("<IIQQQQQQ", 4, 4, headers, 0, 0, len(note), len(note), 4)
    path.write_bytes(elf + load + notes + note + code)
    return path
