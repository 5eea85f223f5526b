"""The native side of a queue: what it serves by itself, what it leaves, and when it waits.

That it does the same as Python, to the byte, is what ``tests/fuzz/targets/engines.py`` looks for.
"""

import gc
import os
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from tests.spec.threads import wait_until
from virtio import Block, Entropy, Queue, QueueLayout, engine
from virtio.errors import DriverError
from virtio.testing import Bench, PackedDriver, QueueDriver, SplitDriver, Used, flat_memory
from virtio.virtqueue import queue as virtqueue
from virtio.virtqueue.ring import IDLE, LEFT, MORE, TELL
from vmm.disk.raw import RawDisk

native = pytest.importorskip("virtio.native.data_path", reason="the native engine was not built")

VERSION_1, FLUSH, EVENT_IDX, INDIRECT, PACKED = 1 << 32, 1 << 9, 1 << 29, 1 << 28, 1 << 34
CONTENT = bytes(range(256)) * 64
IN, OUT = 0, 1
FOREVER_NS = 10**15
COLD_SECTORS, APART = 32768, 700

every_form = pytest.mark.parametrize("form", [0, PACKED], ids=["split", "packed"])
every_ring = pytest.mark.parametrize(
    "ring",
    [form | more for form in (0, PACKED) for more in (0, EVENT_IDX, INDIRECT)],
    ids=lambda ring: f"{ring:#x}",
)


@pytest.fixture(autouse=True)
def _native_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_chosen", "native")


@contextmanager
def disk_bench(ring: int, features: int = FLUSH) -> Iterator[tuple[Bench, RawDisk]]:
    with RawDisk.scratch(len(CONTENT)) as disk:
        disk.writev([memoryview(CONTENT)], 0)
        block = Block(disk, ring_features=VERSION_1 | EVENT_IDX | INDIRECT | PACKED)
        yield Bench(block, VERSION_1 | features | ring), disk


def forbid_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Queue, "exchange", Mock(side_effect=AssertionError("Python serves it")))


def random_path() -> Any:
    return native.entropy_path(native.RandomBytes())


def header(kind: int, sector: int) -> bytes:
    return struct.pack("<IIQ", kind, 0, sector)


