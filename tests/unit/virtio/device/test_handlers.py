"""How queues are served: filled ones, data paths chosen anew, and handlers that are replaced."""

from collections import deque
from typing import Any
from unittest.mock import Mock

import pytest

from virtio.device.declaration import Device, field, queue
from virtio.errors import DriverError, InternalError
from virtio.testing import Bench, Segment
from virtio.virtqueue.batch import ChainBatch
from virtio.virtqueue.chain import DescriptorChain

VERSION_1 = 1 << 32


class Source(Device):
    """Has lines for the guest, each of which goes into a buffer of its own."""

    device_id = 42

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[bytes] = deque()
        self.asked = 0

    def wanted(self) -> int:
        return len(self.lines)

    @queue(size=16, burst=4, fill="wanted")
    def receiveq(self, chain: DescriptorChain) -> int | None:
        self.asked += 1
        return chain.write(self.lines.popleft()) if self.lines else None


class OneByOne(Source):
    """Has one line at a time, as a small buffer behind it has."""

    def wanted(self) -> int:
        return min(1, len(self.lines))


class BatchSource(Source):
    """Does so for batches, and claims to have more than it has."""

    def wanted(self) -> int:
        return len(self.lines) + 2

    @queue(size=16, burst=4, fill="wanted", batch=True)
    def receiveq(self, chains: ChainBatch) -> list[int | None]:  # type: ignore[override]
        answers: list[int | None] = []
        for chain in chains:
            answers.append(chain.write(self.lines.popleft()) if self.lines else None)
        return answers


class Ports(Device):
    """Has a queue for each of three ports, all of which are filled."""

    device_id = 42
    count = 3

    def __init__(self) -> None:
        super().__init__()
        self.waiting = [b"", b"", b""]

    def wanted(self, number: int) -> int:
        return int(bool(self.waiting[number]))

    @queue(size=16, count="count", fill="wanted")
    def receiveq(self, chain: DescriptorChain, number: int) -> int | None:
        data, self.waiting[number] = self.waiting[number], b""
        return chain.write(data)


def collected(bench: Bench, number: int = 0) -> list[bytes]:
    return [used.data[: used.length] for used in bench.drivers[number].collect()]


def test_buffers_wait_in_the_ring_until_there_is_data() -> None:
    source = Source()
    bench = Bench(source, VERSION_1)
    for _ in range(3):
        bench.drivers[0].add([], [8])
    bench.serve()
    assert (source.asked, collected(bench)) == (0, [])
    live = bench.queues[0]
    assert live is not None
    assert live.outstanding_count == 0

    source.lines += [b"one", b"two"]
    source.fill("receiveq")
    bench.loop.run_once()

    assert collected(bench) == [b"one", b"two"]
    assert source.asked == 2


def test_data_waits_for_buffers_and_the_driver_is_asked_to_notify() -> None:
    source = Source()
    bench = Bench(source, VERSION_1)
    source.lines += [b"one", b"two"]

    assert source.handle_queue(0) is False
    bench.drivers[0].add([], [8])
    assert bench.drivers[0].should_kick()
    bench.serve()

    assert collected(bench) == [b"one"]
    assert list(source.lines) == [b"two"]


def test_one_burst_is_filled_at_once_and_the_rest_in_the_next_turn() -> None:
    source = Source()
    bench = Bench(source, VERSION_1)
    for number in range(6):
        bench.drivers[0].add([], [8])
        source.lines.append(b"%d" % number)

    more = source.handle_queue(0)

    assert (more, collected(bench)) == (True, [b"0", b"1", b"2", b"3"])
    assert (source.handle_queue(0), collected(bench)) == (False, [b"4", b"5"])


def test_time_ends_a_turn_before_its_burst_does(monkeypatch: pytest.MonkeyPatch) -> None:
    source = OneByOne()
    bench = Bench(source, VERSION_1)
    for number in range(3):
        bench.drivers[0].add([], [8])
        source.lines.append(b"%d" % number)
    hours = iter(range(0, 1 << 50, 3600 * 10**9))
    monkeypatch.setattr("virtio.device.handlers.time.monotonic_ns", lambda: next(hours))

    turns = [(source.handle_queue(0), collected(bench)) for _ in range(3)]

    assert turns == [(True, [b"0"]), (True, [b"1"]), (False, [b"2"])]


def test_a_burst_is_one_interrupt() -> None:
    source = Source()
    bench = Bench(source, VERSION_1)
    for _ in range(4):
        bench.drivers[0].add([], [8])
        source.lines.append(b"x")

    source.handle_queue(0)

    assert bench.interrupts == [0]


def test_a_buffer_that_nothing_was_put_into_is_used_next_time_and_ends_the_turn() -> None:
    source = BatchSource()
    bench = Bench(source, VERSION_1)
    tokens = [bench.drivers[0].add([], [8]) for _ in range(3)]
    source.lines.append(b"one")

    assert source.handle_queue(0) is False  # though it claims to have more
    first = [(used.token, used.length) for used in bench.drivers[0].collect()]
    source.lines += [b"two", b"three"]
    source.handle_queue(0)

    assert first == [(tokens[0], 3)]
    assert [(used.token, used.length) for used in bench.drivers[0].collect()] == [
        (tokens[1], 3),
        (tokens[2], 5),
    ]


