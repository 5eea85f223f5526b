"""Descriptor chains in both forms of the queue: what they may be, and what is made of them."""

import mmap
import threading
import tracemalloc

import pytest

from tests.spec.conftest import RigMaker
from tests.spec.devices import CASES, EVERY_RING, DeviceCase, Gadget
from tests.spec.rig import Form, Rig
from tests.spec.rings import (
    ECHO,
    INDIRECT_DESC,
    SLOW,
    break_ring,
    content,
    go_live,
    kick,
    place,
    room,
)
from virtio.device.declaration import queue
from virtio.memory import FlatMemory
from virtio.testing import Segment, flat_memory
from virtio.virtqueue.chain import DescriptorChain

GIB = 1 << 30
MAP_NORESERVE = 0x4000
REPEATABLE = [case for case in CASES if case.name != "entropy"]


def case_id(case: DeviceCase) -> str:
    return case.name


@pytest.fixture(scope="module")
def four_gib() -> FlatMemory:
    """RAM of 4 GiB, none of which is there until it is touched."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    return FlatMemory([(0, memoryview(mmap.mmap(-1, 4 * GIB, flags=flags)))])


# How long a chain is


@pytest.mark.spec("SPL-14", "PKD-22")
@pytest.mark.parametrize(
    ("lengths", "broken"),
    [
        ([0xFFFF_FFFF, 1], False),
        ([2 * GIB, 2 * GIB], False),
        ([0xFFFF_FFFF, 2], True),
        ([2 * GIB, 2 * GIB, 1], True),
        ([0xFFFF_FFFF] * 8, True),
    ],
)
def test_a_chain_of_over_4_gib_breaks_the_ring_and_costs_no_memory(
    make_rig: RigMaker, form: Form, four_gib: FlatMemory, lengths: list[int], broken: bool
) -> None:
    rig = go_live(make_rig, form, memory=four_gib)
    rig.rings[SLOW].add_segments([Segment(0, length, True) for length in lengths])
    tracemalloc.start()
    kick(rig, SLOW)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bool(rig.driver.status & 0x40) is broken
    assert peak < 1 << 20


@pytest.mark.spec("SPL-14", "PKD-22")
def test_segments_that_claim_more_than_there_is_cost_no_memory(
    make_rig: RigMaker, form: Form
) -> None:
    rig = go_live(make_rig, form, INDIRECT_DESC)
    segments = [Segment(0x8000, 0xFFFF_FFFF, False)] * 1000
    rig.rings[ECHO].add_segments(segments, indirect=True)
    tracemalloc.start()
    kick(rig)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rig.driver.status & 0x40
    assert peak < 1 << 20


# Where segments are

END = 4 << 20
OUTSIDE = {
    "hole": (0xD000_0000, 16),
    "at-the-end": (END, 1),
    "across-the-end": (END - 8, 9),
    "far-too-long": (0x8000, 0xFFFF_FFFF),
    "wraps": ((1 << 64) - 8, 16),
    "wraps-to-the-start": ((1 << 64) - 1, 2),
}


@pytest.mark.spec("SPL-15", "PKD-22")
@pytest.mark.parametrize("writable", [False, True], ids=["readable", "writable"])
@pytest.mark.parametrize(("address", "length"), OUTSIDE.values(), ids=OUTSIDE)
def test_a_segment_not_inside_ram_breaks_the_ring_before_any_access(
    make_rig: RigMaker,
    caplog: pytest.LogCaptureFixture,
    form: Form,
    address: int,
    length: int,
    writable: bool,
) -> None:
    rig = go_live(make_rig, form)
    good = [place(rig, b"hello"), room(rig, 16)]
    good.insert(1 + writable, Segment(address, length, writable))
    rig.rings[ECHO].add_segments(good)
    break_ring(rig, "SPL-15", caplog)


@pytest.mark.spec("SPL-15", "PKD-22")
def test_a_segment_may_be_the_last_bytes_of_ram(make_rig: RigMaker, form: Form) -> None:
    rig = go_live(make_rig, form)
    last = Segment(END - 8, 8, True)
    rig.rings[ECHO].add_segments([place(rig, b"farewell"), last])
    kick(rig)
    assert content(rig, last) == b"farewell"


@pytest.mark.spec("SPL-15", "PKD-22")
def test_a_segment_may_span_adjacent_regions(make_rig: RigMaker, form: Form) -> None:
    memory = flat_memory((0, END), (END, 0x1000), (END + 0x1000, 0x1000))
    rig = go_live(make_rig, form, memory=memory)
    message = bytes(range(256)) * 17
    memory.view(END - 8, 8)[:] = message[:8]
    memory.view(END, 0x1000)[:] = message[8 : 8 + 0x1000]
    memory.view(END + 0x1000, 248)[:] = message[8 + 0x1000 :]
    spanning = Segment(END - 8, len(message), False)
    copy = room(rig, len(message))
    rig.rings[ECHO].add_segments([spanning, copy])
    rig.rings[ECHO].add_segments([copy._replace(writable=False), spanning._replace(writable=True)])
    kick(rig)
    assert [used.length for used in rig.rings[ECHO].collect()] == [len(message)] * 2
    assert content(rig, copy) == message
    assert b"".join(memory.views(END - 8, len(message))) == message


@pytest.mark.spec("SPL-15", "PKD-22")
def test_regions_with_a_gap_between_them_are_not_adjacent(make_rig: RigMaker, form: Form) -> None:
    memory = flat_memory((0, END), (END + 1, 0x1000))
    rig = go_live(make_rig, form, memory=memory)
    rig.rings[ECHO].add_segments([Segment(END - 8, 16, False)])
    kick(rig)
    assert rig.driver.status & 0x40


# Which segments there are


@pytest.mark.spec("SPL-16", "PKD-22")
@pytest.mark.parametrize("position", range(5))
@pytest.mark.parametrize("address", [0x8000, END, (1 << 64) - 1], ids=["ram", "end", "last"])
def test_an_empty_segment_changes_nothing_wherever_it_is(
    make_rig: RigMaker, form: Form, position: int, address: int
) -> None:
    rig = go_live(make_rig, form)
    answer = [room(rig, 3), room(rig, 2)]
    segments = [place(rig, b"he"), place(rig, b"llo"), *answer]
    segments.insert(position, Segment(address, 0, position > 2))
    rig.rings[ECHO].add_segments(segments)
    kick(rig)
    [used] = rig.rings[ECHO].collect()
    assert used.length == 5
    assert [content(rig, one) for one in answer] == [b"hel", b"lo"]


@pytest.mark.spec("SPL-16", "PKD-22")
@pytest.mark.parametrize("writable", [False, True])
def test_a_chain_of_nothing_but_an_empty_segment_comes_back(
    make_rig: RigMaker, form: Form, writable: bool
) -> None:
    rig = go_live(make_rig, form)
    rig.rings[ECHO].add_segments([Segment(0, 0, writable)])
    kick(rig)
    assert [used.length for used in rig.rings[ECHO].collect()] == [0]


@pytest.mark.spec("SPL-16", "PKD-22")
def test_empty_segments_around_and_between_change_no_answer(
    make_rig: RigMaker, device_case: DeviceCase, form: Form
) -> None:
    rig = start(make_rig, device_case, form)
    readable, writable = device_case.request
    spaced_out = [data for one in readable for data in (one, b"")]
    rooms = [length for one in writable for length in (one, 0)]
    length, _, _ = run(rig, device_case, [b"", *spaced_out], [0, *rooms])
    assert length == device_case.answer


@pytest.mark.spec("SPL-17", "PKD-22")
@pytest.mark.parametrize("order", ["WR", "RWR", "WWRW"])
def test_readable_after_writable_breaks_the_ring(
    make_rig: RigMaker, caplog: pytest.LogCaptureFixture, form: Form, order: str
) -> None:
    rig = go_live(make_rig, form)
    make = {"R": lambda: place(rig, b"secret"), "W": lambda: room(rig, 6)}
    rig.rings[ECHO].add_segments([make[kind]() for kind in order])
    break_ring(rig, "SPL-17", caplog)


# What is done with them


def start(make_rig: RigMaker, case: DeviceCase, form: Form) -> Rig:
    rig = make_rig(case.make(ring_features=EVERY_RING))
    rig.start(INDIRECT_DESC, form, size=16)
    return rig


def run(
    rig: Rig, case: DeviceCase, readable: list[bytes], writable: list[int], fill: int = 0xA5
) -> tuple[int, bytes, bytes]:
    """Send a chain cut like this; return used length, readable and writable bytes after it."""
    index = case.queue
    segments = [place(rig, data, index) for data in readable]
    segments += [room(rig, length, fill, index) for length in writable]
    owned = [segment.address for segment in segments]
    rig.rings[index].add_segments(segments, indirect=True, owned=owned)
    kick(rig, index)
    [used] = rig.rings[index].collect()
    after = [content(rig, segment) for segment in segments]
    return used.length, b"".join(after[: len(readable)]), b"".join(after[len(readable) :])


@pytest.mark.spec("SPL-18", "PKD-22")
def test_readable_segments_are_as_before(
    make_rig: RigMaker, device_case: DeviceCase, form: Form
) -> None:
    rig = start(make_rig, device_case, form)
    readable, writable = device_case.request
    _, after, _ = run(rig, device_case, list(readable), list(writable))
    assert after == b"".join(readable)


@pytest.mark.spec("SPL-18", "PKD-22")
def test_a_device_that_tries_to_write_to_readable_segments_fails(
    make_rig: RigMaker, form: Form
) -> None:
    class Vandal(Gadget):
        def extraq(self, chain: DescriptorChain) -> int:
            chain.readable[0][:5] = b"gotme"
            return 0

    rig = make_rig(Vandal(ring_features=EVERY_RING))
    rig.start(0b11, form)
    segment = place(rig, b"hello", 2)
    rig.rings[2].add_segments([segment])
    kick(rig, 2)
    assert (content(rig, segment), rig.driver.status & 0x40) == (b"hello", 0x40)


@pytest.mark.spec("SPL-18", "PKD-22")
@pytest.mark.parametrize("case", REPEATABLE, ids=case_id)
def test_what_writable_segments_held_makes_no_difference(
    make_rig: RigMaker, case: DeviceCase, form: Form
) -> None:
    rig = start(make_rig, case, form)
    readable, writable = case.request
    answers = {
        run(rig, case, list(readable), list(writable), fill)[2][: case.answer]
        for fill in (0x00, 0x01, 0x7F, 0xFF)
    }
    assert len(answers) == 1


@pytest.mark.spec("SPL-19", "PKD-22")
@pytest.mark.parametrize("case", REPEATABLE, ids=case_id)
def test_the_readable_part_may_be_cut_at_every_byte(
    make_rig: RigMaker, case: DeviceCase, form: Form
) -> None:
    rig = start(make_rig, case, form)
    data, writable = b"".join(case.request[0]), list(case.request[1])
    whole = run(rig, case, [data], writable)
    assert whole[0] == case.answer
    for cut in range(1, len(data)):
        assert run(rig, case, [data[:cut], data[cut:]], writable) == whole


@pytest.mark.spec("SPL-19", "PKD-22")
@pytest.mark.parametrize("case", REPEATABLE, ids=case_id)
def test_the_writable_part_may_be_cut_at_every_byte(
    make_rig: RigMaker, case: DeviceCase, form: Form
) -> None:
    rig = start(make_rig, case, form)
    readable, total = list(case.request[0]), sum(case.request[1])
    whole = run(rig, case, readable, [total])
    assert whole[0] == case.answer
    for cut in range(1, total):
        assert run(rig, case, readable, [cut, total - cut]) == whole


@pytest.mark.spec("SPL-19", "PKD-22")
def test_every_byte_may_be_a_segment_of_its_own(
    make_rig: RigMaker, device_case: DeviceCase, form: Form
) -> None:
    rig = start(make_rig, device_case, form)
    data, total = b"".join(device_case.request[0]), sum(device_case.request[1])
    length, _, _ = run(rig, device_case, [bytes([byte]) for byte in data], [1] * total)
    assert length == device_case.answer


@pytest.mark.spec("SPL-19", "PKD-22")
def test_one_segment_may_hold_the_whole_readable_part(
    make_rig: RigMaker, device_case: DeviceCase, form: Form
) -> None:
    rig = start(make_rig, device_case, form)
    data, total = b"".join(device_case.request[0]), sum(device_case.request[1])
    length, _, _ = run(rig, device_case, [data], [total])
    assert length == device_case.answer


@pytest.mark.spec("SPL-20", "PKD-22")
@pytest.mark.parametrize(("count", "broken"), [(1024, False), (1025, True), (4096, True)])
def test_a_chain_may_have_1024_descriptors(
    make_rig: RigMaker, form: Form, count: int, broken: bool
) -> None:
    rig = go_live(make_rig, form, INDIRECT_DESC)
    rig.rings[ECHO].add_segments([Segment(0x8000, 1, False)] * count, indirect=True)
    kick(rig)
    assert bool(rig.driver.status & 0x40) is broken
    assert len(rig.rings[ECHO].collect()) == (not broken)


# How much work a driver can cause


class Treadmill(Gadget):
    """A gadget whose driver makes a new request available for each one that is served."""

    rig: Rig
    served = 0

    @queue(size=256)
    def echoq(self, chain: DescriptorChain) -> int:
        self.served += 1
        ring = self.rig.rings[ECHO]
        ring.collect()
        ring.add([], [4])
        return 0


def treadmill(make_rig: RigMaker, form: Form) -> tuple[Rig, Treadmill]:
    device = Treadmill(ring_features=EVERY_RING)
    rig = device.rig = make_rig(device)
    rig.negotiate(form=form)
    rig.add_queue(ECHO, form=form, size=256)
    rig.add_queue(SLOW, form=form)
    rig.driver.go_live()
    for _ in range(192):
        rig.rings[ECHO].add([], [4])
    rig.driver.notify(ECHO)
    return rig, device


@pytest.mark.spec("SPL-23", "PKD-22")
def test_a_ring_that_refills_itself_gives_other_queues_their_turn(
    make_rig: RigMaker, form: Form
) -> None:
    rig, device = treadmill(make_rig, form)
    rig.transport.handle_notify(ECHO)
    burst = device.served
    assert burst <= 64
    rig.add(SLOW, ([b"x"], []))
    rig.transport.handle_notify(SLOW)
    assert len(device.held) == 1
    rig.transport.handle_notify(ECHO)
    assert burst < device.served <= 2 * burst


@pytest.mark.spec("SPL-23", "PKD-22")
@pytest.mark.timeout(30)
def test_a_ring_that_refills_itself_cannot_hold_off_a_reset(make_rig: RigMaker, form: Form) -> None:
    rig, device = treadmill(make_rig, form)
    busy, stop = threading.Event(), threading.Event()

    def serve() -> None:
        while not stop.is_set():
            rig.transport.handle_notify(ECHO)
            busy.set()

    thread = threading.Thread(target=serve)
    thread.start()
    busy.wait()
    rig.driver.status = 0
    served = device.served
    stop.set()
    thread.join()
    assert (rig.driver.status, device.served) == (0, served)
