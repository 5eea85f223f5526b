"""The entropy device: random bytes, in time, in order, and no more than it should give."""

import tracemalloc

import pytest

from virtio.entropy import Entropy
from virtio.rate import TokenBucket
from virtio.testing import Segment
from virtio.testing.bench import Bench

VERSION_1 = 1 << 32


class Source:
    """Random bytes of a kind: the letter that is next, as many as there are."""

    def __init__(self, supply: int = 0) -> None:
        self.supply = supply
        self.asked: list[int] = []

    def __call__(self, wanted: int) -> bytes:
        self.asked.append(wanted)
        granted = min(wanted, self.supply)
        self.supply -= granted
        return b"r" * granted


class TestFilling:
    @pytest.mark.parametrize("length", [1, 16, 4096, 65536])
    def test_a_buffer_is_filled(self, length: int) -> None:
        bench = Bench(Entropy(source=Source(1 << 20)))

        used = bench.request([], [length])

        assert (used.length, used.data) == (length, b"r" * length)

    def test_a_scattered_buffer_is_filled(self) -> None:
        used = Bench(Entropy(source=Source(1 << 20))).request([], [1, 100, 3])

        assert (used.length, used.data) == (104, b"r" * 104)

    def test_a_source_that_has_less_fills_the_beginning(self) -> None:
        used = Bench(Entropy(source=Source(5))).request([], [8])

        assert (used.length, used.data) == (5, b"rrrrr\xa5\xa5\xa5")

    def test_the_bytes_differ_from_buffer_to_buffer(self) -> None:
        bench = Bench(Entropy())

        assert bench.request([], [32]).data != bench.request([], [32]).data

    def test_a_buffer_without_room_comes_back_empty(self) -> None:
        used = Bench(Entropy()).request([b"readable"], [])

        assert used.length == 0

    def test_of_a_mixed_buffer_only_the_writable_part_is_filled(self) -> None:
        bench = Bench(Entropy(source=Source(100)))
        address = bench.drivers[0].arena.allocate(8)
        bench.drivers[0].write_bytes(address, b"untouch!")
        writable = bench.drivers[0].arena.allocate(4)
        bench.drivers[0].add_segments([Segment(address, 8, False), Segment(writable, 4, True)])

        bench.serve()

        [used] = bench.drivers[0].collect()
        assert (used.length, used.data) == (4, b"rrrr")
        assert bench.drivers[0].read_bytes(address, 8) == b"untouch!"

    def test_a_huge_buffer_gets_a_bounded_part(self) -> None:
        source = Source(1 << 40)
        bench = Bench(Entropy(source=source), memory_bytes=64 << 20)
        segment = Segment(0x100000, 32 << 20, True)
        bench.drivers[0].add_segments([segment] * 100)
        tracemalloc.start()

        bench.serve()

        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert source.asked == [65536]
        assert bench.drivers[0].used_element(0)[1] == 65536  # type: ignore[attr-defined]
        assert peak < 1 << 20


class TestDrySource:
    def test_nothing_comes_back_while_the_source_is_dry(self) -> None:
        bench = Bench(Entropy(source=Source()))
        bench.drivers[0].add([], [8])

        bench.serve()
        bench.loop.advance(10)

        assert bench.drivers[0].collect() == []

    def test_a_buffer_that_waited_is_filled_when_there_is_a_byte(self) -> None:
        source = Source()
        bench = Bench(Entropy(source=source), VERSION_1)
        bench.drivers[0].add([], [8])
        bench.serve()

        source.supply = 3
        bench.loop.advance(0.05)

        [used] = bench.drivers[0].collect()
        assert (used.length, bench.interrupts) == (3, [0])

    def test_buffers_that_wait_are_served_in_order(self) -> None:
        source = Source()
        bench = Bench(Entropy(source=source))
        driver = bench.drivers[0]
        tokens = [driver.add([], [8]), driver.add([b"x"], []), driver.add([], [8])]
        bench.serve()
        source.supply = 100
        tokens.append(driver.add([], [8]))
        bench.serve()

        bench.loop.advance(0.05)

        used = bench.drivers[0].collect()
        assert [(one.token, one.length) for one in used] == list(
            zip(tokens, [8, 0, 8, 8], strict=True)
        )

    def test_only_one_timer_runs_however_many_buffers_wait(self) -> None:
        bench = Bench(Entropy(source=Source()))
        for _ in range(10):
            bench.drivers[0].add([], [8])

        bench.serve()

        assert len(bench.loop.timers) == 1

    def test_reset_forgets_the_buffers_that_wait(self) -> None:
        source = Source()
        bench = Bench(Entropy(source=source))
        bench.drivers[0].add([], [8])
        bench.serve()
        timers = list(bench.loop.timers)

        bench.reset()
        source.supply = 100
        timers[0].callback()

        assert bench.drivers[0].collect() == []
        assert source.supply == 100

    def test_disabling_the_queue_forgets_the_buffers_that_wait(self) -> None:
        source = Source()
        bench = Bench(Entropy(source=source))
        bench.drivers[0].add([], [8])
        bench.serve()

        bench.disable_queue(0)
        source.supply = 100
        bench.loop.advance(1)

        assert source.supply == 100

    def test_a_buffer_that_waits_outlives_a_snapshot(self) -> None:
        bench = Bench(Entropy(source=Source()))
        token = bench.drivers[0].add([], [8])
        bench.serve()

        bench.restore_into(Entropy(source=Source(100)))
        bench.serve()

        [used] = bench.drivers[0].collect()
        assert (used.token, used.length) == (token, 8)


class TestRate:
    def test_the_rate_bounds_what_is_given(self) -> None:
        device = Entropy(source=Source(1 << 20))
        bench = Bench(device)
        device.rate = TokenBucket(100, 100, lambda: bench.loop.now)
        given = [bench.request([], [70]).length, bench.request([], [70]).length]
        bench.drivers[0].add([], [70])
        bench.serve()
        dry = bench.drivers[0].collect()

        bench.loop.advance(0.5)

        [used] = bench.drivers[0].collect()
        assert (given, dry, used.length) == ([70, 30], [], 50)

    def test_a_rate_that_is_set_later_bounds_what_native_code_gave(self) -> None:
        device = Entropy()
        bench = Bench(device)
        before = bench.request([], [200]).length

        device.rate = TokenBucket(100, 100, lambda: bench.loop.now)

        assert (before, bench.request([], [200]).length) == (200, 100)

    def test_what_the_source_did_not_have_is_not_counted(self) -> None:
        source = Source(10)
        bench = Bench(Entropy(source=source, bytes_per_second=1000))
        first = bench.request([], [1000]).length
        source.supply = 1 << 20

        assert (first, bench.request([], [1000]).length >= 990) == (10, True)

    @pytest.mark.parametrize("rate", [0, -1])
    def test_a_rate_of_zero_or_less_is_refused(self, rate: int) -> None:
        with pytest.raises(ValueError, match="must be > 0"):
            Entropy(bytes_per_second=rate)


def test_the_device_type_and_its_empty_configuration() -> None:
    device = Entropy()

    assert (device.device_id, device.queue_max_sizes) == (4, (256,))
    assert device.read_config(0, 256) == bytes(256)
    assert device.device_features & ((1 << 24) - 1) == 0
