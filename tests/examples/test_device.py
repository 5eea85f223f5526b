"""A virtio device of one's own, tested against the real Linux driver."""

import pytest

from virtio import DescriptorChain, Device, queue
from vmm.testing import Guest


class Sevens(Device):
    """An entropy device that always throws a seven."""

    device_id = 4

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0

    @queue(size=8)
    def requestq(self, chain: DescriptorChain) -> int:
        self.requests += 1
        return chain.write(b"\x07" * min(chain.writable_length, 4096))


@pytest.mark.guest(devices=[Sevens])
def test_linux_reads_what_the_device_writes(guest: Guest) -> None:
    guest.write_file("/sys/class/misc/hw_random/rng_current", "virtio_rng.1")

    result = guest.run(["head", "-c", "5", "/dev/hwrng"], text=False)

    assert result.stdout == b"\x07" * 5
    device = guest.devices["sevens0"]
    assert isinstance(device, Sevens)
    assert device.requests > 0
