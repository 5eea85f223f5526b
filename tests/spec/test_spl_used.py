"""What the device gives back, in both forms: each chain once, with an honest length."""

from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from random import Random

import pytest

from tests.spec.conftest import RigMaker
from tests.spec.devices import EVERY_RING, DeviceCase, Gadget, make_block
from tests.spec.rig import SPLIT, Form, Rig
from tests.spec.rings import (
    ECHO,
    IN_ORDER,
    NEXT,
    SLOW,
    WRITE,
    content,
    gadget_of,
    go_live,
    kick,
    room,
    split_ring,
)
from virtio.memory import FlatMemory
from virtio.testing import Segment, SplitDriver
from virtio.virtqueue.chain import DescriptorChain

MAP_NORESERVE = 0x4000
POISONS = (0x00, 0xFF, 0xA5, 0x5A)


def held(rig: Rig, count: int, index: int = SLOW) -> list[DescriptorChain]:
    """Make chains available on the queue that holds, and return what the device has of them."""
    for _ in range(count):
        rig.rings[index].add([], [4])
    kick(rig, index)
    return list(gadget_of(rig).held)


# The used length


@pytest.mark.spec("SPL-34", "PKD-22")
@pytest.mark.parametrize("extra", [0, 1, 100])
def test_the_used_length_counts_bytes_that_were_written(
    make_rig: RigMaker, device_case: DeviceCase, form: Form, extra: int
) -> None:
    rig = make_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    readable, writable = device_case.request
    runs = [
        answer(rig, device_case.queue, readable[0] if readable else b"", sum(writable), extra, fill)
        for fill in POISONS
    ]
    [length] = {length for length, _ in runs}
    untouched = [
        all(data[at] == fill for (_, data), fill in zip(runs, POISONS, strict=True))
        for at in range(length)
    ]
    assert not any(untouched)


def answer(
    rig: Rig, index: int, data: bytes, length: int, extra: int, fill: int
) -> tuple[int, bytes]:
    """Send a chain with ``extra`` bytes of room at its end; return used length and room after."""
    ring = rig.rings[index]
    head = ring.arena.allocate(len(data) + 1)
    ring.write_bytes(head, data)
    space = room(rig, length + extra, fill, index)
    ring.add_segments([Segment(head, len(data), False), space])
    kick(rig, index)
    [used] = ring.collect()
    return used.length, content(rig, space)


@pytest.mark.spec("SPL-34", "PKD-22")
@pytest.mark.parametrize(("space", "length"), [(0, 0), (1, 1), (4, 4), (5, 5), (6, 5), (64, 5)])
def test_the_used_length_is_what_fitted_and_the_rest_is_untouched(
    make_rig: RigMaker, form: Form, space: int, length: int
) -> None:
    rig = go_live(make_rig, form)
    used = rig.request(ECHO, ((b"hello",), (space,)))
    assert used.length == length
    assert used.data == b"hello"[:length] + b"\xa5" * (space - length)


@pytest.mark.spec("SPL-34", "PKD-22")
def test_a_device_that_claims_more_than_there_was_room_for_is_stopped(
    make_rig: RigMaker, form: Form, caplog: pytest.LogCaptureFixture
) -> None:
    class Boaster(Gadget):
        def extraq(self, chain: DescriptorChain) -> int:
            return 5

    rig = make_rig(Boaster(ring_features=EVERY_RING))
    rig.start(0b11, form)
    rig.add(2, ((b"x",), (4,)))
    rig.serve()
    assert rig.rings[2].collect() == []
    assert rig.driver.status & 0x40
    assert "5 bytes written, room for 4" in caplog.text


@pytest.mark.spec("SPL-34", "SPL-14")
def test_a_chain_of_4_gib_is_told_as_one_byte_less() -> None:
    ram = memoryview(mmap(-1, 4 << 30, flags=MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE))
    driver, queue = SPLIT.pair(FlatMemory([(0, ram)]))
    assert isinstance(driver, SplitDriver)
    driver.add_segments([Segment(0, 1 << 31, True), Segment(0, 1 << 31, True)])
    [chain] = queue
    queue.add_used(chain, 1 << 32)
    assert driver.used_element(0) == (0, 0xFFFF_FFFF)


# Which chain


@pytest.mark.spec("SPL-35")
def test_the_used_id_is_the_head_of_the_chain_in_32_bits(make_rig: RigMaker) -> None:
    rig = go_live(make_rig)
    ring = split_ring(rig)
    ring.memory.view(ring.layout.device_area + 4, 8 * 8)[:] = b"\xff" * 64
    ring.write_descriptor(5, 0x8000, 3, NEXT, 2)
    ring.write_descriptor(2, 0x9000, 4, WRITE, 0)
    ring.write_descriptor(7, 0x9000, 2, WRITE, 0)
    ring.expose(7)
    ring.expose(5)
    kick(rig)
    assert [ring.used_element(0), ring.used_element(1)] == [(7, 0), (5, 3)]