@every_ring
def test_reads_and_writes_need_no_python(ring: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with disk_bench(ring) as (bench, disk):
        driver = bench.drivers[0]
        forbid_python(monkeypatch)
        # Headers, data and status cut as no driver would.
        driver.add([header(IN, 3)[:5], header(IN, 3)[5:]], [100, 924, 1])
        driver.add([header(OUT, 8) + b"x" * 100, b"y" * 412], [1])
        driver.add([header(IN, 8)], [513])
        bench.serve()
        first, second, third = sorted(driver.collect())
        assert (first.length, first.data) == (1025, CONTENT[3 * 512 : 5 * 512] + b"\0")
        assert (second.length, second.data) == (1, b"\0")
        assert third.data == b"x" * 100 + b"y" * 412 + b"\0"
        content = bytearray(512)
        disk.readv([memoryview(content)], 8 * 512)
        assert content == b"x" * 100 + b"y" * 412
        [queue] = bench.queues
        assert queue is not None
        counts = (queue.completed, queue.bytes_read, queue.bytes_written)
        assert counts == (3, 16 + 528 + 16, 1025 + 1 + 513)
        assert len(bench.interrupts) >= 1


@every_form
@pytest.mark.parametrize(
    ("request_header", "readable", "room"),
    [
        (header(IN, 31), b"", 1024),
        (header(IN, 1 << 63), b"", 512),
        (header(IN, 0), b"", 500),
        (header(OUT, 31), bytes(1024), 0),
        (header(OUT, 0), bytes(500), 0),
        (header(77, 0), b"", 512),
        (header(IN, 0)[:9], b"", 512),
    ],
    ids=["past the end", "far away", "no sectors", "write past", "odd write", "type", "short"],
)
def test_what_is_not_ordinary_is_answered_by_python(
    form: int, request_header: bytes, readable: bytes, room: int
) -> None:
    with disk_bench(form) as (bench, disk):
        driver = bench.drivers[0]
        driver.add([header(IN, 0)], [512, 1])
        driver.add([request_header + readable], [room, 1] if room else [1])
        driver.add([header(IN, 1)], [512, 1])
        bench.serve()
        statuses = [used.data[-1] for used in sorted(driver.collect())]
        assert statuses == [0, 2 if request_header == header(77, 0) else 1, 0]
        content = bytearray(len(CONTENT))
        disk.readv([memoryview(content)], 0)
        assert content == CONTENT


@every_form
def test_a_write_that_must_be_stable_is_left_to_python(
    form: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with disk_bench(form, features=0) as (bench, disk):
        flush = Mock(wraps=disk.flush)
        monkeypatch.setattr(disk, "flush", flush)
        bench.drivers[0].add([header(OUT, 0) + bytes(512)], [1])
        bench.serve()
        assert [used.data for used in bench.drivers[0].collect()] == [b"\0"]
        flush.assert_called_once()


@every_form
def test_an_image_that_was_cut_off_gives_an_error(form: int) -> None:
    with disk_bench(form) as (bench, disk):
        os.ftruncate(disk.fd, 512)
        bench.drivers[0].add([header(IN, 2)], [512, 1])
        bench.serve()
        assert [used.data[-1] for used in bench.drivers[0].collect()] == [1]


@every_ring
def test_random_bytes_need_no_python(ring: int, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Entropy(ring_features=VERSION_1 | EVENT_IDX | INDIRECT | PACKED)
    bench = Bench(device, VERSION_1 | ring, memory_bytes=1 << 20)
    forbid_python(monkeypatch)
    [driver] = bench.drivers
    driver.add([], [40, 60])
    driver.add([b"ignored"], [70_000])
    bench.serve()
    small, large = sorted(driver.collect())
    assert (small.length, large.length) == (100, 65536)
    assert len(set(small.data)) > 20
    assert large.data[65536:] == b"\xa5" * (70_000 - 65536)


def test_a_limited_source_is_left_to_python() -> None:
    device = Entropy(source=lambda count: b"z" * count)
    bench = Bench(device, VERSION_1)
    bench.drivers[0].add([], [8])
    bench.serve()
    assert [used.data for used in bench.drivers[0].collect()] == [b"zzzzzzzz"]


def test_large_requests_give_others_their_turn_before_the_burst_ends() -> None:
    size = 3 << 20
    with RawDisk.scratch(size) as disk:
        bench = Bench(Block(disk), VERSION_1 | FLUSH, memory_bytes=32 << 20)
        driver, [queue] = bench.drivers[0], bench.queues
        for _ in range(5):
            driver.add([header(IN, 0)], [size, 1])
        assert queue is not None
        path = native.block_path(disk.fd, sectors=size // 512, writable=True, may_wait=False)
        assert queue.serve_natively(path, 256) == (3, MORE)
        assert queue.serve_natively(path, 256) == (2, IDLE)


def test_more_chains_than_the_ring_has_room_for_are_left_to_python_to_refuse() -> None:
    driver, queue = make(0)
    driver.add([], [4])
    held = queue.pop()
    assert held is not None
    assert isinstance(driver, SplitDriver)
    index = driver.layout.driver_area + 2
    driver.write_bytes(index, (9).to_bytes(2, "little"))  # eight more, with one still out
    path = random_path()
    assert queue.serve_natively(path, 8) == (0, LEFT)
    with pytest.raises(DriverError, match="SPL-10"):
        queue.pop_many(8)


@every_form
def test_an_indirect_table_that_was_not_negotiated_is_left_to_python(form: int) -> None:
    memory = flat_memory((0, 1 << 20))
    driver = (PackedDriver if form else SplitDriver)(memory, 8, indirect=True)
    queue = Queue(memory, QueueLayout(*driver.layout), form)
    driver.add([], [4, 5], indirect=True)
    assert queue.serve_natively(random_path(), 8) == (0, LEFT)
    with pytest.raises(DriverError, match=r"SPL-24|PKD-14"):
        queue.pop_many(8)


# Random bytes


@pytest.mark.parametrize("in_process", [True, False])
def test_random_bytes_fill_the_buffers_and_are_never_the_same(in_process: bool) -> None:
    found: list[bytes] = []
    for _ in range(2):
        driver, queue = make(0)
        path = native.entropy_path(native.RandomBytes(in_process=in_process))
        for _ in range(4):
            driver.add([], [1000, 24])
            assert queue.serve_natively(path, 8) == (1, IDLE)
        found += [used.data for used in driver.collect()]
    assert [len(data) for data in found] == [1024] * 8
    blocks = {data[at : at + 16] for data in found for at in range(0, 1024, 16)}
    assert len(blocks) == 8 * 64


def droppable_kib() -> int:
    """Memory of the kind that Linux wants for the state of its generator: smaps(5) "dp"."""
    mappings = re.split(r"^VmFlags:(.*)$", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    sizes = (re.search(r"^Size: +(\d+) kB$", text, re.MULTILINE) for text in mappings[::2])
    pairs = zip(sizes, mappings[1::2], strict=False)
    return sum(int(size[1]) for size, flags in pairs if size and "dp" in flags.split())


@pytest.mark.parametrize("in_process", [True, False])
@pytest.mark.parametrize("count", [0, 1, 300, 65536])
def test_random_bytes_come_as_many_as_asked_for(count: int, in_process: bool) -> None:
    source = native.RandomBytes(in_process=in_process)
    first, second = source(count), source(count)
    assert (len(first), len(second)) == (count, count)
    assert first != second or count < 8


@pytest.mark.usefixtures("nothing_to_collect")
def test_state_of_a_generator_ends_with_its_source() -> None:
    before = droppable_kib()
    sources = [native.RandomBytes() for _ in range(8)]
    assert [len(source(16)) for source in sources] == [16] * 8
    if droppable_kib() == before:
        pytest.skip("the kernel has no generator for processes: Linux 6.11 does")
    del sources

    assert droppable_kib() == before


# Waiting


def make(form: int) -> tuple[QueueDriver, Queue]:
    memory = flat_memory((0, 1 << 20))
    driver = (PackedDriver if form else SplitDriver)(memory, 8)
    return driver, Queue(memory, QueueLayout(*driver.layout), form)


@every_form
def test_a_driver_that_waits_to_be_told_is_told_before_the_device_waits(form: int) -> None:
    driver, queue = make(form)
    driver.add([], [4])
    path = random_path()
    assert queue.serve_natively(path, 8, FOREVER_NS) == (1, TELL)
    assert queue.needs_notification()


@every_form
def test_a_driver_that_waits_for_the_second_answer_is_told_of_that(form: int) -> None:
    memory = flat_memory((0, 1 << 20))
    driver = (PackedDriver if form else SplitDriver)(memory, 8, event_idx=True)
    queue = Queue(memory, QueueLayout(*driver.layout), form | EVENT_IDX)
    driver.interrupt_after(2)
    path = random_path()
    driver.add([], [4])
    assert queue.serve_natively(path, 8, 1000) == (1, IDLE)
    driver.add([], [4])
    assert queue.serve_natively(path, 8, 1000) == (1, TELL)
    assert queue.needs_notification()
    driver.add([], [4])
    assert queue.serve_natively(path, 8, 1000) == (1, IDLE)


@every_form
def test_the_device_waits_for_a_driver_that_polls(form: int) -> None:
    driver, queue = make(form)
    driver.suppress_interrupts()
    driver.add([], [4])
    back: list[int] = []

    def poll() -> None:
        while not back:
            back.extend(used.length for used in driver.collect())
        driver.add([], [5])

    polling = threading.Thread(target=poll)
    polling.start()
    # A chain, a wait, a chain.
    assert queue.serve_natively(random_path(), 3, FOREVER_NS) == (2, MORE)
    polling.join()
    assert (back, [used.length for used in driver.collect()]) == ([4], [5])


@every_form
def test_waiting_ends_without_a_driver(form: int) -> None:
    _, queue = make(form)
    assert not queue.wait_available(1000)
    assert queue.serve_natively(random_path(), 8, 1000) == (0, IDLE)


@every_form
def test_waiting_pays_for_a_short_time_after_work_only(
    form: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [10**9]
    monkeypatch.setattr(virtqueue, "monotonic_ns", lambda: now[0])
    driver, queue = make(form)
    driver.add([], [4])
    queue.poll_ns = 50_000
    assert queue.patience() == 0
    for chain in queue:
        chain.complete(4)
    now[0] += 199_999
    assert queue.patience() == 50_000
    now[0] += 1
    assert queue.patience() == 0
    queue.poll_ns = 0
    assert queue.patience() == 0


# Life and death


@every_form
def test_after_a_reset_nothing_holds_guest_memory(form: int) -> None:
    driver, queue = make(form)
    driver.add([], [4])
    batch = queue.pop_batch(8)
    queue.reset()
    assert queue.serve_natively(random_path(), 8) == (0, LEFT)
    assert not queue.wait_available(1000)
    assert [chain.writable for chain in batch] == [[]]
    memory = queue.memory
    assert isinstance(memory, type(flat_memory((0, 4096))))
    memory.release()


@every_form
def test_a_queue_that_nobody_holds_any_more_can_be_collected(form: int) -> None:
    for _ in range(20):
        driver, queue = make(form)
        driver.add([], [4])
        driver.add([b"x"], [4])
        assert len(queue.pop_batch(1)) == len(queue.pop_many(1)) == 1
        del driver, queue
        gc.collect()


@every_form
def test_chains_of_any_shape_are_taken_as_python_takes_them(
    form: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name in ("rings", "python"):
        monkeypatch.setattr(engine, "_chosen", name)
        memory = flat_memory((0, 1 << 20))
        driver = (PackedDriver if form else SplitDriver)(memory, 64, indirect=True)
        queue = Queue(memory, QueueLayout(*driver.layout), form | INDIRECT)
        for count in range(1, 8):
            driver.add(
                [b"r" * n for n in range(1, count)], list(range(1, count + 1)), indirect=True
            )
            driver.add([b"direct"] * (count % 3), [9])
        chains = queue.pop_many(64)
        found.append(
            [
                (
                    *(tuple(chain.descriptors), chain.head_index, chain.buffer_id, chain.slots),
                    *(chain.readable_length, chain.writable_length, chain.room),
                    [bytes(view) for view in chain.readable],
                )
                for chain in chains
            ]
        )
        queue.add_used_many([(chain, chain.room) for chain in chains])
        assert len(driver.collect()) == 14
    assert found[0] == found[1]


@every_form
def test_chains_that_are_out_keep_their_place_in_order(form: int) -> None:
    memory = flat_memory((0, 1 << 20))
    driver = (PackedDriver if form else SplitDriver)(memory, 8)
    queue = Queue(memory, QueueLayout(*driver.layout), form | 1 << 35)
    driver.add([], [4])
    driver.add([], [5])
    chain = queue.pop()
    assert chain is not None
    assert queue.serve_natively(random_path(), 8) == (0, LEFT)
    chain.complete(1)
    assert queue.serve_natively(random_path(), 8) == (1, IDLE)
    assert [used.length for used in driver.collect()] == [1, 5]


# Reads that have to wait for the disk


@pytest.fixture
def cold(tmp_path: Path) -> Iterator[RawDisk]:
    """A disk whose file is not in the host's memory."""
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.write(b"".join(struct.pack("<Q", n) * 64 for n in range(COLD_SECTORS)))
        file.flush()
        os.fsync(file.fileno())
    with RawDisk.open(str(image)) as disk:
        if not any(made_cold(disk) for _ in range(50)):
            pytest.skip("the file system of the tests does not tell that a read has to wait")
        yield disk


def made_cold(disk: RawDisk) -> bool:
    os.posix_fadvise(disk.fd, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        os.preadv(disk.fd, [bytearray(1)], disk.size_bytes - 1, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    return False


def come_back(bench: Bench, count: int) -> list[Used]:
    """Let the loop run until so many requests are back; returns them."""
    found: list[Used] = []

    def all_are_there() -> bool:
        bench.serve()
        bench.loop.advance()
        found.extend(bench.drivers[0].collect())
        return len(found) >= count

    wait_until(all_are_there)
    return found


@every_ring
def test_reads_that_wait_for_the_disk_come_back_right(ring: int, cold: RawDisk) -> None:
    block = Block(cold, ring_features=VERSION_1 | EVENT_IDX | INDIRECT | PACKED)
    bench = Bench(block, VERSION_1 | FLUSH | ring)
    driver = bench.drivers[0]
    # Apart by more than the host reads ahead; more than there are threads.
    tokens = {driver.add([header(IN, n)], [512, 1]): n for n in range(0, 40 * APART, APART)}
    used = come_back(bench, 40)
    assert {tokens[one.token]: (one.length, one.data) for one in used} == {
        n: (513, struct.pack("<Q", n) * 64 + b"\0") for n in range(0, 40 * APART, APART)
    }


def test_a_read_that_would_wait_is_left_to_python_and_what_is_before_it_is_done(
    cold: RawDisk,
) -> None:
    bench = Bench(Block(cold), VERSION_1 | FLUSH)
    driver, [queue] = bench.drivers[0], bench.queues
    assert queue is not None
    path = native.block_path(cold.fd, sectors=COLD_SECTORS, writable=False, may_wait=True)
    for cold_sector in range(APART, 40 * APART, APART):
        made_cold(cold)
        os.preadv(cold.fd, [bytearray(512)], 0)
        driver.add([header(IN, 0)], [512, 1])
        driver.add([header(IN, cold_sector)], [512, 1])
        served = queue.serve_natively(path, 8)
        if served == (1, LEFT):
            break
        assert served == (2, IDLE)  # the host had read ahead, or kept that sector
        driver.collect()
    else:
        pytest.skip("the host keeps the file in memory")
    [first, second] = come_back(bench, 2)
    assert (first.data[:8], second.data[:8]) == (bytes(8), struct.pack("<Q", cold_sector))


def test_a_write_to_part_of_a_page_that_must_be_read_first_is_left_to_python(
    cold: RawDisk,
) -> None:
    bench = Bench(Block(cold), VERSION_1 | FLUSH)
    driver, [queue] = bench.drivers[0], bench.queues
    assert queue is not None
    path = native.block_path(cold.fd, sectors=COLD_SECTORS, writable=True, may_wait=True)
    data = memoryview(bytes(4096))
    # A place each, as what is dirty stays in memory. The host may have read one ahead.
    places = iter(range(8 * APART, COLD_SECTORS - 8, 200))

    def left_in_place(start: int, length: int) -> bool:
        return made_cold(cold) and not cold.try_writev([data[:length]], next(places) * 512 + start)

    def left_natively(start: int, length: int) -> bool:
        sector = next(places) + start // 512
        cold_now = made_cold(cold)
        driver.add([header(OUT, sector), b"w" * length], [1])
        served = queue.serve_natively(path, 8)
        [used] = come_back(bench, 1) if served == (0, LEFT) else driver.collect()
        assert used.data == b"\0"
        return cold_now and served == (0, LEFT)

    for start, length in ((512, 512), (0, 512), (512, 3584)):
        assert any(left_in_place(start, length) for _ in range(20))
        assert any(left_natively(start, length) for _ in range(20))

    sector = next(places)
    assert cold.try_writev([data], sector * 512)  # the whole page
    assert cold.try_writev([data[:512]], (sector + 1) * 512)  # which is in memory now
    driver.add([header(OUT, sector + 1), b"w" * 512], [1])
    assert queue.serve_natively(path, 8) == (1, IDLE)


def test_what_is_in_memory_is_read_without_asking_whether_it_has_to_wait() -> None:
    with disk_bench(0) as (bench, disk):
        driver, [queue] = bench.drivers[0], bench.queues
        assert queue is not None
        path = native.block_path(disk.fd, sectors=1, writable=False, may_wait=False)
        driver.add([header(IN, 0)], [512, 1])
        assert queue.serve_natively(path, 8) == (1, IDLE)


def test_a_file_that_ends_too_early_gives_errors_for_what_is_missing(cold: RawDisk) -> None:
    bench = Bench(Block(cold), VERSION_1 | FLUSH)
    driver = bench.drivers[0]
    # Each read begins where there is something, and the second half of the last is not there.
    os.ftruncate(cold.fd, (2 * APART + 1) * 512)
    tokens = {driver.add([header(IN, n)], [1024, 1]): n for n in range(0, 3 * APART, APART)}
    used = come_back(bench, 3)
    found = {tokens[one.token]: (one.length, one.data[-1]) for one in used}
    assert found == {0: (1025, 0), APART: (1025, 0), 2 * APART: (0, 1)}
