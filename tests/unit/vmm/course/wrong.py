"""Wrong answers to the exercises: what is changed in the right one, and a part of the hint."""

from typing import Final

WRONG: Final[dict[int, list[tuple[str, str, str]]]] = {
    1: [
        ('    "00 c8"  #    add al, cl\n', "", "CL is not in the sum"),
        ('"f4"', '"90"', "must be by hlt"),
        ('"f4"', '"eb fe"', "without an exit"),
        ('    "ee"  #       out dx, al\n', "", "nothing was sent"),
        ('"ba 10 00"', '"ba 11 00"', "port 0x11, must be 0x10"),
        ('"ee"', '"04 30 ee"', "a character was sent"),
        ('"ee"', '"ee ee"', "2 bytes were sent"),
        ("CODE", "CODES", "defines no CODE"),
    ],
    2: [
        ("address < guest_address + size", "address <= guest_address + size", "must be None"),
        ("return offset + address - guest_address", "return offset", "must be 4101"),
        ("return offset + address - guest_address", "return address", "must be 4096"),
        ("guest_address <= address", "guest_address < address", "None, must be 4096"),
    ],
    3: [
        ("offset : offset + length", "offset : offset + 4", "bytes, must be 1"),
        ('"little"', '"big"', "must be 0x74726976"),
        ("4 <= place < 8", "place < 8", "which cannot be changed"),
        ("4 <= place < 8", "place >= 4", "where no register is"),
        ("4 <= place < 8", "place == 4", "must be 0x12345678"),
        ("return bytes", "bytes", "must be bytes"),
    ],
}
