"""Chapter 10: a disk in memory, by some of the items of the conformance list."""

import struct
from typing import Any, Final

from virtio import VirtioDevice
from virtio.testing import POISON, Bench, Used
from vmm.course.missing import Step, function, need

SECTORS: Final = 16
READ, WRITE, FLUSH, NONSENSE = 0, 1, 4, 999


def check(mine: Any, step: Step) -> None:
    """Send reads, writes, and what a disk must refuse."""
    data = bytearray(b"".join(bytes([number]) * 512 for number in range(SECTORS)))
    device = function(mine, "Disk", "a class on Device")(data)
    need(isinstance(device, VirtioDevice), "Disk is not a class on Device")
    need(device.device_id == 2, f"device_id is {device.device_id}, must be 2, a disk")
    capacity = int.from_bytes(device.read_config(0, 8), "little")
    need(capacity == SECTORS, f"the capacity is {capacity}, must be {SECTORS} sectors (BLK-01)")
    step("the capacity is right")
    bench = Bench(device)
    _read(bench, 5, [512], "a read of sector 5")
    _read(bench, 2, [1024], "a read of two sectors")
    _read(bench, 7, [100, 411, 513], "a read into buffers of 100, 411 and 513 bytes (BLK-03)")
    step("it reads")
    _write(bench, data, 3, [b"w" * 512], "a write of sector 3")
    _write(bench, data, 8, [b"a" * 700, b"b" * 324], "a write from two buffers (BLK-03)")
    used = bench.request([_header(WRITE, 1)[:7], _header(WRITE, 1)[7:] + b"h" * 512], [1])
    need(used.data[0] == 0, "a write whose header is cut: not status 0 (BLK-03)")
    need(data[512:1024] == b"h" * 512, "a write whose header is cut did not arrive (BLK-03)")
    step("it writes")
    _refused(bench, data, READ, SECTORS, 512, 1, "a read behind the end (BLK-08)")
    _refused(bench, data, READ, SECTORS - 1, 1024, 1, "a read over the end (BLK-08)")
    _refused(bench, data, READ, (1 << 64) - 1, 512, 1, "a read of sector 2^64 - 1 (BLK-08)")
    _refused(bench, data, WRITE, SECTORS - 1, 1024, 1, "a write over the end (BLK-08)")
    _refused(bench, data, READ, 0, 511, 1, "a read of 511 bytes (BLK-07)")
    _refused(bench, data, WRITE, 0, 100, 1, "a write of 100 bytes (BLK-07)")
    step("it refuses what is not inside of the disk")
    _refused(bench, data, NONSENSE, 0, 512, 2, "a request of type 999 (BLK-09)")
    _refused(bench, data, FLUSH, 0, 0, 2, "a flush, whose feature is not offered (BLK-10)")
    used = bench.request([b"short"], [1])
    need(used.data[0] != 0, "a request with a header of 5 bytes got status 0 (BLK-04)")
    step("it refuses what it does not know")


def _header(kind: int, sector: int) -> bytes:
    return struct.pack("<IIQ", kind, 0, sector)


def _finish(used: Used, status: int, length: int, what: str) -> None:
    found = used.data[-1]
    need(found != POISON, f"{what}: no status byte was written (BLK-06)")
    need(found == status, f"{what}: status {found}, must be {status}")
    need(used.length == length, f"{what}: used length {used.length}, must be {length} (BLK-12)")


def _read(bench: Bench, sector: int, room: list[int], what: str) -> None:
    used = bench.request([_header(READ, sector)], [*room, 1])
    size = sum(room)
    _finish(used, 0, size + 1, what)
    wanted = b"".join(bytes([sector + number]) * 512 for number in range(size // 512))
    need(used.data[:-1] == wanted, f"{what}: the data is not that of the disk")


def _write(bench: Bench, data: bytearray, sector: int, parts: list[bytes], what: str) -> None:
    used = bench.request([_header(WRITE, sector), *parts], [1])
    _finish(used, 0, 1, what)
    written = b"".join(parts)
    place = sector * 512
    need(data[place : place + len(written)] == written, f"{what}: the data did not arrive")


def _refused(
    bench: Bench, data: bytearray, kind: int, sector: int, size: int, status: int, what: str
) -> None:
    before = bytes(data)
    readable = [_header(kind, sector)] + ([b"x" * size] if kind == WRITE else [])
    used = bench.request(readable, [size, 1] if kind != WRITE and size else [1])
    # Data before the status byte that was not written is not counted, nor is then the status.
    _finish(used, status, 0 if kind != WRITE and size else 1, what)
    need(bytes(data) == before, f"{what}: it changed the disk")
