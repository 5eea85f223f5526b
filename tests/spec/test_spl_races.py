"""Both forms of the queue against a driver that runs at the same time, in another process."""

import functools
import itertools
import struct
import time
from collections.abc import Callable, Iterable

import pytest

from tests.spec.races import (
    Outcome,
    Race,
    SharedMemory,
    race_c,
    race_python,
)
from tests.spec.rig import PACKED, SPLIT, Form
from tests.spec.rings import AVAIL, EVENT_IDX, INDIRECT, INDIRECT_DESC, NEXT, WRITE
from tests.spec.scribbling import Scribble, Scribbler, address_of
from tests.spec.stepping import CannotTrace, Places, Step, fence_is_locked, layout_of, watch
from virtio.errors import DriverError
from virtio.testing import Segment
from virtio.virtqueue.chain import DescriptorChain
from virtio.virtqueue.queue import Queue

FEATURES = pytest.mark.parametrize("features", [0, EVENT_IDX], ids=["plain", "event-idx"])


# A driver in another process


@pytest.mark.spec("SPL-08", "SPL-32", "SPL-33", "PKD-05", "PKD-07", "PKD-22")
@FEATURES
def test_a_racing_driver_sees_no_torn_index_and_every_answer_when_it_is_told(
    form: Form, features: int
) -> None:
    outcome = race_c(Race(form, 5000, size=7 + (form is SPLIT), features=features, spins=1 << 20))
    assert (outcome.done, outcome.torn, outcome.wrong) == (5000, 0, 0)


@pytest.mark.spec("SPL-08", "PKD-05", "PKD-22")
@FEATURES
def test_requests_made_available_in_bursts_are_all_read_as_they_were_written(
    form: Form, features: int
) -> None:
    outcome = race_c(Race(form, 5000, size=16, window=8, features=features))
    assert (outcome.done, outcome.torn, outcome.wrong) == (5000, 0, 0)


@pytest.mark.spec("SPL-41", "SPL-43", "SPL-44", "PKD-20", "PKD-22")
@FEATURES
@pytest.mark.parametrize("spins", [0, 2000, 100_000])
def test_no_wake_up_is_lost_between_two_processes(form: Form, features: int, spins: int) -> None:
    outcome = race_c(Race(form, 2000, features=features, spins=spins))
    assert (outcome.done, outcome.torn, outcome.wrong) == (2000, 0, 0)
    assert outcome.kicks + outcome.sleeps > 0


@pytest.mark.spec("SPL-32", "SPL-41", "SPL-44", "PKD-07", "PKD-20", "PKD-22")
@FEATURES
def test_no_wake_up_is_lost_to_a_driver_in_python(form: Form, features: int) -> None:
    outcome = race_python(Race(form, 500, window=4, features=features, spins=20))
    assert outcome == Outcome(500, 0, 0, outcome.kicks, outcome.sleeps)


# Every access to the rings, one by one


def places(form: Form) -> tuple[Places, Places]:
    """Return what to watch for loads of the first chain, and for stores."""
    layout = layout_of(form)
    ring, avail, used = layout.descriptor_area, layout.driver_area, layout.device_area
    if form is SPLIT:
        descriptor = ring + 16 * 7
        loads = [(avail + 2, 2), (avail + 4 + 2 * 7, 2), (descriptor, 8), (descriptor + 8, 8)]
        return loads, [(used, 4), (used + 4 + 8 * 8, 4), (used + 60, 4), (used + 64, 4)]
    entry = ring + 16 * 6
    loads = [(entry + 14, 2), (entry, 8), (entry + 8, 4), (entry + 12, 2)]
    return loads, [(used, 4), *((ring + 16 * slot + 8, 8) for slot in (6, 7, 0))]


@functools.cache
def accesses(form: Form, features: int) -> dict[str, Step]:
    try:
        return watch(form, features, *places(form))
    except CannotTrace as error:
        pytest.skip(f"processes cannot be traced here: {error}")


@pytest.mark.spec("SPL-08", "SPL-09", "PKD-05", "PKD-22")
@FEATURES
def test_index_slot_and_descriptor_are_loaded_once_each_in_this_order(
    form: Form, features: int
) -> None:
    hits = accesses(form, features)["take"].hits
    # The first place, index or flags, in one load; then one for each field, or for each byte.
    assert [place for place, _ in itertools.groupby(hits)] == [0, 1, 2, 3]
    assert hits.count(0) == 1
    assert hits.count(1) in {1, 8}
    assert hits.count(2) in {1, 4, 8}
    assert hits.count(3) in {1, 2, 3, 8}


