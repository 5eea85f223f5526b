"""What a tap hears of a device, on every engine and form of the rings, and that it can go again."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from transport import VirtioMmio
from transport.testing import MmioDriver, RecordingLine
from virtio import engine
from virtio.entropy import Entropy
from virtio.testing import ManualLoop, PackedDriver, QueueDriver, SplitDriver, flat_memory
from virtio.virtqueue.watched import Given, RingWatcher, Taken

VERSION_1 = 1 << 32
PACKED = 1 << 34
NATIVE = pytest.mark.skipif(
    not engine._module(), reason="the native engine was not built: no C compiler"
)


class Heard:
    """Writes down all that a device and its queue tell."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self.records: list[object] = []

    def status(self, before: int, after: int) -> None:
        self.events.append(("status", before, after))

    def features(self, offered: int, accepted: int, *, taken: bool) -> None:
        self.events.append(("features", accepted, taken))

    def reset(self) -> None:
        self.events.append(("reset",))

    def queue(self, index: int, size: int) -> None:
        self.events.append(("queue", index, size))

    def kick(self, queue: int, count: int) -> None:
        self.events.append(("kick", queue, count))

    def unheard(self, queue: int, count: int) -> None:
        self.events.append(("unheard", queue, count))

    def interrupt(self, queue: int, at: int) -> None:
        self.events.append(("interrupt", queue))

    def message(self, vector: int, address: int, data: int) -> None:
        self.events.append(("message", vector))

    def configuration(self) -> None:
        self.events.append(("configuration",))

    def dropped(self, what: str) -> None:
        self.events.append(("dropped", what))

    def failed(self, error: Exception) -> None:
        self.events.append(("failed", str(error)))

    def watcher(self, queue: int) -> RingWatcher:
        return self

    def taken(self, chains: Sequence[Taken]) -> None:
        self.events += [("taken", chain[4][0][1], chain[4][0][2]) for chain in chains]

    def given(self, chains: Sequence[Given]) -> None:
        self.events += [("given", chain[2]) for chain in chains]

    def native(self, make: Callable[[], Any]) -> Any:
        self.records.append(make())
        return self.records[-1]

    def all(self) -> list[tuple[object, ...]]:
        """Return also what native code has told; of each chain it tells both in its order."""
        from virtio.native.records import Records, decode

        for records in self.records:
            assert isinstance(records, Records)
            for one in decode(records.read()):
                if len(one) == 5:
                    self.taken([one])
                else:
                    self.given([one])
        return self.events


def live(features: int) -> tuple[VirtioMmio, MmioDriver, QueueDriver]:
    memory = flat_memory((0, 1 << 20))
    form = PackedDriver if features & PACKED else SplitDriver
    queue = form(memory, 16)
    device = Entropy()
    device.ring_features |= PACKED
    transport = VirtioMmio(device, memory, RecordingLine(), ManualLoop())
    return transport, MmioDriver(transport), queue


@pytest.mark.parametrize("features", [VERSION_1, VERSION_1 | PACKED], ids=["split", "packed"])
@pytest.mark.parametrize(
    "name", ["python", *(pytest.param(one, marks=NATIVE) for one in ("rings", "native"))]
)
def test_a_tap_hears_the_life_of_a_device(
    monkeypatch: pytest.MonkeyPatch, name: str, features: int
) -> None:
    monkeypatch.setattr(engine, "_chosen", name)
    heard = Heard()
    transport, driver, queue = live(features)
    with transport:
        transport.watch(heard)
        driver.start(queue, features=features)
        transport.service()
        queue.add([], [64])
        transport.notify(0)
        transport.service()
        driver.status = 0

        events = heard.all()
    life = [one for one in events if one[0] not in ("taken", "given")]
    assert life == [
        ("status", 0, 1),
        ("status", 1, 3),
        ("features", features, True),
        ("status", 3, 11),
        ("queue", 0, 16),
        ("status", 11, 15),
        ("kick", 0, 1),
        ("interrupt", 0),
        ("reset",),
    ]
    assert [one for one in events if one[0] in ("taken", "given")] == [
        ("taken", 64, 2),
        ("given", 64),
    ]


def test_a_tap_that_comes_late_hears_the_next_request_and_one_that_left_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "_chosen", "python")
    heard = Heard()
    transport, driver, queue = live(VERSION_1)
    with transport:
        driver.start(queue)
        transport.service()
        transport.watch(heard)
        for _ in range(2):
            queue.add([], [8])
            transport.notify(0)
            transport.service()
            transport.watch(None)

    assert heard.events == [("kick", 0, 1), ("taken", 8, 2), ("given", 8), ("interrupt", 0)]


def test_a_tap_hears_which_rule_a_driver_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_chosen", "python")
    heard = Heard()
    transport, driver, queue = live(VERSION_1)
    with transport:
        driver.start(queue)
        transport.service()
        transport.watch(heard)
        queue.memory.view(queue.layout.driver_area + 2, 2)[:] = (100).to_bytes(2, "little")
        transport.notify(0)
        transport.service()
        transport.watch(None)

    assert [one[0] for one in heard.events] == ["kick", "failed", "status", "configuration"]
    assert "SPL-10" in str(heard.events[1][1])
