"""Several virtual CPUs at one device, and completions against acknowledgements."""

import select
import threading
from collections.abc import Callable

import pytest

from tests.spec.conftest import RigMaker
from tests.spec.devices import EVERY_RING, Gadget
from tests.spec.rig import Form, Rig
from tests.spec.threads import PATIENCE_SECONDS, Crew, wait_until
from virtio.memory import FlatMemory
from virtio.testing import QueueDriver
from virtio.virtqueue.queue import Queue

BUFFERS = 1500


class Program:
    """Register writes that follow one another for ever: each call makes the next one."""

    def __init__(self, rig: Rig, *writes: tuple[int, int]) -> None:
        self.rig = rig
        self.writes = writes
        self.position = 0

    def __call__(self) -> None:
        offset, value = self.writes[self.position % len(self.writes)]
        self.position += 1
        self.rig.driver.write(offset, value)


@pytest.mark.spec("MMIO-04")
def test_two_processors_at_the_queue_registers_leave_the_device_sound(
    form: Form, make_rig: RigMaker, rapid_switching: None
) -> None:
    rig = make_rig(Gadget(ring_features=EVERY_RING))
    rig.prepare(form=form)
    rig.driver.go_live()
    shown = set()

    def look() -> None:
        shown.add(rig.driver.read(0x44))

    with Crew() as crew:
        busy = (
            crew.repeat(Program(rig, (0x30, 0), (0x44, 0), (0x44, 1), (0x50, 0))),
            crew.repeat(Program(rig, (0x30, 1), (0x44, 1), (0x38, 8), (0x44, 0))),
            crew.repeat(look),
            crew.repeat(rig.serve),
        )
        wait_until(lambda: min(one.done for one in busy) > 300)

    queues = rig.transport.state().queues
    assert shown <= {0, 1}
    assert rig.driver.status == 0x0F
    assert [one.registers.ready for one in queues] == [one.queue is not None for one in queues]
    rig.start(form=form)
    assert rig.request(0, ((b"sound",), (5,))).data == b"sound"


class GatedMemory(FlatMemory):
    """Guest RAM whose views are handed out only when ``gate`` is open; ``asked`` says for one."""

    def __init__(self) -> None:
        super().__init__([(0, bytearray(4 << 20))])
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Event()

    def view(self, address: int, length: int) -> memoryview:
        self.asked.set()
        self.gate.wait(PATIENCE_SECONDS)
        return super().view(address, length)


class CountingGadget(Gadget):
    """Counts how often it got a queue while it was live."""

    enabled = 0

    def enable_queue(self, index: int, queue: Queue) -> None:
        self.enabled += 1
        super().enable_queue(index, queue)


@pytest.mark.spec("MMIO-04", "MMIO-14")
def test_queue_that_two_processors_enable_at_once_is_made_once(make_rig: RigMaker) -> None:
    memory, device = GatedMemory(), CountingGadget()
    rig = make_rig(device, memory)
    rig.start()
    rig.driver.write(0x30, 0)
    rig.driver.write(0x44, 0)
    rig.add_ring(0)
    memory.asked.clear()
    memory.gate.clear()

    with Crew() as crew:
        crew.run(lambda: rig.driver.write(0x44, 1))
        wait_until(memory.asked.is_set)
        crew.run(lambda: rig.driver.write(0x44, 1)).join(0.05)
        memory.gate.set()

    assert device.enabled == 1
    assert rig.request(0, ((b"once",), (4,))).data == b"once"


@pytest.mark.spec("MMIO-04")
def test_halves_of_an_address_written_by_two_processors_are_both_kept(
    gadget: Rig, rapid_switching: None
) -> None:
    gadget.negotiate()
    lost: list[int] = []

    def write_high() -> None:
        for value in range(4000):
            gadget.driver.write(0x84, value)
            kept = gadget.transport.state().queues[0].registers.descriptor_area >> 32
            lost.extend([value] * (kept != value))

    with Crew() as crew:
        low = crew.repeat(Program(gadget, *((0x80, value) for value in range(1000))))
        crew.run(write_high).join()
        wait_until(lambda: low.done > 100)

    assert lost == []