@pytest.mark.spec("SPL-33")
@pytest.mark.parametrize(
    ("features", "flags", "events"), [(0, [0, 1, 0], [0]), (EVENT_IDX, [0], [0xFF, 0x102])]
)
def test_split_indices_and_flags_take_no_value_on_the_way(
    features: int, flags: list[int], events: list[int]
) -> None:
    used = layout_of(SPLIT).device_area
    steps = accesses(SPLIT, features).values()
    assert changes(steps, used) == flags
    assert changes(steps, used + 2) == [0x00FF, 0x0102]
    assert changes(steps, used + 4 + 8 * 8) == events


@pytest.mark.spec("SPL-33", "PKD-07", "PKD-20", "PKD-22")
@pytest.mark.parametrize(
    ("features", "flags", "events"), [(0, [0, 1, 0], [0]), (EVENT_IDX, [2, 1, 2], [0x8006, 0x0001])]
)
def test_packed_flags_take_no_value_on_the_way(
    features: int, flags: list[int], events: list[int]
) -> None:
    layout = layout_of(PACKED)
    steps = accesses(PACKED, features).values()
    assert changes(steps, layout.device_area) == events
    assert changes(steps, layout.device_area + 2) == flags
    entries = [changes(steps, layout.descriptor_area + 16 * slot + 14) for slot in (6, 7, 0)]
    assert entries == [[0x0082, 0x8082], [0x0082, 0x8082], [0x8002, 0x0002]]


def changes(steps: Iterable[Step], address: int) -> list[int]:
    """Return the values that a 16-bit field took over all calls."""
    values = [value for step in steps for value in step.values(address)]
    return [value for value, _ in itertools.groupby(values)]


@pytest.mark.spec("SPL-32")
@FEATURES
def test_elements_and_data_are_there_when_the_index_moves(features: int) -> None:
    used = layout_of(SPLIT).device_area
    state = accesses(SPLIT, features)["use"].first_with(used + 2, 0x0102)
    elements = [struct.unpack_from("<II", state, used + 4 + 8 * slot) for slot in (7, 0, 1)]
    assert elements == [(7, 4), (0, 5), (1, 6)]
    assert [state.count(data) for data in (b"answ\0", b"answe\0", b"answer\0")] == [1, 1, 1]


@pytest.mark.spec("SPL-32", "PKD-07", "PKD-21", "PKD-22")
@FEATURES
def test_the_first_entry_of_a_batch_is_shown_last_with_all_of_it_there(features: int) -> None:
    ring = layout_of(PACKED).descriptor_area
    state = accesses(PACKED, features)["use"].first_with(ring + 16 * 6 + 14, 0x8082)
    entries = [struct.unpack_from("<IHH", state, ring + 16 * slot + 8) for slot in (6, 7, 0)]
    assert [(length, flags) for length, _, flags in entries] == [
        (4, 0x8082),
        (5, 0x8082),
        (6, 0x0002),
    ]
    assert len({identifier for _, identifier, _ in entries}) == 3
    assert [state.count(data) for data in (b"answ\0", b"answe\0", b"answer\0")] == [1, 1, 1]


@pytest.mark.spec("PKD-07")
@pytest.mark.parametrize(
    ("slot", "length", "flags"), [(6, 4, b"\x82\x80"), (7, 5, b"\x82\x80"), (0, 6, b"\2\0")]
)
def test_length_and_id_of_a_used_entry_are_there_before_its_flags(
    slot: int, length: int, flags: bytes
) -> None:
    entry = layout_of(PACKED).descriptor_area + 16 * slot
    step = accesses(PACKED, 0)["use"]
    shown = [state for state in step.states if state[entry + 14 : entry + 16] == flags]
    [(told, _)] = {struct.unpack_from("<IH", state, entry + 8) for state in shown}
    assert told == length


@pytest.mark.spec("SPL-41", "SPL-44", "PKD-20", "PKD-22")
def test_the_barrier_executes_a_locked_instruction() -> None:
    try:
        assert fence_is_locked()
    except CannotTrace as error:
        pytest.skip(f"processes cannot be traced here: {error}")


# A driver that rewrites what the device reads

GOOD, OTHER, TABLE = 0x20000, 0x30000, 0x10000
END = 1 << 20


