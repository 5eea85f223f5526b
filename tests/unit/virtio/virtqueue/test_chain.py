"""Descriptor chains: views, copying across segments, and the way back to the driver."""

import pytest

from virtio.errors import DriverError, InternalError
from virtio.memory import FlatMemory
from virtio.testing import Segment, SplitDriver, flat_memory
from virtio.virtqueue.chain import DescriptorChain
from virtio.virtqueue.queue import Queue
from virtio.virtqueue.state import QueueLayout


class Harness:
    """A driver and a device queue over the same memory."""

    def __init__(self, memory: FlatMemory | None = None) -> None:
        self.memory = memory or flat_memory((0, 1 << 20))
        self.driver = SplitDriver(self.memory, 16)
        self.queue = Queue(self.memory, QueueLayout(*self.driver.layout))

    def pop(self) -> DescriptorChain:
        chain = self.queue.pop()
        assert chain is not None
        return chain

    def chain(self, readable: list[bytes], writable: list[int]) -> DescriptorChain:
        self.driver.add(readable, writable)
        return self.pop()


@pytest.fixture
def harness() -> Harness:
    return Harness()


def split_everywhere(data: bytes) -> list[list[bytes]]:
    return [[data[:i], data[i:]] for i in range(len(data) + 1)] + [[bytes([b]) for b in data]]


@pytest.mark.spec("SPL-19", "SPL-16")
@pytest.mark.parametrize("parts", split_everywhere(b"header"))
@pytest.mark.parametrize("offset", range(8))
@pytest.mark.parametrize("length", range(9))
def test_read_gives_the_same_bytes_however_the_driver_cut_them(
    harness: Harness, parts: list[bytes], offset: int, length: int
) -> None:
    chain = harness.chain(parts, [])
    assert chain.read(length, offset) == b"header"[offset : offset + length]
    assert chain.readable_length == 6


@pytest.mark.spec("SPL-19")
@pytest.mark.parametrize("sizes", [[6], [1, 5], [3, 3], [0, 6], [2, 0, 4], [1] * 6])
@pytest.mark.parametrize(("offset", "expected"), [(0, 4), (2, 4), (3, 3), (6, 0), (9, 0)])
def test_write_scatters_over_segments_and_stops_at_the_end(
    harness: Harness, sizes: list[int], offset: int, expected: int
) -> None:
    chain = harness.chain([], sizes)
    written = chain.write(b"WXYZ", offset)
    chain.complete(0)
    data = harness.driver.collect()[0].data
    assert written == expected
    assert data == (b"\xa5" * offset + b"WXYZ" + b"\xa5" * 6)[:6]


def test_write_of_nothing_changes_nothing(harness: Harness) -> None:
    chain = harness.chain([], [3])
    assert chain.write(b"") == 0
    assert bytes(chain.writable[0]) == b"\xa5\xa5\xa5"


@pytest.mark.spec("SPL-18")
def test_readable_views_refuse_to_be_written(harness: Harness) -> None:
    chain = harness.chain([b"abc"], [])
    with pytest.raises(TypeError, match="read-only"):
        chain.readable[0][0] = 1


def test_writable_views_are_guest_memory_itself(harness: Harness) -> None:
    chain = harness.chain([], [4])
    address = chain.descriptors[0][0]
    chain.writable[0][:] = b"live"
    assert bytes(harness.memory.view(address, 4)) == b"live"


@pytest.mark.spec("SPL-19")
@pytest.mark.parametrize("sizes", [[5], [4, 1], [2, 3], [1] * 5, [5, 0]])
def test_split_status_takes_the_last_byte_whatever_segment_it_is_in(
    harness: Harness, sizes: list[int]
) -> None:
    chain = harness.chain([], sizes)
    status = chain.split_status()
    assert status is not None
    status[0] = 0x7E
    written = chain.write(b"datadata")
    assert (written, chain.writable_length) == (4, 4)
    chain.complete(5)
    assert harness.driver.collect()[0].data == b"data\x7e"


def test_split_status_of_a_chain_without_writable_bytes_is_none(harness: Harness) -> None:
    assert harness.chain([b"x"], [0]).split_status() is None


@pytest.mark.spec("SPL-36")
def test_completing_twice_is_an_internal_error(harness: Harness) -> None:
    chain = harness.chain([b"x"], [])
    chain.complete(0)
    with pytest.raises(InternalError, match="does not have it"):
        chain.complete(0)


def test_completing_a_chain_of_another_queue_is_an_internal_error(harness: Harness) -> None:
    chain = Harness().chain([b"x"], [])
    with pytest.raises(InternalError, match="does not have it"):
        harness.queue.add_used(chain, 0)


@pytest.mark.spec("SPL-34")
@pytest.mark.parametrize("length", [5, -1])
def test_a_used_length_that_cannot_be_true_is_an_internal_error(
    harness: Harness, length: int
) -> None:
    chain = harness.chain([b"abcdefgh"], [4])
    with pytest.raises(InternalError, match="room for 4"):
        chain.complete(length)


