"""A transport whose queues interrupt each in their own way, as registers other than MMIO's have."""

from typing import Any

from transport import VirtioTransport
from virtio.device.declaration import Device, field, queue
from virtio.testing import ManualLoop, SplitDriver, flat_memory
from virtio.virtqueue.chain import DescriptorChain


class Vectors:
    """Interrupts that remember by queue; a plain value of its own is what they save."""

    def __init__(self) -> None:
        self.used_count = 0
        self.config_count = 0
        self.enabled = False
        self.events: list[int | str] = []

    def used(self, queue: int) -> None:
        self.events.append(queue)

    def config(self) -> None:
        self.events.append("config")

    def enable(self) -> None:
        self.enabled = True

    def disable(self) -> None:
        self.enabled = False

    def reset(self) -> None:
        self.enabled = False

    def forget_queue(self, queue: int) -> None:
        pass

    def describe(self) -> str:
        return f"events {self.events}"

    def state(self) -> dict[str, Any]:
        return {"table": list(self.events)}

    def restore(self, state: dict[str, Any]) -> None:
        self.events = list(state["table"])


class Pair(Device):
    """Two queues and a configuration field."""

    device_id = 42
    width = field("u8", offset=0)

    @queue(size=8)
    def first(self, chain: DescriptorChain) -> int:
        return chain.write(b"1")

    @queue(size=8)
    def second(self, chain: DescriptorChain) -> int:
        return chain.write(b"2")


class Silent(Device):
    """A device without a queue."""

    device_id = 43


def start(transport: VirtioTransport, *rings: SplitDriver) -> None:
    """Bring a transport up as a driver would, without registers."""
    transport.write_status(0x03)
    transport.negotiation.select_driver_word(1)
    transport.negotiation.accept(1)
    transport.write_status(0x0B)
    for registers, ring in zip(transport.queue_registers, rings, strict=False):
        (
            registers.size,
            registers.descriptor_area,
            registers.driver_area,
            registers.device_area,
        ) = ring.layout
        transport.enable_queue(registers)
    transport.write_status(0x0F)


def test_each_queue_and_the_configuration_interrupt_by_themselves() -> None:
    memory, vectors, device = flat_memory(), Vectors(), Pair()
    rings = SplitDriver(memory, 8), SplitDriver(memory, 8, base=0x8000)
    with VirtioTransport(device, memory, vectors, ManualLoop()) as transport:
        start(transport, *rings)
        rings[1].add(writable=[1])
        transport.notify(1)
        transport.service()
        device.width = 5
        rings[0].add(writable=[1])
        transport.notify(0)
        transport.service()

        assert vectors.events == [1, "config", 0]
        assert "events [1, 'config', 0]" in transport.describe()[0]


def test_interrupts_live_and_are_saved_with_their_transport() -> None:
    memory = flat_memory()
    old, new = Vectors(), Vectors()
    with VirtioTransport(Pair(), memory, old, ManualLoop()) as transport:
        enabled = [old.enabled]
        start(transport, SplitDriver(memory, 8))
        enabled.append(old.enabled)
        transport.interrupts.config()
        state = transport.state()
        transport.write_status(0)
        enabled.append(old.enabled)
    with VirtioTransport(Pair(), memory, new, ManualLoop()) as transport:
        transport.restore(state)
        enabled.append(new.enabled)

    assert enabled == [False, True, False, True]
    assert new.events == ["config"]


def test_device_without_queues_is_counted_and_described() -> None:
    with VirtioTransport(Silent(), flat_memory(), Vectors(), ManualLoop(), name="it") as transport:
        start(transport)

        assert transport.stats.completions == 0
        assert transport.describe() == [
            "it: device type 43, status 0xf (ACKNOWLEDGE DRIVER FEATURES_OK DRIVER_OK),"
            " features 0x100000000, events [], 0 kicks, 0 interrupts"
        ]
