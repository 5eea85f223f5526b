"""C refuses positions, sizes and counts that no queue can have, before it indexes with them."""

from collections.abc import Callable
from typing import Any

import pytest

from virtio import Queue, QueueLayout, engine
from virtio.errors import InternalError
from virtio.testing import PackedDriver, SplitDriver, flat_memory

native = pytest.importorskip("virtio.native.data_path", reason="the native engine was not built")
ffi, lib = native.ffi, native.lib

SIZE, ROOM, PACKED = 8, 1 << 20, 1 << 34
UNTOUCHED = b"\xa5"
MAX_32 = (1 << 32) - 1

impossible = pytest.mark.parametrize(
    ("packed", "size", "next_avail", "next_used"),
    [
        pytest.param(False, 0, 0, 0, id="split, no size"),
        pytest.param(False, 12, 0, 0, id="split, size not a power of two"),
        pytest.param(False, 1 << 16, 0, 0, id="split, size too large"),
        pytest.param(False, SIZE, 9, 0, id="split, more in flight than there is"),
        pytest.param(False, SIZE, 0, 1, id="split, more given back than taken"),
        pytest.param(False, SIZE, 1 << 16, 65530, id="split, available past the end"),
        pytest.param(False, SIZE, 2, MAX_32, id="split, used past the end"),
        pytest.param(True, 0, 0, 0, id="packed, no size"),
        pytest.param(True, 32769, 0, 0, id="packed, size too large"),
        pytest.param(True, 1 << 31, 0, 0, id="packed, size that overflows"),
        pytest.param(True, SIZE, 9, 0, id="packed, more in flight than there is"),
        pytest.param(True, SIZE, 0, 1, id="packed, more given back than taken"),
        pytest.param(True, SIZE, 16, 15, id="packed, available past the end"),
        pytest.param(True, SIZE, 2, 16, id="packed, used past the end"),
        pytest.param(True, SIZE, MAX_32, MAX_32, id="packed, both far away"),
    ],
)


