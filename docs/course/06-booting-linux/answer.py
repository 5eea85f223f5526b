"""The zero page: a solution."""

import struct


def zero_page(ram, command_line):
    page = bytearray(4096)
    ranges = [(0, 0x9FC00), (0x100000, ram - 0x100000)]
    page[0x1E8] = len(ranges)
    struct.pack_into("<H", page, 0x1FE, 0xAA55)
    page[0x202:0x206] = b"HdrS"
    page[0x210] = 0xFF
    struct.pack_into("<I", page, 0x228, command_line)
    for index, (start, length) in enumerate(ranges):
        struct.pack_into("<QQI", page, 0x2D0 + 20 * index, start, length, 1)
    return bytes(page)
