"""Chapter 8: a device as a class."""

import random

from virtio import DescriptorChain, Device, field, queue
from virtio.testing import Bench


class Dice(Device):
    """Throws dice: the driver tells how many, and gets their eyes, a byte each."""

    device_id = 42
    sides = field("u32", offset=0, default=6)

    def __init__(self) -> None:
        super().__init__()
        self.random = random.Random(1)

    @queue(size=64)
    def throwq(self, chain: DescriptorChain) -> int:
        count = int.from_bytes(chain.read(1), "little")
        eyes = bytes(self.random.randint(1, self.sides) for _ in range(count))
        return chain.write(eyes)


bench = Bench(Dice())
print(f"features {bench.device.device_features:#x}, {bench.drivers[0].size} descriptors")
used = bench.request([b"\x05"], [16])
print(f"five dice: {list(used.data[: used.length])}")
used = bench.request([b"\x05"], [2, 1])
print(f"room for three: {list(used.data[: used.length])}")
print(f"the configuration has {bench.device.read_config(0, 4)}")
