"""A disk in memory.

``Disk(data)`` serves reads (type 0) and writes (type 1) of ``data``, a bytearray of whole sectors
of 512 bytes. Data that is not whole sectors, or not inside of the disk, gets status 1 and changes
nothing; every other type gets status 2. The capacity is in sectors, 64 bits at offset 0.
"""

from struct import Struct

from virtio import Device, field, queue


class Disk(Device):
    device_id = 2
    capacity = field("u64", offset=0)

    def __init__(self, data):
        super().__init__()
        self.data = data

    @queue(size=128, header=Struct("<IIQ"))
    def requestq(self, request):
        return request.finish(2, 0)