@pytest.mark.spec("SPL-36", "PKD-22")
@pytest.mark.parametrize("seed", range(5))
def test_chains_completed_in_any_order_come_back_once_each(
    make_rig: RigMaker, form: Form, seed: int
) -> None:
    rig = go_live(make_rig, form)
    random, sent, returned = Random(seed), 0, []
    for _ in range(50):
        count = 8 - rig.rings[SLOW].in_flight
        sent += count
        chains = held(rig, count)
        random.shuffle(chains)
        done = random.randint(1, len(chains))
        for chain in chains[:done]:
            chain.complete(chain.write(b"done"))
        gadget_of(rig).held = chains[done:]
        used = rig.rings[SLOW].collect()
        assert [(one.length, one.data) for one in used] == [(4, b"done")] * done
        returned += [one.token for one in used]
    gadget_of(rig).finish()
    returned += [used.token for used in rig.rings[SLOW].collect()]
    assert sorted(returned) == list(range(sent))


@pytest.mark.spec("SPL-36", "PKD-22")
def test_requests_that_fail_come_back_once_each_among_those_that_do_not(
    make_rig: RigMaker, form: Form
) -> None:
    rig = make_rig(make_block(ring_features=EVERY_RING))
    rig.start(form=form, size=64)
    good, bad_type = bytes(16), b"\x99" * 16
    requests = [
        ([good], [512, 1]),
        ([bad_type], [512, 1]),
        ([good], []),
        ([], [1]),
        ([b"short"], [1]),
        ([good[:8] + b"\xff" * 8], [512, 1]),
    ]
    tokens = [rig.rings[0].add(*request) for request in requests * 4]
    kick(rig, 0)
    used = rig.rings[0].collect()
    assert sorted(one.token for one in used) == tokens
    assert [one.length for one in sorted(used)] == [513, 0, 0, 1, 1, 0] * 4
    assert [one.data[-1:] for one in sorted(used)] == [b"\0", b"\2", b"", b"\1", b"\1", b"\1"] * 4
    kick(rig, 0)
    assert rig.rings[0].collect() == []


@pytest.mark.spec("SPL-36", "PKD-22")
def test_a_chain_given_back_twice_is_an_error_of_the_device_and_written_once(
    make_rig: RigMaker, form: Form
) -> None:
    class Doubler(Gadget):
        def extraq(self, chain: DescriptorChain) -> int:
            chain.complete(0)
            return 0

    rig = make_rig(Doubler(ring_features=EVERY_RING))
    rig.start(0b11, form)
    rig.add(2, ((b"x",), ()))
    rig.serve()
    assert len(rig.rings[2].collect()) == 1
    assert rig.driver.status & 0x40


# In which order


@pytest.mark.spec("SPL-37", "PKD-16", "PKD-22")
@pytest.mark.parametrize("seed", range(5))
def test_with_in_order_chains_come_back_in_the_order_they_were_made_available(
    make_rig: RigMaker, form: Form, seed: int
) -> None:
    rig = go_live(make_rig, form, IN_ORDER)
    chains = held(rig, 8)
    order = list(range(8))
    Random(seed).shuffle(order)
    finished, returned = set(), []
    for number in order:
        chains[number].complete(1)
        finished.add(number)
        returned += [used.token for used in rig.rings[SLOW].collect()]
        due = next((n for n in range(8) if n not in finished), 8)
        assert returned == list(range(due))


@pytest.mark.spec("SPL-37")
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_driver_that_reads_only_the_last_of_a_batch_finds_all_of_it(
    make_rig: RigMaker, batch: int
) -> None:
    rig = go_live(make_rig, features=IN_ORDER)
    ring = split_ring(rig)
    for head in range(8):
        ring.write_descriptor(head, 0x8000, 4, 0)
    seen = 0
    for first in range(0, 240, batch):
        for number in range(first, first + batch):
            ring.expose(number % 8)
        kick(rig)
        # The head in any element tells that it and all chains before it are used.
        last_head, _ = ring.used_element((ring.used_idx - 1) % 8)
        seen += (last_head - seen) % 8 + 1
        assert (seen, ring.used_idx) == (first + batch, first + batch)


# And then no more


@pytest.mark.spec("SPL-38", "PKD-22")
def test_nothing_is_written_to_a_chain_that_was_given_back(
    make_rig: RigMaker, device_case: DeviceCase, form: Form
) -> None:
    rig = make_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    ring, (readable, writable) = rig.rings[device_case.queue], device_case.request
    old = [room(rig, length, index=device_case.queue) for length in writable]
    head = [Segment(ring.arena.allocate(64), len(data), False) for data in readable]
    for segment, data in zip(head, readable, strict=True):
        ring.write_bytes(segment.address, data)
    ring.add_segments([*head, *old])
    kick(rig, device_case.queue)
    assert len(ring.collect()) == 1
    for segment in old:
        ring.write_bytes(segment.address, b"\x77" * segment.length)
    for _ in range(100):
        rig.request(device_case.queue, device_case.request)
        rig.loop.advance(1)
    assert {content(rig, one) for one in old} == {b"\x77" * one.length for one in old}


@pytest.mark.spec("SPL-38", "PKD-22")
def test_a_device_that_kept_a_chain_has_no_way_to_write_to_it(
    make_rig: RigMaker, form: Form
) -> None:
    rig = go_live(make_rig, form)
    [chain] = held(rig, 1)
    chain.complete(chain.write(b"done"))
    assert (chain.writable, chain.write(b"late"), chain.split_status()) == ([], 0, None)
    assert [used.data for used in rig.rings[SLOW].collect()] == [b"done"]