def split_scribbles(layout_ring: int, layout_avail: int) -> list[Scribble]:
    meta = [
        length | flags << 32 | following << 48
        for length, flags, following in [
            (16, WRITE, 0),
            (4096, WRITE, 0),
            (0xFFFF_FFFF, WRITE, 0),
            (8, NEXT, 0),
            (8, NEXT, 9),
            (32, INDIRECT, 0),
        ]
    ]
    return [
        (layout_ring, "Q", [GOOD, OTHER, TABLE, END - 16, 1 << 40]),
        (layout_ring + 8, "Q", meta),
        (layout_avail + 4, "H", [0] * 8 + [8, 0xFFFF]),
        (TABLE + 8, "Q", [16 | WRITE << 32, 16 | (WRITE | NEXT) << 32 | 1 << 48, 16 | 4 << 32]),
    ]


def packed_scribbles(layout_ring: int) -> list[Scribble]:
    meta = [
        length | flags << 48
        for length, flags in [
            (16, WRITE | AVAIL),
            (4096, WRITE | AVAIL),
            (0xFFFF_FFFF, WRITE | AVAIL),
            (8, NEXT | AVAIL),
            (8, WRITE | NEXT | AVAIL),
            (32, INDIRECT | AVAIL),
        ]
    ]
    return [
        (layout_ring, "Q", [GOOD, OTHER, TABLE, END - 16, 1 << 40]),
        (layout_ring + 8, "Q", meta),
        (layout_ring + 16 + 8, "Q", [8 | (WRITE | AVAIL) << 48, 16, 8 | AVAIL << 48]),
        (TABLE + 8, "Q", [16 | WRITE << 48, 16, 4096 | WRITE << 48]),
    ]


def outcome_of_a_pop(queue: Queue, check: Callable[[DescriptorChain], None]) -> str:
    try:
        chain = queue.pop()
    except DriverError as error:
        return error.item
    assert chain is not None
    check(chain)
    return "chain"


@pytest.mark.spec("SPL-09", "PKD-22")
def test_descriptors_rewritten_meanwhile_make_a_chain_or_an_error_never_a_mix(form: Form) -> None:
    with SharedMemory() as memory:
        ring, queue = form.pair(memory, 8, INDIRECT_DESC)
        layout = queue.layout
        ring.add_segments([Segment(GOOD, 16, True)])
        memory.view(layout.descriptor_area + 16, 8)[:] = GOOD.to_bytes(8, "little")
        memory.view(TABLE, 32)[:] = struct.pack("<QQQQ", GOOD, 16, OTHER, 16)
        scribbles = {
            "split": split_scribbles(layout.descriptor_area, layout.driver_area),
            "packed": packed_scribbles(layout.descriptor_area),
        }[form.name]
        start = address_of(memory.view(0, 1))

        def check(chain: DescriptorChain) -> None:
            copies = [(address, length) for address, length, _ in chain.descriptors if length]
            views = [address_of(view) - start for view in chain.writable]
            assert chain.head_index == 0
            assert {address for address, _ in copies} <= {GOOD, OTHER, TABLE, END - 16}
            assert [at for at, _ in copies][len(chain.readable) :] == views
            assert [n for _, n in copies] == [len(v) for v in (*chain.readable, *chain.writable)]

        with Scribbler(memory, scribbles):
            seen: dict[str, int] = {}
            deadline = time.monotonic() + 20
            while sum(seen.values()) < 3000 or not {"chain", "SPL-15"} < set(seen):
                fresh = Queue(memory, layout, queue.features)
                outcome = outcome_of_a_pop(fresh, check)
                seen[outcome] = seen.get(outcome, 0) + 1
                assert time.monotonic() < deadline, seen


@pytest.mark.spec("SPL-09", "PKD-22")
def test_a_chain_is_what_it_was_when_taken_whatever_its_descriptors_become(form: Form) -> None:
    with SharedMemory() as memory:
        ring, queue = form.pair(memory, 8)
        ring.add([b"hello"], [5])
        before = bytes(memory.view(ring.layout.descriptor_area, 16 * 8))
        [chain] = queue
        memory.view(ring.layout.descriptor_area, 16 * 8)[:] = b"\xff" * 128
        assert (chain.read(99), chain.write(b"world!")) == (b"hello", 5)
        memory.view(ring.layout.descriptor_area, 16 * 8)[:] = before
        queue.add_used(chain, 5)
        assert [(used.length, used.data) for used in ring.collect()] == [(5, b"world")]
