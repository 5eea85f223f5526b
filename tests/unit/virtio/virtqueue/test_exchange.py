"""A batch exchanged for the next, and frames: the same with native rings and with Python alone.

``tests/fuzz/test_queue_machine.py`` has the ordinary cases.
"""

from struct import Struct

import pytest

from virtio import Device, Request, engine, queue
from virtio.errors import DriverError, InternalError
from virtio.testing import Bench, PackedDriver, QueueDriver, Segment, SplitDriver, flat_memory
from virtio.virtqueue import queue as virtqueue
from virtio.virtqueue.batch import ChainBatch
from virtio.virtqueue.queue import Queue
from virtio.virtqueue.state import QueueLayout

RING_PACKED, IN_ORDER, VERSION_1 = 1 << 34, 1 << 35, 1 << 32
HEADER = Struct("<HI")
STATUS = 7
COPIES = 2048  # descriptors that native code takes in one call at most

every_form = pytest.mark.parametrize("form", [0, RING_PACKED], ids=["split", "packed"])
CUTS = {
    "as most drivers do": ([b"\1\0\2\0\0\0", b"data"], [6, 1]),
    "header in pieces": ([b"\1\0\2", b"\0\0", b"\0data"], [6, 1]),
    "status behind the data": ([b"\1\0\2\0\0\0data"], [7]),
    "data in pieces": ([b"\1\0\2\0\0\0", b"da", b"ta"], [2, 4, 1]),
    "status behind a part of the data": ([b"\1\0\2\0\0\0da", b"ta"], [3, 4]),
}
every_cut = pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)


@pytest.fixture(params=["rings", "python"], autouse=True)
def _engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "rings":
        pytest.importorskip("virtio.native.ring", reason="the native engine was not built")
    monkeypatch.setattr(engine, "_chosen", request.param)


def make(form: int, features: int = 0, size: int = 32) -> tuple[QueueDriver, Queue]:
    memory = flat_memory((0, 1 << 20))
    driver = (PackedDriver if form else SplitDriver)(memory, size)
    return driver, Queue(memory, QueueLayout(*driver.layout), form | features, index=3)


def first_batch(queue: Queue, limit: int = 8) -> ChainBatch:
    return queue.exchange(ChainBatch(queue), [], limit, header_bytes=HEADER.size)


# Exchange


@every_form
@pytest.mark.parametrize("made", [False, True], ids=["as a whole", "made"])
@pytest.mark.parametrize("lengths", [[4, 5], [-1, 0]])
@pytest.mark.spec("SPL-34")
def test_a_length_without_room_is_an_error_of_the_device(
    form: int, made: bool, lengths: list[int]
) -> None:
    driver, queue = make(form)
    for _ in range(2):
        driver.add([b"in"], [4])
    batch = first_batch(queue)
    if made:
        list(batch)

    with pytest.raises(InternalError, match="bytes written, room for 4"):
        queue.exchange(batch, lengths, 8)

    assert driver.collect() == []


@every_form
def test_there_is_one_length_for_each_chain(form: int) -> None:
    driver, queue = make(form)
    for _ in range(2):
        driver.add([b"in"], [4])
    batch = first_batch(queue)

    with pytest.raises(ValueError, match="1 lengths for a batch of 2 chains"):
        queue.exchange(batch, [4], 8)

    assert driver.collect() == []


@every_form
def test_a_chain_that_went_back_alone_does_not_go_back_again(form: int) -> None:
    driver, queue = make(form)
    for _ in range(2):
        driver.add([b"in"], [4])
    batch = first_batch(queue)
    batch[0].complete(4)

    with pytest.raises(InternalError, match="is given back, but the device does not have it"):
        queue.exchange(batch, [4, 4], 8)

    assert [used.length for used in driver.collect()] == [4]


@every_form
@pytest.mark.spec("SPL-37")
def test_in_order_a_batch_waits_for_a_chain_left_out_before(form: int) -> None:
    driver, queue = make(form, IN_ORDER)
    for number in range(4):
        driver.add([b"in"], [number])
    batch = first_batch(queue, 2)
    slow = batch[0]
    batch = queue.exchange(batch, [None, 1], 2)
    assert driver.collect() == []

    queue.exchange(batch, [2, 3], 2)

    assert driver.collect() == []
    slow.complete(0)
    assert [used.length for used in driver.collect()] == [0, 1, 2, 3]


