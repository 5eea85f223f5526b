"""Chapter 7: a virtqueue by hand, the driver's side and the device's."""

import struct

memory = bytearray(0x10000)  # what a guest and its monitor share
SIZE, TABLE, AVAILABLE, USED = 8, 0x1000, 0x2000, 0x3000
NEXT, WRITE = 1, 2


def get(address, layout="<H"):
    return struct.unpack_from(layout, memory, address)


def put(address, layout, *values):
    struct.pack_into(layout, memory, address, *values)


def driver_sends(text, answer_bytes):
    """Make a chain of two buffers available: one to read, one for the answer."""
    memory[0x4000 : 0x4000 + len(text)] = text
    put(TABLE, "<QIHH", 0x4000, len(text), NEXT, 1)  # descriptor 0, goes on at 1
    put(TABLE + 16, "<QIHH", 0x5000, answer_bytes, WRITE, 0)  # descriptor 1, the last
    [index] = get(AVAILABLE + 2)
    put(AVAILABLE + 4 + 2 * (index % SIZE), "<H", 0)  # the chain begins at descriptor 0
    put(AVAILABLE + 2, "<H", (index + 1) % 65536)


def device_serves(last):
    """Take the chains that are available from ``last`` on; return the next index."""
    while last != get(AVAILABLE + 2)[0]:
        [head] = get(AVAILABLE + 4 + 2 * (last % SIZE))
        descriptor, request, written, flags = head, b"", 0, NEXT
        while flags & NEXT:
            address, length, flags, following = get(TABLE + 16 * descriptor, "<QIHH")
            if flags & WRITE:
                answer = request.upper()[written : written + length]
                memory[address : address + len(answer)] = answer
                written += len(answer)
            else:
                request += memory[address : address + length]
            descriptor = following
        [index] = get(USED + 2)
        put(USED + 4 + 8 * (index % SIZE), "<II", head, written)
        put(USED + 2, "<H", (index + 1) % 65536)
        last = (last + 1) % 65536
    return last


last = 0
for text in (b"hello", b"virtqueue"):
    driver_sends(text, 100)
    last = device_serves(last)
    [used] = get(USED + 2)
    head, written = get(USED + 4 + 8 * ((used - 1) % SIZE), "<II")
    answer = bytes(memory[0x5000 : 0x5000 + written])
    print(f"used {used}: chain {head}, {written} bytes written: {answer}")
