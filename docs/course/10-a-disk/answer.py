"""A disk in memory: a solution."""

from struct import Struct

from virtio import Device, field, queue


class Disk(Device):
    device_id = 2
    capacity = field("u64", offset=0)

    def __init__(self, data):
        super().__init__()
        self.data = data
        self.capacity = len(data) // 512

    @queue(size=128, header=Struct("<IIQ"))
    def requestq(self, request):
        kind, _, sector = request.header or (None, 0, 0)
        if kind not in (0, 1):
            return request.finish(1 if kind is None else 2, 0)
        size = request.data_in_bytes if kind == 0 else request.data_out_bytes
        if size % 512 or sector * 512 + size > len(self.data):
            return request.finish(1, 0)
        place = sector * 512
        for view in request.data_in if kind == 0 else request.data_out:
            if kind == 0:
                view[:] = self.data[place : place + len(view)]
            else:
                self.data[place : place + len(view)] = view
            place += len(view)
        return request.finish(0, size if kind == 0 else 0)