class Rings:
    """A queue as C sees it, its areas amid memory that shows whether anything was written."""

    def __init__(self, packed: bool, size: int, next_avail: int, next_used: int) -> None:
        self.memory = bytearray(UNTOUCHED * (4 * ROOM))
        self._whole = ffi.from_buffer("uint8_t[]", self.memory, require_writable=True)
        self.queue = ffi.new("struct queue *")
        for number, area in enumerate(("descriptors", "driver", "device")):
            setattr(self.queue, area, self._whole + number * ROOM + ROOM // 2)
        self.queue.packed, self.queue.size = packed, size
        self.queue.next_avail, self.queue.next_used = next_avail, next_used
        self.served = ffi.new("struct served *")

    def exchange(self, **wish: Any) -> int:
        exchange = ffi.new("struct exchange *")
        exchange.next_avail, exchange.next_used = self.queue.next_avail, self.queue.next_used
        exchange.limit = SIZE
        for name, value in wish.items():
            setattr(exchange, name, value)
        return int(lib.exchange(self.queue, exchange))

    def publish(self, count: int) -> int:
        plain = ffi.new("struct plain[]", SIZE + 1)
        return int(
            lib.publish_plain(
                self.queue, plain, ffi.new("uint32_t[]", SIZE + 1), count, self.served
            )
        )

    def take(self) -> int:
        return int(lib.take_plain(self.queue, ffi.new("struct plain[]", SIZE), SIZE))

    def serve(self, kind: int = lib.ENTROPY) -> int:
        device = ffi.new("struct device *", {"kind": kind})
        return int(lib.serve(self.queue, device, SIZE, 0, self.served))

    def is_untouched(self) -> bool:
        return self.memory.count(UNTOUCHED) == len(self.memory) and not self.served.chains


@impossible
def test_every_entry_refuses_what_cannot_be(
    packed: bool, size: int, next_avail: int, next_used: int
) -> None:
    rings = Rings(packed, size, next_avail, next_used)
    assert rings.exchange() == lib.IMPOSSIBLE
    assert rings.serve() == lib.IMPOSSIBLE
    assert rings.take() == lib.REFUSED
    assert rings.publish(1) == lib.REFUSED
    assert lib.wait_available(rings.queue, 0) == lib.REFUSED
    assert rings.is_untouched()


@pytest.mark.parametrize(
    ("packed", "size", "next_avail", "next_used"),
    [
        (False, SIZE, SIZE, 0),
        (False, SIZE, 3, 65531),
        (False, SIZE, 65535, 65535),
        (False, 32768, 0, 32768),
        (False, 1, 0, 65535),
        (True, SIZE, 8, 0),
        (True, SIZE, 3, 11),
        (True, SIZE, 15, 15),
        (True, 7, 0, 13),
        (True, 32768, 65535, 32768),
    ],
)
def test_every_position_that_can_be_is_served(
    packed: bool, size: int, next_avail: int, next_used: int
) -> None:
    rings = Rings(packed, size, next_avail, next_used)
    assert lib.wait_available(rings.queue, 0) in (0, 1)
    assert rings.take() != lib.REFUSED
    assert rings.serve() in (lib.IDLE, lib.LEFT)
    assert rings.exchange() in (lib.IDLE, lib.LEFT)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_no_more_is_given_back_than_the_device_has(packed: bool) -> None:
    rings = Rings(packed, SIZE, 3, 1)
    assert rings.publish(3) == lib.REFUSED
    assert rings.publish(0) == lib.REFUSED
    assert rings.exchange(given=3, taken=[{"slots": 1}] * 3) == lib.IMPOSSIBLE
    assert rings.exchange(given=1, taken=[{"slots": 3}]) == lib.IMPOSSIBLE
    assert rings.exchange(given=1, taken=[{"slots": 0}]) == lib.IMPOSSIBLE
    assert rings.exchange(given=2, taken=[{"slots": MAX_32}, {"slots": 3}]) == lib.IMPOSSIBLE
    assert rings.is_untouched()
    assert rings.publish(2) == 1
    assert (rings.queue.next_used, rings.served.chains) == (3, 2)


def test_counts_stay_within_their_tables() -> None:
    rings = Rings(False, SIZE, 0, 0)
    assert rings.exchange(given=lib.CHAINS + 1) == lib.IMPOSSIBLE
    assert rings.exchange(limit=lib.CHAINS + 1) == lib.IMPOSSIBLE
    assert rings.is_untouched()


def test_a_device_of_no_known_kind_is_not_served() -> None:
    rings = Rings(False, SIZE, 0, 0)
    assert rings.serve(kind=4) == lib.IMPOSSIBLE
    assert rings.serve(kind=MAX_32) == lib.IMPOSSIBLE


@pytest.mark.parametrize("kind", [2, 3])
def test_a_network_without_a_descriptor_is_not_served(kind: int) -> None:
    assert Rings(False, SIZE, 0, 0).serve(kind) == lib.IMPOSSIBLE


@pytest.fixture(params=[0, PACKED], ids=["split", "packed"])
def queue(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """A queue with a chain out, whose position does not know of that any more."""
    monkeypatch.setattr(engine, "_chosen", "native")
    memory = flat_memory((0, 1 << 20))
    driver = (PackedDriver if request.param else SplitDriver)(memory, SIZE)
    queue = Queue(memory, QueueLayout(*driver.layout), request.param)
    for _ in range(3):
        driver.add([], [4])
    return queue


@pytest.mark.parametrize(
    "use",
    [
        lambda queue, batch: queue.exchange(batch, [4], 1),
        lambda queue, batch: queue.add_used_batch(batch, [4]),
        lambda queue, batch: queue.serve_natively(native.entropy_path(native.RandomBytes()), 1, 0),
        lambda queue, batch: queue.wait_available(1),
    ],
    ids=["exchange", "give back", "serve", "wait"],
)
def test_python_says_that_it_is_our_bug(queue: Queue, use: Callable[[Queue, Any], object]) -> None:
    batch = queue.pop_batch(1)
    assert len(batch) == 1
    queue._ring.next_used = 5
    with pytest.raises(InternalError, match=r"queue 0 of 8: .* 1 \(available\) and 5 \(used\)"):
        use(queue, batch)
