"""Page tables for one page of 4096 bytes.

Return a dictionary: the guest-physical address of each entry that you set, and its value. Have the
tables at 0x1000 (the root), 0x2000, 0x3000 and 0x4000. The guest must be able to read, write and
run the page at the physical address by the virtual one. Both are multiples of 4096, and ``virtual``
is below 0x8000_0000_0000.
"""

PRESENT, WRITABLE = 1, 2


def tables(virtual, physical):
    return {
        0x1000 + 8 * (virtual >> 39 & 511): 0x2000 | PRESENT | WRITABLE,
    }
