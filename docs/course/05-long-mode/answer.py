"""Page tables for one page of 4096 bytes: a solution."""

PRESENT, WRITABLE = 1, 2


def tables(virtual, physical):
    return {
        0x1000 + 8 * (virtual >> 39 & 511): 0x2000 | PRESENT | WRITABLE,
        0x2000 + 8 * (virtual >> 30 & 511): 0x3000 | PRESENT | WRITABLE,
        0x3000 + 8 * (virtual >> 21 & 511): 0x4000 | PRESENT | WRITABLE,
        0x4000 + 8 * (virtual >> 12 & 511): physical | PRESENT | WRITABLE,
    }
