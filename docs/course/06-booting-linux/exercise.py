"""The zero page.

Return the 4096 bytes of ``struct boot_params`` for a machine with ``ram`` bytes of memory from
address 0 on, whose command line is at ``command_line``. Set, and leave all else zero:

| Offset | Bytes | Value |
|---|---|---|
| 0x1e8 | 1 | number of entries of the memory map |
| 0x1fe | 2 | 0xaa55 |
| 0x202 | 4 | "HdrS" |
| 0x210 | 1 | 0xff, a loader without a number |
| 0x228 | 4 | address of the command line |
| 0x2d0 | 20 each | memory map: start (8), length (8), kind (4): 1 is RAM |

RAM is from 0 to 0x9fc00 and from 0x100000 to its end; between them a PC has other things.
"""

import struct


def zero_page(ram, command_line):
    page = bytearray(4096)
    struct.pack_into("<H", page, 0x1FE, 0xAA55)
    return bytes(page)
