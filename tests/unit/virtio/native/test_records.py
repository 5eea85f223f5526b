"""The ring of records: what native code tells of chains, and that it says how many it lost."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from virtio import Queue, QueueLayout, engine
from virtio.testing import SplitDriver, flat_memory
from virtio.virtqueue.watched import Given, Taken

records = pytest.importorskip(
    "virtio.native.records", reason="the native engine was not built: no C compiler"
)


class Watcher:
    records: Any

    def taken(self, chains: Sequence[Taken]) -> None:
        raise AssertionError("told by Python")

    def given(self, chains: Sequence[Given]) -> None:
        raise AssertionError("told by Python")

    def native(self, make: Callable[[], Any]) -> Any:
        self.records = make()
        return self.records


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> tuple[SplitDriver, Queue]:
    monkeypatch.setattr(engine, "_chosen", "rings")
    driver = SplitDriver(flat_memory((0x1000, 1 << 20)), 128)
    return driver, Queue(driver.memory, QueueLayout(*driver.layout))


def test_a_chain_is_told_with_its_first_bytes_and_descriptors(
    queue: tuple[SplitDriver, Queue],
) -> None:
    driver, served = queue
    watcher = Watcher()
    served.watch(watcher)
    driver.add([b"0123456789abcdefghij", b"more"], [512, 1])
    batch = served.pop_batch(8, header_bytes=0)
    served.exchange(batch, [13], 1)

    (taken, given) = list(records.decode(watcher.records.read()))
    at, number, count, head, descriptors = taken
    assert (number, count, head) == (0, 4, b"0123456789abcdef")
    assert [one[1:] for one in descriptors] == [(20, 0), (4, 0), (512, 2), (1, 2)]
    assert all(served.memory.view(one[0], one[1]) for one in descriptors)
    assert given[1:] == (0, 13)
    assert at <= given[0]


def test_records_that_find_no_room_are_counted(queue: tuple[SplitDriver, Queue]) -> None:
    driver, served = queue
    watcher = Watcher()
    served.watch(watcher)
    lost = taken = 0
    for _ in range(300):
        for _ in range(100):
            driver.add([], [8])
        batch = served.pop_batch(100)
        batch.complete([0] * len(batch))
        driver.collect()
    told = watcher.records
    taken = len(list(records.decode(told.read())))
    lost = told.take_lost()

    assert taken + lost == 2 * 300 * 100
    assert lost > 0
    assert told.take_lost() == 0


def test_a_long_chain_is_told_by_its_first_descriptors(queue: tuple[SplitDriver, Queue]) -> None:
    driver, served = queue
    watcher = Watcher()
    served.watch(watcher)
    driver.add([b"x"] * 100, [])
    served.pop_batch(1, header_bytes=0)

    ((_, _, count, head, descriptors),) = records.decode(watcher.records.read())
    assert (count, head, len(descriptors)) == (100, b"x", 64)


def test_a_size_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(MemoryError):
        records.Records(100)