@every_form
def test_a_bad_chain_comes_after_the_good_ones_and_after_what_is_given_back(form: int) -> None:
    driver, queue = make(form)
    driver.add([b"good"], [4])
    driver.add_segments([Segment(1 << 40, 8, writable=False)])
    batch = first_batch(queue)
    assert [chain.read(9) for chain in batch] == [b"good"]

    with pytest.raises(DriverError, match="SPL-15"):
        queue.exchange(batch, [4], 8)

    assert [used.length for used in driver.collect()] == [4]
    with pytest.raises(DriverError, match="SPL-15"):
        queue.exchange(ChainBatch(queue), [], 8)


@every_form
def test_nothing_is_given_back_once_the_queue_is_broken(form: int) -> None:
    driver, queue = make(form)
    driver.add([b"good"], [4])
    batch = first_batch(queue)
    driver.add_segments([Segment(1 << 40, 8, writable=False)])
    with pytest.raises(DriverError, match="SPL-15"):
        queue.pop()

    with pytest.raises(DriverError, match="SPL-15"):
        queue.exchange(batch, [4], 8)

    assert (driver.collect(), queue.completed) == ([], 0)


@every_form
def test_a_batch_of_another_turn_goes_back_all_the_same(form: int) -> None:
    driver, queue = make(form)
    for number in range(4):
        driver.add([b"in"], [number])
    first = first_batch(queue, 2)
    second = queue.exchange(ChainBatch(queue), [], 2)

    queue.exchange(first, [0, 1], 2)
    queue.exchange(second, [2, 3], 2)

    assert [used.length for used in driver.collect()] == [0, 1, 2, 3]
    assert (queue.completed, queue.bytes_read, queue.bytes_written) == (4, 8, 6)


@every_form
def test_what_is_given_back_is_counted(form: int) -> None:
    driver, queue = make(form)
    for _ in range(3):
        driver.add([b"abc"], [4])
    batch = first_batch(queue, 2)
    batch = queue.exchange(batch, [4, 1], 2)
    list(batch)

    queue.exchange(batch, [2], 0)

    assert (queue.completed, queue.bytes_read, queue.bytes_written) == (3, 9, 7)


@every_form
def test_what_was_exchanged_is_counted_before_what_is_completed(form: int) -> None:
    driver, queue = make(form)
    driver.suppress_interrupts()  # else the driver is told, and all is counted by then
    for _ in range(3):
        driver.add([b"abc"], [4])
    batch = queue.exchange(first_batch(queue, 2), [4, 1], 2)

    batch.complete([2])

    assert (queue.completed, queue.bytes_read, queue.bytes_written) == (3, 9, 7)


@every_form
def test_a_limit_may_be_larger_than_any_queue(form: int) -> None:
    driver, queue = make(form)
    for _ in range(3):
        driver.add([b"abc"], [4])

    first = queue.exchange(ChainBatch(queue), [], 1 << 40)
    driver.add([b"abc"], [4])

    assert (len(first), len(queue.pop_many(1 << 40))) == (3, 1)


