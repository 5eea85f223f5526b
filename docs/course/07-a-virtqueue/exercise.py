"""The device's side of a virtqueue.

``memory`` is the guest's memory, indexed by guest-physical address. ``size`` is the number of
descriptors; ``table``, ``available`` and ``used`` are the addresses of the three parts. Take every
chain that is available from index ``last`` on. Write the bytes of its readable buffers, in upper
case, into its writable ones, which come later in the chain and may be too small; then add the chain
to the used ring. Return the next ``last``.
"""

import struct


def serve(memory, size, table, available, used, last):
    [index] = struct.unpack_from("<H", memory, available + 2)
    while last != index:
        last += 1
    return last
