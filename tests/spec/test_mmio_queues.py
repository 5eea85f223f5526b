"""Queues coming and going through registers: QueueReady and QueueReset."""

import pytest

from tests.spec.conftest import RigMaker
from tests.spec.devices import EVERY_RING, DeviceCase, Gadget
from tests.spec.rig import RING_SHARE_BYTES, Form, Rig
from tests.spec.threads import Crew, StuckMedium, wait_until
from virtio.block import Block
from virtio.memory import FlatMemory

RING_RESET = 1 << 40
HELLO = ((b"hello",), (5,))
READ_SECTOR = ((bytes(16),), (512, 1))


def poison_queue(rig: Rig, index: int = 0) -> bytes:
    share = rig.memory.view((index + 1) * RING_SHARE_BYTES, RING_SHARE_BYTES)
    share[:] = b"\x5a" * RING_SHARE_BYTES
    return bytes(share)


def queue_memory(rig: Rig, index: int = 0) -> bytes:
    return bytes(rig.memory.view((index + 1) * RING_SHARE_BYTES, RING_SHARE_BYTES))


def select(rig: Rig, index: int) -> None:
    rig.driver.write(0x30, index)


# Settings and geometry


@pytest.mark.spec("MMIO-11")
def test_settings_written_while_ready_have_no_effect_now_or_later(gadget: Rig) -> None:
    gadget.start()
    select(gadget, 0)

    for offset in (0x38, 0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4):
        gadget.driver.write(offset, 4)

    now = [gadget.request(0, HELLO).data for _ in range(12)]
    gadget.driver.write(0x44, 0)
    gadget.add_ring(0)
    gadget.driver.write(0x44, 1)
    later = [gadget.request(0, HELLO).data for _ in range(12)]
    assert now + later == [b"hello"] * 24


RAM_END = 4 << 20
BAD_SPLIT = {
    "size-0": (0, 0x1000, 0x2000, 0x3000),
    "size-3": (3, 0x1000, 0x2000, 0x3000),
    "size-twice-the-largest": (512, 0x1000, 0x4000, 0x8000),
    "size-65535": (65535, 0x1000, 0x2000, 0x3000),
    "size-2^31": (1 << 31, 0x1000, 0x2000, 0x3000),
    "descriptor-area-unaligned": (8, 0x1008, 0x2000, 0x3000),
    "driver-area-unaligned": (8, 0x1000, 0x2001, 0x3000),
    "device-area-unaligned": (8, 0x1000, 0x2000, 0x3002),
    "descriptor-area-over-the-end": (8, RAM_END - 112, 0x2000, 0x3000),
    "driver-area-over-the-end": (8, 0x1000, RAM_END - 18, 0x3000),
    "device-area-over-the-end": (8, 0x1000, 0x2000, RAM_END - 66),
    "descriptor-area-outside": (8, 1 << 40, 0x2000, 0x3000),
    "descriptor-area-wraps": (8, (1 << 64) - 16, 0x2000, 0x3000),
    "driver-area-wraps": (8, 0x1000, (1 << 64) - 2, 0x3000),
    "device-area-wraps": (8, 0x1000, 0x2000, (1 << 64) - 4),
}
BAD_PACKED = {
    "size-0": (0, 0x1000, 0x2000, 0x3000),
    "size-over-the-largest": (257, 0x1000, 0x4000, 0x8000),
    "descriptor-area-unaligned": (7, 0x1008, 0x2000, 0x3000),
    "driver-area-unaligned": (7, 0x1000, 0x2002, 0x3000),
    "device-area-unaligned": (7, 0x1000, 0x2000, 0x3001),
    "descriptor-area-over-the-end": (8, RAM_END - 112, 0x2000, 0x3000),
    "driver-area-over-the-end": (7, 0x1000, RAM_END, 0x3000),
    "device-area-wraps": (7, 0x1000, 0x2000, (1 << 64) - 4),
}


@pytest.mark.spec("MMIO-12")
@pytest.mark.parametrize("geometry", BAD_SPLIT.values(), ids=BAD_SPLIT)
def test_bad_geometry_of_a_split_queue_is_refused_and_needs_a_reset(
    gadget: Rig, geometry: tuple[int, int, int, int]
) -> None:
    gadget.negotiate()

    assert not gadget.driver.set_up_queue(0, *geometry)

    assert gadget.driver.read(0x44) == 0
    assert gadget.driver.status == 0x4B