@every_form
def test_only_what_is_given_back_makes_waiting_seem_worth_while(
    form: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(virtqueue, "monotonic_ns", lambda: 10**9)
    driver, queue = make(form)
    queue.poll_ns = 50_000
    driver.add([b"abc"], [4])
    batch = first_batch(queue)
    before = queue.patience()

    queue.exchange(batch, [4], 8)

    assert (before, queue.patience()) == (0, 50_000)


@every_form
def test_a_queue_that_was_reset_has_no_batches(form: int) -> None:
    driver, queue = make(form)
    driver.add([b"abc"], [4])
    batch = first_batch(queue)
    queue.reset()

    assert len(queue.exchange(batch, [4], 8)) == 0
    assert batch[0].writable == []
    assert driver.collect() == []


@every_form
def test_chains_of_many_descriptors_come_in_batches_that_have_room(form: int) -> None:
    driver, queue = make(form, size=8192)
    for _ in range(40):
        driver.add([b"x"] * 200, [])
    batch, sizes, lengths = ChainBatch(queue), list[int](), list[int | None]()

    while batch := queue.exchange(batch, lengths, 64):
        assert batch.readable_lengths == [200] * len(batch)
        sizes.append(len(batch))
        lengths = [0] * len(batch)

    assert sum(sizes) == len(driver.collect()) == 40
    if engine.current() == "rings":
        assert max(sizes) <= COPIES // 200


@every_form
def test_a_batch_that_is_out_is_saved_and_handed_out_again(form: int) -> None:
    driver, queue = make(form)
    for letter in (b"a", b"b"):
        driver.add([letter], [4])
    first_batch(queue)

    restored = Queue.from_state(queue.memory, queue.state())

    batch = first_batch(restored)
    assert [chain.read(9) for chain in batch] == [b"a", b"b"]
    assert len(restored.exchange(batch, [1, 2], 8)) == 0
    assert [used.length for used in driver.collect()] == [1, 2]


# Writing to a batch


@every_form
@pytest.mark.parametrize("taken", ["by itself", "with others"])
@pytest.mark.parametrize(
    ("given", "room", "length", "data"),
    [
        ([], [5], 5, b"parts"),
        ([], [9], 5, b"parts\xa5\xa5\xa5\xa5"),
        ([], [2, 2, 2], 5, b"parts\xa5"),
        ([], [3], 3, b"par"),
        ([b"read"], [5], 5, b"parts"),
        ([b"read", b"too"], [1, 1], 2, b"pa"),
        ([b"read"], [], 0, b""),
    ],
)
@pytest.mark.spec("SPL-19")
def test_a_part_is_written_to_each_chain_as_far_as_it_has_room(
    form: int, taken: str, given: list[bytes], room: list[int], length: int, data: bytes
) -> None:
    driver, queue = make(form)
    driver.add(given, room)
    parts = [b"parts"]
    if taken == "with others":
        driver.add([], [7])
        parts += [b"another"]
    batch = first_batch(queue)

    lengths = batch.write_each(iter(parts))
    queue.exchange(batch, lengths, 8)

    assert lengths == [length, 7][: len(parts)]
    assert [used.data for used in driver.collect()] == [data, b"another"][: len(parts)]


@every_form
def test_a_part_is_written_in_another_region(form: int) -> None:
    memory = flat_memory((0, 1 << 20), (1 << 32, 4096))
    driver = (PackedDriver if form else SplitDriver)(memory, 32)
    queue = Queue(memory, QueueLayout(*driver.layout), form)
    driver.add_segments([Segment(1 << 32, 4, True), Segment(0x8000, 4, True)])

    assert first_batch(queue).write_each([b"parts"]) == [5]

    assert bytes(memory.view(1 << 32, 4)) + bytes(memory.view(0x8000, 1)) == b"parts"


@every_form
@pytest.mark.parametrize("parts", [[], [b"a"], [b"a", b"b", b"c"]])
def test_there_is_one_part_for_each_chain(form: int, parts: list[bytes]) -> None:
    driver, queue = make(form)
    for _ in range(2):
        driver.add([], [1])

    with pytest.raises(ValueError, match="zip"):
        first_batch(queue).write_each(parts)


@every_form
@pytest.mark.parametrize("after", ["its batch", "reset"])
@pytest.mark.spec("SPL-38")
def test_nothing_is_written_to_a_batch_that_is_gone(form: int, after: str) -> None:
    driver, queue = make(form)
    driver.add([], [4])
    batch = first_batch(queue)
    if after == "reset":
        queue.reset()
    else:
        batch.complete([0])

    assert batch.write_each([b"late"]) == [0]


# Frames


@every_form
@every_cut
@pytest.mark.spec("SPL-19", "BLK-04")
def test_a_frame_is_the_same_however_the_driver_cuts_it(
    form: int, cut: tuple[list[bytes], list[int]]
) -> None:
    driver, queue = make(form)
    driver.add(*cut)
    batch = first_batch(queue)
    [frame] = batch.requests(HEADER)

    assert frame.header == (1, 2)
    assert (b"".join(frame.data_out), frame.data_out_bytes) == (b"data", 4)
    assert (sum(map(len, frame.data_in)), frame.data_in_bytes) == (6, 6)
    assert frame.write(b"answers") == 6
    assert frame.queue_index == 3
    queue.exchange(batch, [frame.finish(STATUS, 6)], 8)
    [used] = driver.collect()
    assert (used.length, used.data) == (7, b"answer" + bytes([STATUS]))


@every_form
@pytest.mark.parametrize("elsewhere", ["header", "data", "status"])
def test_a_frame_with_a_part_in_another_region(form: int, elsewhere: str) -> None:
    memory = flat_memory((0, 1 << 20), (1 << 32, 4096))
    driver = (PackedDriver if form else SplitDriver)(memory, 32)
    queue = Queue(memory, QueueLayout(*driver.layout), form)
    at = {name: 0x80000 + 0x100 * n for n, name in enumerate(("header", "data", "status"))}
    at[elsewhere] += (1 << 32) - 0x80000
    memory.view(at["header"], 6)[:] = b"\1\0\2\0\0\0"
    parts = [("header", 6, False), ("data", 4, True), ("status", 1, True)]
    driver.add_segments([Segment(at[name], length, out) for name, length, out in parts])
    batch = first_batch(queue)
    [frame] = batch.requests(HEADER)

    assert frame.header == (1, 2)
    queue.exchange(batch, [frame.finish(STATUS, frame.write(b"data"))], 8)
    assert [used.length for used in driver.collect()] == [5]
    assert bytes(memory.view(at["data"], 4)) == b"data"
    assert bytes(memory.view(at["status"], 1)) == bytes([STATUS])


@every_form
@pytest.mark.parametrize(
    ("given", "room", "header", "out", "length"),
    [
        ([b"\1\0\2\0\0\0"], [1], (1, 2), b"", 1),
        ([b"\1\0\2\0\0\0", b"data"], [1], (1, 2), b"data", 1),
        ([b"\1\0\2\0\0"], [1], None, b"", 1),
        ([b"\1\0\2\0\0"], [3, 1], None, b"", 0),
        ([], [9], None, b"", 0),
        ([b"\1\0\2\0\0\0"], [], None, b"", 0),
    ],
)
def test_a_frame_without_some_of_its_parts(
    form: int,
    given: list[bytes],
    room: list[int],
    header: tuple[int, int] | None,
    out: bytes,
    length: int,
) -> None:
    driver, queue = make(form)
    driver.add(given, room)
    batch = first_batch(queue)
    [frame] = batch.requests(HEADER)

    assert (frame.header, b"".join(frame.data_out)) == (header, out)
    assert frame.finish(STATUS, 0) == length
    queue.exchange(batch, [length], 8)
    [used] = driver.collect()
    assert used.data[-1:] == (bytes([STATUS]) if room else b"")


@every_form
@pytest.mark.parametrize("after", ["its batch", "reset"])
@pytest.mark.spec("SPL-38")
def test_frames_of_a_batch_that_is_gone_have_no_data(form: int, after: str) -> None:
    driver, queue = make(form)
    driver.add(*CUTS["as most drivers do"])
    batch = first_batch(queue)
    if after == "reset":
        queue.reset()
    else:
        batch.complete([7])

    [frame] = batch.requests(HEADER)

    assert (frame.header, frame.data_in, frame.data_out) == (None, [], ())
    assert frame.write(b"late") == frame.finish(STATUS, 0) == 0


@every_form
def test_a_longer_header_than_native_code_looks_for(form: int) -> None:
    driver, queue = make(form)
    driver.add([bytes(range(200)), b"data"], [2, 1])
    long = Struct("200s")
    batch = queue.exchange(ChainBatch(queue), [], 8, header_bytes=long.size)

    [frame] = batch.requests(long)

    assert (frame.header, b"".join(frame.data_out)) == ((bytes(range(200)),), b"data")


# Handlers


class Adder(Device):
    """Answers each request with the sum of its header; holds those of zeros; fails at 13."""

    device_id = 42

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Request] = []

    @queue(size=32, header=HEADER, burst=4)
    def requestq(self, frame: Request) -> int | None:
        if frame.header is None:
            return frame.finish(1, 0)
        left, right = frame.header
        if left == right == 0:
            self.held.append(frame)
            return None
        if left == 13:
            raise RuntimeError("thirteen")
        return frame.finish(0, frame.write(bytes([left + right])))


