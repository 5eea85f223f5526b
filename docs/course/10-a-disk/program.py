"""Chapter 10: a disk, whose sectors are those of a file."""

import os
import tempfile
from struct import Struct

from virtio import Device, Request, field, queue
from virtio.testing import Bench

HEADER = Struct("<IIQ")  # type, reserved, sector
READ, WRITE = 0, 1
OK, IO_ERROR, UNSUPPORTED = 0, 1, 2


class FileDisk(Device):
    device_id = 2
    capacity = field("u64", offset=0)

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.fd = fd
        self.capacity = os.fstat(fd).st_size // 512

    @queue(size=128, header=HEADER)
    def requestq(self, request: Request) -> int:
        if request.header is None:
            return request.finish(IO_ERROR, 0)
        kind, _, sector = request.header
        size = request.data_in_bytes if kind == READ else request.data_out_bytes
        if kind not in (READ, WRITE):
            return request.finish(UNSUPPORTED, 0)
        if size % 512 or sector + size // 512 > self.capacity:
            return request.finish(IO_ERROR, 0)
        if kind == READ:
            os.preadv(self.fd, request.data_in, sector * 512)
            return request.finish(OK, size)
        os.pwritev(self.fd, request.data_out, sector * 512)
        return request.finish(OK, 0)


with tempfile.TemporaryFile() as file:
    file.truncate(64 * 512)
    bench = Bench(FileDisk(file.fileno()))

    used = bench.request([HEADER.pack(WRITE, 0, 3), b"sector three".ljust(512)], [1])
    print(f"write: status {used.data[0]}, used length {used.length}")
    used = bench.request([HEADER.pack(READ, 0, 3)], [512, 1])
    print(f"read: status {used.data[512]}, used length {used.length}, {used.data[:12]}")
    used = bench.request([HEADER.pack(READ, 0, 64)], [512, 1])
    print(f"read behind the end: status {used.data[512]}, used length {used.length}")
    file.seek(3 * 512)
    print(f"the file has {file.read(12)}")