def test_each_of_several_filled_queues_is_asked_for_by_its_number() -> None:
    ports = Ports()
    bench = Bench(ports, VERSION_1)
    for driver in bench.drivers:
        driver.add([], [8])
    ports.waiting = [b"zero", b"", b"two"]

    ports.fill("receiveq", 2)
    bench.loop.run_once()

    assert [collected(bench, number) for number in range(3)] == [[], [], [b"two"]]
    bench.serve()
    assert collected(bench) == [b"zero"]


def test_a_device_that_is_not_live_is_not_filled() -> None:
    source = Source()
    source.lines.append(b"x")

    source.fill("receiveq")

    assert source.asked == 0


def test_chains_put_back_come_first_and_only_the_devices_own_can_be_put_back() -> None:
    bench = Bench(Source(), VERSION_1)
    live = bench.queues[0]
    assert live is not None
    for letter in (b"a", b"b", b"c"):
        bench.drivers[0].add([letter])
    first, second, third = live.pop_many(3)

    live.put_back([first, second])

    assert [live.pop(), live.pop(), live.pop()] == [first, second, None]
    third.complete(0)
    with pytest.raises(InternalError, match="put back, but the device does not have it"):
        live.put_back([third])
    live.put_back([first])
    with pytest.raises(InternalError, match="put back, but the device does not have it"):
        live.put_back([first])
    first.complete(0)
    assert live.pop() is None


class Chooser(Device):
    """Counts how often it is asked for a data path."""

    device_id = 42
    mode = field("u8", 0, writable=True)
    level = field("u8", 1)

    def __init__(self) -> None:
        super().__init__()
        self.path = Mock(return_value=None)

    def choose_path(self) -> None:
        self.path()

    @queue(size=16, native="choose_path")
    def requestq(self, chain: DescriptorChain) -> int:
        return 0


def test_the_data_path_is_chosen_when_it_can_change_and_not_for_each_request() -> None:
    chooser = Chooser()
    bench = Bench(chooser, VERSION_1)
    for _ in range(5):
        bench.request([b"x"])
    assert chooser.path.call_count == 1

    chooser.write_config(0, b"\1")
    chooser.level = 3
    assert chooser.path.call_count == 1
    for _ in range(5):
        bench.request([b"x"])
    assert chooser.path.call_count == 2


def test_a_change_that_comes_while_a_path_is_chosen_is_looked_at_again() -> None:
    chooser = Chooser()
    bench = Bench(chooser, VERSION_1)

    def change() -> None:
        chooser.path.side_effect = None
        chooser.level = 8

    chooser.path.side_effect = change
    for _ in range(3):
        bench.request([b"x"])

    assert chooser.path.call_count == 2


@pytest.mark.spec("SPL-11")
def test_a_bad_chain_does_not_keep_the_driver_from_hearing_of_filled_buffers() -> None:
    source = Source()
    bench = Bench(source, VERSION_1)
    bench.drivers[0].add([], [8])
    bench.drivers[0].add_segments([Segment(1 << 40, 8, writable=True)])
    source.lines += [b"one", b"two"]

    with pytest.raises(DriverError):
        source.handle_queue(0)

    assert bench.interrupts == [0]
    assert collected(bench) == [b"one"]


class Wrapped(Device):
    """Has handlers whose last parameter is not the number of the queue."""

    device_id = 42
    count = 2

    @queue(size=16, count="count")
    def anyq(self, *work: Any) -> int:
        chain, number = work
        return int(chain.write(b"%d" % number))

    @queue(size=16, count="count")
    def sameq(self, chain: DescriptorChain) -> int:
        return chain.write(b"x")

    @queue(size=16, count="count")
    def defaultq(self, chain: DescriptorChain, number: int, extra: int = 7) -> int:
        return chain.write(b"%d%d" % (number, extra))


def test_the_number_of_a_queue_is_given_by_position_where_names_do_not_tell() -> None:
    bench = Bench(Wrapped(), VERSION_1)

    used = [bench.request([], [2], queue=index) for index in range(6)]

    assert [one.data[: one.length] for one in used] == [b"0", b"1", b"x", b"x", b"07", b"17"]


class Replaced(Source):
    """Serves its queue in a way of its own."""

    def handle_queue(self, index: int) -> bool:
        self.asked = 1000 + index
        return False


def test_the_call_for_a_queue_is_the_overridden_one() -> None:
    source = Replaced()
    Bench(source, VERSION_1)

    assert source.queue_handler(0)() is False
    assert source.asked == 1000


def test_there_is_a_call_for_a_queue_that_does_not_exist() -> None:
    source = Source()
    Bench(source, VERSION_1)

    assert source.queue_handler(7)() is False


class Gatherer(Device):
    """Fills two buffers at once, or none."""

    device_id = 42

    def __init__(self) -> None:
        super().__init__()
        self.waits = 1

    def wanted(self) -> int:
        return 2 * self.waits

    @queue(size=8, batch=True, fill="wanted")
    def gatherq(self, chains: ChainBatch) -> list[int | None]:
        if len(chains) < 2:
            return [None] * len(chains)
        self.waits -= 1
        return list(chains.write_each([b"first", b"second"]))


def test_data_that_needs_more_buffers_than_there_are_waits_for_a_notification() -> None:
    bench = Bench(Gatherer(), queue_size=8)
    driver = bench.drivers[0]
    driver.add([], [16])
    driver.should_kick()

    more = bench.device.handle_queue(0)
    left = driver.collect()
    driver.add([], [16])
    asked = driver.should_kick()
    bench.serve()

    assert (more, left, asked) == (False, [], True)
    assert [one.data[: one.length] for one in driver.collect()] == [b"first", b"second"]