@pytest.fixture
def bench() -> Bench:
    return Bench(Adder(), VERSION_1)


def ask(bench: Bench, *pairs: tuple[int, int]) -> None:
    for pair in pairs:
        bench.drivers[0].add([HEADER.pack(*pair)], [1, 1])


def answers(bench: Bench) -> list[bytes]:
    return [used.data for used in bench.drivers[0].collect()]


def test_handler_gets_frames_and_answers_them_in_bursts(bench: Bench) -> None:
    ask(bench, *((number, 10) for number in range(1, 7)))

    bench.serve()

    assert answers(bench) == [bytes([number + 10, 0]) for number in range(1, 7)]


def test_handler_may_answer_later(bench: Bench) -> None:
    ask(bench, (1, 1), (0, 0), (2, 2))
    bench.serve()
    before = answers(bench)
    [frame] = bench.device.held  # type: ignore[attr-defined]

    frame.chain.complete(frame.finish(3, frame.write(b"!")))

    assert (before, answers(bench)) == ([b"\2\0", b"\4\0"], [b"!\3"])


def test_what_a_handler_completed_before_it_fails_is_used(bench: Bench) -> None:
    ask(bench, (1, 1), (13, 0), (2, 2))

    with pytest.raises(RuntimeError, match="thirteen") as failure:
        bench.serve()

    assert answers(bench) == [b"\2\0"]
    assert any("in requestq, at <DescriptorChain" in note for note in failure.value.__notes__)