@pytest.mark.spec("MMIO-04")
def test_two_processors_that_reset_and_start_a_device_leave_it_usable(
    form: Form, make_rig: RigMaker, rapid_switching: None
) -> None:
    rig = make_rig(Gadget(ring_features=EVERY_RING))
    steps = ((0x70, 0), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 0x0B), (0x44, 1), (0x70, 0x0F))

    with Crew() as crew:
        busy = (
            crew.repeat(Program(rig, *steps)),
            crew.repeat(Program(rig, *steps, (0x50, 0), (0x64, 3))),
            crew.repeat(rig.serve),
        )
        wait_until(lambda: min(one.done for one in busy) > 400)

    rig.start(form=form)
    assert rig.request(0, ((b"usable",), (6,))).data == b"usable"


def serve_notifications(rig: Rig) -> Callable[[], None]:
    """Return one round of the event loop: wait for the queues' eventfds, serve those that rang."""
    poll = select.poll()
    fds = rig.transport.notify_fds
    for fd in fds:
        poll.register(fd, select.POLLIN)

    def round() -> None:
        for fd, _ in poll.poll(20):
            rig.transport.handle_notify(fds.index(fd))

    return round


def fill(ring: QueueDriver, count: int) -> None:
    for _ in range(count):
        ring.add([b"data"], [4])


@pytest.mark.spec("MMIO-26")
def test_driver_that_acknowledges_first_and_collects_then_loses_nothing(
    form: Form, make_rig: RigMaker, rapid_switching: None
) -> None:
    rig = make_rig(Gadget(ring_features=EVERY_RING))
    rig.start(form=form, size=32)
    ring, driver = rig.rings[0], rig.driver
    collected = 0

    with Crew() as crew:
        crew.repeat(serve_notifications(rig))
        fill(ring, 8)
        driver.notify(0)
        while collected < BUFFERS:
            wait_until(lambda: driver.interrupt_status & 1)
            driver.acknowledge(1)
            used = ring.collect()
            collected += len(used)
            fill(ring, len(used))
            driver.notify(0)

    assert collected >= BUFFERS


@pytest.mark.spec("MMIO-26")
def test_configuration_interrupt_is_not_lost_in_a_storm_of_acknowledgements(
    form: Form, make_rig: RigMaker, rapid_switching: None
) -> None:
    device = Gadget(ring_features=EVERY_RING)
    rig = make_rig(device)
    rig.start(form=form, size=32)
    ring, driver = rig.rings[0], rig.driver

    def complete_and_acknowledge() -> None:
        fill(ring, 4)
        rig.serve()
        ring.collect()
        driver.notify(0)
        driver.acknowledge(1)

    with Crew() as crew:
        storm = crew.repeat(complete_and_acknowledge)
        storm.await_more(1)
        for value in range(300):
            device.counter = value
            assert driver.interrupt_status & 2
            driver.acknowledge(2)
            assert not driver.interrupt_status & 2
        storm.await_more(1)

    assert device.counter == 299


@pytest.mark.spec("MMIO-26")
def test_event_during_an_acknowledgement_leaves_the_line_up(gadget: Rig) -> None:
    device, line = gadget.device, gadget.line
    assert isinstance(device, Gadget)
    gadget.start()
    gadget.request(0, ((b"x",), (1,)))

    with Crew() as crew:

        def lower() -> None:
            crew.run(lambda: setattr(device, "counter", 5)).join(0.05)
            line.level = False

        line.lower = lower  # type: ignore[method-assign]
        gadget.driver.acknowledge(1)

    assert (gadget.driver.interrupt_status, line.level) == (2, True)
    del line.lower


@pytest.mark.spec("MMIO-24", "MMIO-26")
def test_level_and_status_agree_whenever_nothing_is_under_way(
    form: Form, make_rig: RigMaker, rapid_switching: None
) -> None:
    rig = make_rig(Gadget(ring_features=EVERY_RING))
    rig.start(form=form, size=32)
    ring, driver = rig.rings[0], rig.driver
    levels = []

    for _ in range(15):
        with Crew() as crew:
            fill(ring, 8)
            driver.notify(0)
            acknowledged = crew.repeat(lambda: driver.acknowledge(1))
            crew.run(rig.serve).join()
            acknowledged.await_more(1)
        ring.collect()
        levels.append((rig.line.level, driver.interrupt_status))

    assert levels == [(False, 0)] * 15
