"""Measures networks in the process: ``python -m tests.perf.nets``.

Frames a second of processor time, through a switch: between ends in Python, and from the rings of
one network card to those of another, of which the driver's part is not counted.
"""

from __future__ import annotations

import struct
import time
from typing import Final

from virtio.net import Net
from virtio.testing import Bench
from vmm.net import Switch

MAC_A, MAC_B, EVERYBODY = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2", b"\xff" * 6
SIZES: Final = (64, 1500)
BURST: Final = 64
BUFFER_BYTES: Final = 2048
RING: Final = 240


def frame(size: int, to: bytes = MAC_B, source: bytes = MAC_A) -> bytes:
    """Return an Ethernet frame of so many bytes."""
    return (to + source + b"\x88\xb5").ljust(size, b"\0")


def large_packet() -> bytes:
    """Return a TCP frame of 64 KiB, to be cut by whoever does not take such."""
    payload = bytes(64000)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 40 + len(payload), 1, 0, 64, 6, 0) + bytes(8)
    tcp = struct.pack(">HHIIBBHHH", 1, 2, 3, 0, 0x50, 0x10, 512, 0, 0)
    header = struct.pack("<BBHHHHH", 1, 1, 54, 1448, 34, 16, 0)
    return header + MAC_B + MAC_A + b"\x08\x00" + ip + tcp + payload


def between_ports(size: int, frames: int = 40_000) -> float:
    """Return how many frames a second pass from one end in Python to another."""
    with Switch() as switch:
        sender, receiver = switch.port(), switch.port()
        receiver.send(frame(60, EVERYBODY, MAC_B))
        burst = [frame(size)] * BURST
        begin = time.process_time()
        for _ in range(frames // BURST):
            sender.send(*burst)
        return frames / (time.process_time() - begin)


def between_cards(packet: bytes, packets: int) -> float:
    """Return how many packets a second pass from the rings of one card to those of another."""
    with Switch() as switch:
        sender, receiver = (Bench(Net(switch.open(), mac=mac)) for mac in (MAC_A, MAC_B))
        receiver.request([bytes(12) + frame(60, EVERYBODY, MAC_B)], queue=1)
        buffers = -(-len(packet) // BUFFER_BYTES)
        burst = min(BURST, RING // buffers)
        spent, done = 0.0, 0
        while done < packets:
            for _ in range(burst * buffers):
                receiver.drivers[0].add([], [BUFFER_BYTES])
            for _ in range(burst):
                sender.drivers[1].add([packet])
            begin = time.process_time()
            sender.device.handle_queue(1)
            while receiver.loop.advance():
                pass
            spent += time.process_time() - begin
            if len(receiver.drivers[0].collect()) != burst * buffers:
                raise RuntimeError("a packet was lost on the way")
            sender.drivers[1].collect()
            done += burst
        return done / spent


def main() -> None:
    """Print the table."""
    for size in SIZES:
        print(f"ends in Python, {size:5} bytes  {between_ports(size):10,.0f} frames/s")
    for size in SIZES:
        rate = between_cards(bytes(12) + frame(size), 20_000)
        print(f"network cards,  {size:5} bytes  {rate:10,.0f} frames/s")
    print(f"network cards,  64 KiB uncut {between_cards(large_packet(), 400):10,.0f} frames/s")


if __name__ == "__main__":
    main()
