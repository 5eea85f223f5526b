"""The device's side of a virtqueue: a solution."""

import struct


def serve(memory, size, table, available, used, last):
    [index] = struct.unpack_from("<H", memory, available + 2)
    while last != index:
        [head] = struct.unpack_from("<H", memory, available + 4 + 2 * (last % size))
        written = answer(memory, table, head)
        [place] = struct.unpack_from("<H", memory, used + 2)
        struct.pack_into("<II", memory, used + 4 + 8 * (place % size), head, written)
        struct.pack_into("<H", memory, used + 2, (place + 1) % 65536)
        last = (last + 1) % 65536
    return last


def answer(memory, table, descriptor):
    request, written, flags = b"", 0, 1
    while flags & 1:
        where = table + 16 * descriptor
        address, length, flags, descriptor = struct.unpack_from("<QIHH", memory, where)
        if flags & 2:
            part = request.upper()[written : written + length]
            memory[address : address + len(part)] = part
            written += len(part)
        else:
            request += bytes(memory[address : address + length])
    return written