@pytest.mark.spec("SPL-38")
def test_a_completed_chain_has_no_views(harness: Harness) -> None:
    chain = harness.chain([b"x"], [4])
    chain.complete(4)
    assert (chain.readable, chain.writable, chain.write(b"late"), chain.read(1)) == ([], [], 0, b"")


def test_complete_notifies_the_driver(harness: Harness) -> None:
    interrupts: list[str] = []
    harness.queue.interrupt = lambda: interrupts.append("used buffer")
    harness.chain([b"x"], []).complete(0)
    assert interrupts == ["used buffer"]


@pytest.mark.spec("SPL-15")
def test_a_buffer_across_adjacent_regions_is_seen_as_two_views() -> None:
    harness = Harness(flat_memory((0, 0x20000), (0x20000, 0x20000)))
    harness.driver.write_bytes(0x1FFFE, b"ab")
    harness.driver.write_bytes(0x20000, b"cd")
    harness.driver.add_segments([Segment(0x1FFFE, 4, False), Segment(0x1FFFC, 8, True)])
    chain = harness.pop()
    assert [len(view) for view in chain.readable] == [2, 2]
    assert [view.readonly for view in chain.readable] == [True, True]
    assert [len(view) for view in chain.writable] == [4, 4]
    assert chain.read(4) == b"abcd"


@pytest.mark.spec("SPL-15")
@pytest.mark.parametrize(
    ("address", "length"),
    [
        (0x100000 - 8, 9),
        (0x100000, 1),
        (0x180000, 16),
        (0x200000 - 1, 2),
        (0x100000 - 1, 0x100002),
        ((1 << 64) - 8, 16),
        ((1 << 64) - 1, 0xFFFFFFFF),
        (0, 0xFFFFFFFF),
    ],
    ids=hex,
)
@pytest.mark.parametrize("writable", [False, True])
def test_a_segment_outside_ram_is_a_driver_error_and_nothing_is_written(
    address: int, length: int, writable: bool
) -> None:
    harness = Harness(flat_memory((0, 0x100000), (0x200000, 0x1000)))
    before = bytes(harness.memory.view(0, 0x100000))
    harness.driver.add_segments([Segment(0x8000, 4, writable), Segment(address, length, writable)])
    harness.driver.write_bytes(0, before[:0x1000])
    with pytest.raises(DriverError) as caught:
        harness.pop()
    assert (caught.value.item, caught.value.queue, caught.value.chain) == ("SPL-15", 0, 0)
    assert harness.driver.used_idx == 0


@pytest.mark.spec("SPL-16")
@pytest.mark.parametrize("position", range(4))
def test_zero_length_descriptors_are_empty_segments_wherever_they_point(
    harness: Harness, position: int
) -> None:
    segments = [Segment(0x8000, 3, False), Segment(0x8100, 2, False), Segment(0x8200, 4, True)]
    segments.insert(position, Segment(0xFFFF_FFFF_FFFF_FFF0, 0, position == 3))
    harness.driver.add_segments(segments)
    chain = harness.pop()
    assert [len(view) for view in chain.readable] == [3, 2]
    assert [len(view) for view in chain.writable] == [4]


@pytest.mark.spec("SPL-17")
@pytest.mark.parametrize("empty", [False, True])
def test_readable_after_writable_is_a_driver_error(harness: Harness, empty: bool) -> None:
    first = Segment(0x8000, 0 if empty else 4, True)
    harness.driver.add_segments([first, Segment(0x9000, 4, False)])
    with pytest.raises(DriverError, match=r"SPL-17: queue 0: chain 0: a readable"):
        harness.pop()


@pytest.mark.spec("SPL-14")
def test_more_than_4_gib_in_all_is_a_driver_error() -> None:
    # 4 GiB of address space over one page, so that every segment is inside RAM.
    class Huge(FlatMemory):
        def view(self, address: int, length: int) -> memoryview:
            return super().view(address % 0x10000, min(length, 16))

    harness = Harness()
    harness.queue.window.memory = Huge([(0, bytearray(0x20000))])
    half = Segment(0x8000, 1 << 31, True)
    harness.driver.add_segments([half, half])
    assert harness.pop().writable_length == 1 << 32
    harness.driver.add_segments([half, half, Segment(0x8000, 1, True)])
    with pytest.raises(DriverError, match="SPL-14"):
        harness.pop()


@pytest.mark.spec("SPL-34")
def test_a_full_4_gib_chain_is_told_as_the_largest_length_there_is() -> None:
    class Huge(FlatMemory):
        def view(self, address: int, length: int) -> memoryview:
            return super().view(address % 0x10000, min(length, 16))

    harness = Harness()
    harness.queue.window.memory = Huge([(0, bytearray(0x20000))])
    harness.driver.add_segments([Segment(0x8000, 1 << 31, True)] * 2)
    harness.pop().complete(1 << 32)
    assert harness.driver.used_element(0) == (0, 0xFFFFFFFF)


def test_repr_shows_queue_head_and_segments(harness: Harness) -> None:
    harness.driver.add_segments([Segment(0x8000, 16, False), Segment(0x9000, 512, True)])
    text = repr(harness.pop())
    assert text == "<DescriptorChain 0 of queue 0: R 0x8000+0x10, W 0x9000+0x200>"
