"""Chapter 9: how often a device calls its driver, and how the driver says when."""

from virtio import DescriptorChain, Device, queue
from virtio.testing import Bench

EVENT_IDX = 1 << 29


class Echo(Device):
    device_id = 42

    @queue(size=64)
    def echoq(self, chain: DescriptorChain) -> int:
        return chain.write(chain.read(64))


def always(driver):
    """Want to hear of each; say so again after each."""
    driver.collect()
    driver.want_interrupts()


def never(driver):
    driver.suppress_interrupts()


def once(driver):
    """Say it once, at the start."""
    if driver.in_flight == 0:
        driver.interrupt_after(8)


for name, say in (("each", always), ("none", never), ("the eighth", once)):
    bench = Bench(Echo())
    driver = bench.drivers[0]
    assert bench.features & EVENT_IDX
    for _ in range(16):
        say(driver)
        driver.add([b"x"], [1])
        bench.serve()
    print(f"16 requests, {name}: {len(bench.interrupts)} interrupts")

bench = Bench(Echo())
driver = bench.drivers[0]
kicks = 0
for _ in range(16):
    driver.add([b"x"], [1])
    kicks += driver.should_kick()
bench.serve()
print(f"16 requests before the device looks: {kicks} kick, {len(bench.interrupts)} interrupt")