@pytest.mark.spec("MMIO-12")
@pytest.mark.parametrize("geometry", BAD_PACKED.values(), ids=BAD_PACKED)
def test_bad_geometry_of_a_packed_queue_is_refused_and_needs_a_reset(
    make_rig: RigMaker, geometry: tuple[int, int, int, int]
) -> None:
    rig = make_rig(Gadget(ring_features=EVERY_RING))
    rig.negotiate(1 << 34)

    assert not rig.driver.set_up_queue(0, *geometry)

    assert rig.driver.status == 0x4B


@pytest.mark.spec("MMIO-12")
def test_bad_geometry_on_a_live_device_needs_a_reset_and_says_so(gadget: Rig) -> None:
    gadget.start()
    select(gadget, 0)
    gadget.driver.write(0x44, 0)

    assert not gadget.driver.set_up_queue(0, 8, 0x1008, 0x2000, 0x3000)

    assert gadget.driver.status == 0x4F
    assert gadget.driver.interrupt_status == 2


@pytest.mark.spec("MMIO-12")
def test_areas_may_end_with_ram(gadget: Rig) -> None:
    gadget.negotiate()

    assert gadget.driver.set_up_queue(0, 8, RAM_END - 128, RAM_END - 150, RAM_END - 224)


# QueueReady


@pytest.mark.spec("MMIO-13")
@pytest.mark.parametrize("status", [0x00, 0x01, 0x03])
def test_queue_cannot_be_enabled_before_features_ok(
    device_case: DeviceCase, status: int, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())
    rig.reach(status)
    ring = rig.add_ring(0)

    assert not rig.driver.set_up_queue(0, *ring.layout)
    assert rig.driver.status == status


@pytest.mark.spec("MMIO-14")
def test_enabling_a_live_queue_again_does_not_start_it_over(form: Form, make_rig: RigMaker) -> None:
    rig = make_rig(Gadget(ring_features=EVERY_RING))
    rig.start(form=form)
    select(rig, 0)
    for _ in range(3):
        rig.request(0, HELLO)
    rig.rings[0].add(*HELLO)

    rig.driver.write(0x44, 1)
    rig.driver.write(0x44, 1)

    assert rig.rings[0].collect() == []
    rig.driver.notify(0)
    rig.serve()
    assert [used.data for used in rig.rings[0].collect()] == [b"hello"]


@pytest.mark.spec("MMIO-14")
def test_enabling_again_keeps_what_the_device_holds(gadget: Rig) -> None:
    gadget.start()
    gadget.add(1, HELLO)
    gadget.serve()
    select(gadget, 1)

    gadget.driver.write(0x44, 1)

    assert isinstance(gadget.device, Gadget)
    gadget.device.finish()
    assert [used.data[:4] for used in gadget.rings[1].collect()] == [b"done"]


@pytest.mark.spec("MMIO-14")
@pytest.mark.parametrize("value", [2, 3, 0x100, 0x1_0001, 0x8000_0000, 0xFFFF_FFFF])
def test_other_values_neither_disable_nor_enable(gadget: Rig, value: int) -> None:
    gadget.start()
    select(gadget, 0)
    gadget.driver.write(0x44, value)
    ready = gadget.driver.read(0x44)
    gadget.driver.write(0x44, 0)
    gadget.driver.write(0x44, value)

    assert (ready, gadget.driver.read(0x44)) == (1, 0)
    assert gadget.driver.status == 0x0F


class WatchedMemory(FlatMemory):
    """Notes whether a view into the first queue's share of memory was asked for."""

    def __init__(self) -> None:
        super().__init__([(0, bytearray(4 << 20))])
        self.watching = False
        self.touched: list[tuple[int, int]] = []

    def view(self, address: int, length: int) -> memoryview:
        if self.watching and address < 2 * RING_SHARE_BYTES:
            self.touched.append((address, length))
        return super().view(address, length)


@pytest.mark.spec("MMIO-15")
def test_ring_is_not_touched_before_it_is_ready(form: Form, make_rig: RigMaker) -> None:
    memory = WatchedMemory()
    rig = make_rig(Gadget(ring_features=EVERY_RING), memory)
    rig.negotiate(form=form)
    ring = rig.add_ring(0, form=form)
    ring.add(*HELLO)
    before = queue_memory(rig)
    memory.watching = True

    select(rig, 0)
    for offset, value in zip((0x38, 0x80, 0x90, 0xA0), ring.layout, strict=True):
        rig.driver.write(offset, value)
    rig.driver.go_live()
    rig.kick(0)
    rig.serve()

    memory.watching = False
    assert memory.touched == []
    assert queue_memory(rig) == before
    rig.driver.write(0x44, 1)
    rig.serve()
    assert [used.data for used in ring.collect()] == [b"hello"]


@pytest.mark.spec("MMIO-15", "MMIO-16")
def test_ring_is_not_touched_after_it_was_disabled(
    device_case: DeviceCase, form: Form, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    index = device_case.queue
    rig.add(index, device_case.request)
    select(rig, index)

    rig.driver.write(0x44, 0)
    before = queue_memory(rig, index)
    rig.kick(index)
    rig.serve()

    assert rig.driver.read(0x44) == 0
    assert queue_memory(rig, index) == before
    assert rig.line.edges == 0


@pytest.mark.spec("MMIO-16")
def test_disabling_returns_only_when_slow_io_no_longer_writes(
    form: Form, make_rig: RigMaker
) -> None:
    medium = StuckMedium()
    rig = make_rig(Block(medium, ring_features=EVERY_RING))
    rig.start(form=form)
    rig.add(0, READ_SECTOR)
    select(rig, 0)
    poisoned = []

    def disable_and_poison() -> None:
        rig.driver.write(0x44, 0)
        poisoned.append((rig.driver.read(0x44), poison_queue(rig), rig.line.edges))

    with Crew() as crew:
        crew.run(rig.serve)
        wait_until(medium.entered.is_set)
        crew.run(disable_and_poison).join(0.05)
        poisoned_meanwhile = list(poisoned)
        medium.let_go()

    assert poisoned_meanwhile == []
    assert poisoned == [(0, queue_memory(rig), rig.line.edges)]


@pytest.mark.spec("MMIO-16")
def test_queue_disabled_under_load_is_never_written_again(
    form: Form, make_rig: RigMaker, rapid_switching: None
) -> None:
    rig = make_rig(Gadget(ring_features=EVERY_RING))
    rig.start(form=form)
    touched = []

    with Crew() as crew:
        passes = crew.repeat(rig.serve)
        for _ in range(25):
            for _ in range(8):
                rig.rings[0].add([b"x"])
            rig.driver.notify(0)
            select(rig, 0)
            rig.driver.write(0x44, 0)
            ready, before, edges = rig.driver.read(0x44), poison_queue(rig), rig.line.edges
            passes.await_more(2)
            touched.append((ready, queue_memory(rig) != before, rig.line.edges - edges))
            rig.add_queue(0, form=form)

    assert touched == [(0, False, 0)] * 25


@pytest.mark.spec("MMIO-15", "MMIO-16")
def test_late_completion_does_not_write_to_a_disabled_queue(form: Form, make_rig: RigMaker) -> None:
    device = Gadget(ring_features=EVERY_RING)
    rig = make_rig(device)
    rig.start(form=form)
    rig.add(1, HELLO)
    rig.serve()
    select(rig, 1)

    rig.driver.write(0x44, 0)
    poisoned = poison_queue(rig, 1)
    device.finish()

    assert queue_memory(rig, 1) == poisoned
    assert (rig.line.edges, rig.driver.status) == (0, 0x0F)


@pytest.mark.spec("MMIO-17")
def test_queue_starts_from_the_beginning_each_time_it_is_enabled(
    form: Form, make_rig: RigMaker
) -> None:
    rig = make_rig(Gadget(ring_features=EVERY_RING))
    rig.start(form=form)
    answers = []
    for _ in range(11):
        answers.append(rig.request(0, HELLO).data)

    for size in (8, 4, 16):
        select(rig, 0)
        rig.driver.write(0x44, 0)
        rig.add_queue(0, form=form, size=size)
        answers += [rig.request(0, HELLO).data for _ in range(3)]

    assert answers == [b"hello"] * 20


# QueueReset


@pytest.mark.spec("MMIO-33")
def test_queue_reset_reads_zero_after_device_reset_and_after_enabling(gadget: Rig) -> None:
    gadget.start(RING_RESET)
    select(gadget, 0)
    gadget.driver.write(0xC0, 1)
    gadget.add_queue(0)
    enabled = gadget.driver.read(0xC0)

    gadget.driver.write(0xC0, 1)
    gadget.driver.status = 0

    assert (enabled, gadget.driver.read(0xC0)) == (0, 0)


@pytest.mark.spec("MMIO-34")
def test_queue_reset_returns_the_queue_to_its_defaults(
    device_case: DeviceCase, form: Form, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make(ring_features=EVERY_RING))
    rig.negotiate(RING_RESET, form)
    defaults = rig.transport.state().queues
    rig.add_queue(0, form=form, size=4)
    rig.driver.go_live()

    rig.driver.write(0xC0, 1)

    assert (rig.driver.read(0xC0), rig.driver.read(0x44)) == (0, 0)
    assert rig.transport.state().queues == defaults


@pytest.mark.spec("MMIO-34", "MMIO-35")
def test_queue_reset_reads_one_until_slow_io_no_longer_writes(
    form: Form, make_rig: RigMaker
) -> None:
    medium = StuckMedium()
    rig = make_rig(Block(medium, ring_features=EVERY_RING))
    rig.start(RING_RESET, form)
    rig.add(0, READ_SECTOR)
    select(rig, 0)
    shown: list[int] = []

    with Crew() as crew:
        crew.run(rig.serve)
        wait_until(medium.entered.is_set)
        crew.run(lambda: rig.driver.write(0xC0, 1))
        wait_until(lambda: rig.driver.read(0xC0) == 1)
        shown += [rig.driver.read(0xC0), rig.driver.read(0x44)]
        medium.let_go()
        wait_until(lambda: rig.driver.read(0xC0) == 0)
        shown += [rig.driver.read(0x44)]
        poisoned, edges = poison_queue(rig), rig.line.edges

    assert shown == [1, 1, 0]
    assert queue_memory(rig) == poisoned
    assert rig.line.edges == edges


@pytest.mark.spec("MMIO-35")
def test_reset_queue_gets_no_late_completion_and_takes_no_notification(
    form: Form, make_rig: RigMaker
) -> None:
    device = Gadget(ring_features=EVERY_RING)
    rig = make_rig(device)
    rig.start(RING_RESET, form)
    rig.add(1, HELLO)
    rig.serve()
    rig.add(1, HELLO)
    select(rig, 1)

    rig.driver.write(0xC0, 1)
    poisoned = poison_queue(rig, 1)
    rig.kick(1)
    rig.serve()
    device.finish()

    assert queue_memory(rig, 1) == poisoned
    assert rig.line.edges == 0
    assert rig.driver.status == 0x0F


@pytest.mark.spec("MMIO-36")
def test_reset_queue_works_again_with_another_size_and_place(
    form: Form, make_rig: RigMaker
) -> None:
    rig = make_rig(Gadget(ring_features=EVERY_RING))
    rig.negotiate(RING_RESET, form)
    rig.add_queue(0, form=form, size=256)
    rig.driver.go_live()
    rig.request(0, HELLO)
    answers = []

    for size, base in ((64, 0x30_0000), (256, 0x20_0000), (16, 0x10_0000)):
        select(rig, 0)
        rig.driver.write(0xC0, 1)
        ring = rig.rings[0] = form.ring(rig.memory, size, base=base)
        assert rig.driver.set_up_queue(0, *ring.layout)
        answers += [rig.request(0, HELLO).data for _ in range(70)]

    assert answers == [b"hello"] * 210


@pytest.mark.spec("MMIO-36")
def test_reset_of_one_queue_leaves_another_and_what_it_holds_alone(
    form: Form, make_rig: RigMaker
) -> None:
    device = Gadget(ring_features=EVERY_RING)
    rig = make_rig(device)
    rig.start(RING_RESET, form)
    tokens = [rig.add(1, HELLO), rig.add(1, HELLO)]
    rig.serve()
    select(rig, 0)

    rig.driver.write(0xC0, 1)
    device.finish()

    assert [used.token for used in rig.rings[1].collect()] == tokens
    assert rig.driver.interrupt_status == 1
    select(rig, 1)
    assert rig.driver.read(0x44) == 1


@pytest.mark.spec("MMIO-37")
@pytest.mark.parametrize(
    ("features", "value"),
    [(0, 1), (0, 0), (RING_RESET, 0), (RING_RESET, 2), (RING_RESET, 0xFFFF_FFFF)],
    ids=["not-negotiated", "not-negotiated-0", "0", "2", "all"],
)
def test_queue_reset_is_ignored_without_the_feature_or_the_value_one(
    gadget: Rig, features: int, value: int
) -> None:
    gadget.start(features)
    select(gadget, 0)

    gadget.driver.write(0xC0, value)

    assert (gadget.driver.read(0xC0), gadget.driver.read(0x44)) == (0, 1)
    assert gadget.request(0, HELLO).data == b"hello"


@pytest.mark.spec("MMIO-37")
def test_queue_reset_is_ignored_before_features_ok(gadget: Rig) -> None:
    gadget.driver.status = 0x03
    gadget.driver.accept_features(1 << 32 | RING_RESET)
    gadget.driver.write(0x38, 4)

    gadget.driver.write(0xC0, 1)

    assert gadget.transport.state().queues[0].registers.size == 4
