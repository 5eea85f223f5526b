"""The block device: every request gets its answer, and the medium exactly what was asked."""

import errno
import logging
import struct
import time
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest

from virtio.block import Block, BlockBackend
from virtio.errors import ConfigurationError
from virtio.testing import Segment, Used
from virtio.testing.bench import Bench

VERSION_1 = 1 << 32
RO, FLUSH, CONFIG_WCE, MQ, DISCARD, WRITE_ZEROES = (1 << n for n in (5, 9, 11, 12, 13, 14))
IN, OUT, FLUSH_TYPE, GET_ID, DISCARD_TYPE, WRITE_ZEROES_TYPE = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = b"\x00", b"\x01", b"\x02"
SECTORS = 64


class Medium(BlockBackend):
    """A backend in memory that notes what is done to it, and fails when told."""

    may_wait = False

    def __init__(self, *, sectors: int = SECTORS, read_only: bool = False) -> None:
        self.size_bytes = sectors * 512
        self.read_only = read_only
        self.can_unmap = True
        self.data = bytearray(i // 512 % 251 + 1 for i in range(min(self.size_bytes, 1 << 20)))
        self.trace: list[str] = []
        self.failures: dict[str, int] = {}

    def _note(self, name: str, detail: str = "") -> None:
        self.trace.append(name + detail)
        if name in self.failures:
            raise OSError(self.failures[name], "told to fail")

    def readv(self, views: Sequence[memoryview], offset: int) -> None:
        self._note("read", f" {offset // 512}")
        for view in views:
            view[:] = self.data[offset : offset + len(view)]
            offset += len(view)

    def writev(self, views: Sequence[memoryview], offset: int) -> None:
        self._note("write", f" {offset // 512}")
        for view in views:
            self.data[offset : offset + len(view)] = view
            offset += len(view)

    def flush(self) -> None:
        self._note("flush")

    def discard(self, offset: int, length: int) -> None:
        self._note("discard", f" {offset // 512}+{length // 512}")

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        self._note("zero", f" {offset // 512}+{length // 512} {unmap}")
        self.data[offset : offset + length] = bytes(length)


def header(kind: int, sector: int = 0) -> bytes:
    return struct.pack("<IIQ", kind, 0, sector)


def ranges(*segments: tuple[int, int, int]) -> bytes:
    return b"".join(struct.pack("<QII", *segment) for segment in segments)


def bench_of(medium: Medium, features: int | None = None, **options: Any) -> Bench:
    return Bench(Block(medium, **options), features)


def status(used: Used) -> bytes:
    return used.data[-1:]


@pytest.fixture
def medium() -> Medium:
    return Medium()


class TestOffer:
    def test_a_writable_disk(self, medium: Medium) -> None:
        offered = Block(medium, ring_features=0).device_features

        assert offered == VERSION_1 | sum(1 << n for n in (2, 6, 9, 10, 11, 13, 14))

    def test_a_read_only_disk(self) -> None:
        offered = Block(Medium(read_only=True), ring_features=0).device_features

        assert offered == VERSION_1 | sum(1 << n for n in (2, 5, 6, 9, 10))

    def test_several_queues_come_with_their_feature(self, medium: Medium) -> None:
        device = Block(medium, queues=4)

        assert device.device_features & MQ
        assert device.queue_max_sizes == (256, 256, 256, 256)

    def test_without_multiqueue_accepted_there_is_one_queue(self, medium: Medium) -> None:
        device = Block(medium, queues=4)
        device.negotiated(VERSION_1)

        assert [device.queue_max_size(index) for index in range(3)] == [256, 0, 0]

    def test_the_configuration_lies_where_the_specification_puts_it(self, medium: Medium) -> None:
        config = Block(medium, block_size=4096, queues=2).read_config(0, 0x60)

        assert config == b"".join(
            (
                struct.pack("<QIII", 64, 0, 254, 0),  # capacity, size_max, seg_max, geometry
                struct.pack("<IBBHI", 4096, 0, 0, 1, 0),  # blk_size, topology
                struct.pack("<BBH", 1, 0, 2),  # writeback, num_queues
                struct.pack("<III", 1 << 22, 16, 8),  # discard
                struct.pack("<IIB3x", 1 << 14, 1, 1),  # write zeroes
                bytes(36),  # secure erase, zoned
            )
        )

    def test_small_blocks_tell_of_the_larger_physical_ones(self, medium: Medium) -> None:
        assert Block(medium).read_config(0x14, 8) == struct.pack("<IBBH", 512, 3, 0, 8)

    def test_fields_of_features_not_offered_read_zero(self) -> None:
        config = Block(Medium(read_only=True)).read_config(0, 0x60)

        assert config[0x20:] == bytes(0x40)

    @pytest.mark.parametrize(
        "options",
        [
            {"serial": "x" * 21},
            {"serial": "ü"},
            {"serial": "a\n"},
            {"block_size": 0},
            {"block_size": 513},
            {"block_size": 8192},
            {"queues": 0},
            {"queues": 65},
        ],
    )
    def test_what_cannot_be_is_refused(self, medium: Medium, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError):
            Block(medium, **options)

    def test_a_block_size_must_divide_the_disk(self) -> None:
        with pytest.raises(ConfigurationError, match="4608 bytes"):
            Block(Medium(sectors=9), block_size=4096)


class TestReading:
    def test_sectors_are_read(self, medium: Medium) -> None:
        used = bench_of(medium).request([header(IN, 2)], [1024, 1])

        assert used == Used(0, 1025, b"\x03" * 512 + b"\x04" * 512 + OK)

    @pytest.mark.parametrize("cut", [1, 15, 511, 512])
    def test_data_and_status_may_be_cut_anywhere(self, medium: Medium, cut: int) -> None:
        request = header(IN, 2)

        used = bench_of(medium).request(
            [request[: cut % 16], request[cut % 16 :]], [cut, 513 - cut]
        )

        assert (used.length, used.data) == (513, b"\x03" * 512 + OK)

    def test_the_last_sector_can_be_read(self, medium: Medium) -> None:
        assert status(bench_of(medium).request([header(IN, 63)], [512, 1])) == OK

    @pytest.mark.parametrize("sector", [63, 64, 65, 1 << 55, 1 << 63, (1 << 64) - 1])
    def test_beyond_the_capacity_is_an_error_and_reads_nothing(
        self, medium: Medium, sector: int
    ) -> None:
        used = bench_of(medium).request([header(IN, sector)], [1024, 1])

        assert (used.length, used.data) == (0, b"\xa5" * 1024 + IOERR)
        assert medium.trace == []

    @pytest.mark.parametrize("length", [1, 511, 513])
    def test_broken_sectors_are_an_error(self, medium: Medium, length: int) -> None:
        used = bench_of(medium).request([header(IN)], [length, 1])

        assert (used.length, status(used), medium.trace) == (0, IOERR, [])

    def test_reading_nothing_succeeds_without_the_backend(self, medium: Medium) -> None:
        used = bench_of(medium).request([header(IN)], [1])

        assert (used, medium.trace) == (Used(0, 1, OK), [])

    def test_data_that_is_not_asked_for_is_ignored(self, medium: Medium) -> None:
        used = bench_of(medium).request([header(IN), b"surplus"], [512, 1])

        assert (used.length, used.data) == (513, b"\x01" * 512 + OK)

    def test_a_failing_backend_gives_no_bytes(
        self, medium: Medium, caplog: pytest.LogCaptureFixture
    ) -> None:
        medium.failures["read"] = errno.EIO

        with caplog.at_level(logging.WARNING):
            used = bench_of(medium).request([header(IN, 7)], [512, 1])

        assert (used.length, status(used)) == (0, IOERR)
        assert "type 0 at sector 7 in queue 0 failed: [Errno 5]" in caplog.text
        # Whoever keeps the record must not keep the request's memory with it.
        assert all(isinstance(value, str) for value in caplog.records[0].args or ())

    def test_a_failing_backend_does_not_flood_the_log(
        self, medium: Medium, caplog: pytest.LogCaptureFixture
    ) -> None:
        medium.failures["read"] = errno.EIO
        start = time.monotonic()
        bench = bench_of(medium)

        with caplog.at_level(logging.WARNING):
            for _ in range(200):
                bench.request([header(IN)], [512, 1])

        assert 10 <= len(caplog.records) <= 10 + (time.monotonic() - start)


class TestWriting:
    def test_sectors_are_written(self, medium: Medium) -> None:
        before = bytes(medium.data)

        used = bench_of(medium).request([header(OUT, 1), b"w" * 1024], [1])

        assert used == Used(0, 1, OK)
        assert medium.data == before[:512] + b"w" * 1024 + before[1536:]

    @pytest.mark.parametrize("cut", [1, 16, 17, 300])
    def test_header_and_data_may_be_cut_anywhere(self, medium: Medium, cut: int) -> None:
        request = header(OUT, 5) + b"w" * 512

        used = bench_of(medium).request([request[:cut], request[cut:]], [1])

        assert status(used) == OK
        assert medium.data[2560:3072] == b"w" * 512

    @pytest.mark.parametrize("sector", [63, 64, 1 << 55, (1 << 64) - 1])
    def test_beyond_the_capacity_is_an_error_and_writes_nothing(
        self, medium: Medium, sector: int
    ) -> None:
        used = bench_of(medium).request([header(OUT, sector), b"w" * 1024], [1])

        assert (status(used), medium.trace) == (IOERR, [])

    @pytest.mark.parametrize("length", [1, 511, 513])
    def test_broken_sectors_are_an_error(self, medium: Medium, length: int) -> None:
        used = bench_of(medium).request([header(OUT), b"w" * length], [1])

        assert (status(used), medium.trace) == (IOERR, [])

    @pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
    def test_a_failing_backend_is_an_error(self, medium: Medium, code: int) -> None:
        medium.failures["write"] = code

        used = bench_of(medium).request([header(OUT), b"w" * 512], [1])

        assert used == Used(0, 1, IOERR)

    @pytest.mark.parametrize("features", [VERSION_1, VERSION_1 | RO])
    @pytest.mark.parametrize("kind", [OUT, DISCARD_TYPE, WRITE_ZEROES_TYPE, 14])
    def test_a_read_only_disk_is_not_changed(self, features: int, kind: int) -> None:
        medium = Medium(read_only=True)

        used = bench_of(medium, features).request([header(kind), b"w" * 512], [1])

        assert (status(used), medium.trace) == (IOERR, [])


class TestBadRequests:
    @pytest.mark.parametrize("length", [1, 15])
    def test_a_short_header_is_an_error(self, medium: Medium, length: int) -> None:
        used = bench_of(medium).request([bytes(length)], [512, 1])

        assert (used.length, used.data, medium.trace) == (0, b"\xa5" * 512 + IOERR, [])

    def test_a_missing_header_is_an_error(self, medium: Medium) -> None:
        assert bench_of(medium).request([], [1]) == Used(0, 1, IOERR)

    def test_a_request_without_room_for_a_status_does_nothing(self, medium: Medium) -> None:
        used = bench_of(medium).request([header(OUT), b"w" * 512], [])

        assert (used.length, medium.trace) == (0, [])

    @pytest.mark.parametrize(
        "kind", [2, 3, 5, 6, 7, 9, 10, 12, *range(14, 32), 1 << 31, 0xFFFFFFFF]
    )
    def test_an_unknown_type_is_unsupported(self, medium: Medium, kind: int) -> None:
        used = bench_of(medium).request([header(kind), bytes(16)], [32, 1])

        assert (used.length, used.data, medium.trace) == (0, b"\xa5" * 32 + UNSUPP, [])

    @pytest.mark.parametrize("kind", [DISCARD_TYPE, WRITE_ZEROES_TYPE])
    def test_a_type_that_was_not_negotiated_is_unsupported(self, medium: Medium, kind: int) -> None:
        used = bench_of(medium, VERSION_1).request([header(kind), ranges((0, 8, 0))], [1])

        assert (status(used), medium.trace) == (UNSUPP, [])


class TestCache:
    def test_flush_reaches_the_backend_before_its_status(self, medium: Medium) -> None:
        used = bench_of(medium).request([header(FLUSH_TYPE, 5), b"ignored"], [1])

        assert (used, medium.trace) == (Used(0, 1, OK), ["flush"])

    @pytest.mark.parametrize(
        ("features", "trace"),
        [
            (0, ["write 0", "flush"]),
            (FLUSH, ["write 0"]),
            (CONFIG_WCE, ["write 0", "flush"]),
            (FLUSH | CONFIG_WCE, ["write 0"]),
        ],
    )
    def test_who_took_the_duty_to_flush_decides_when_a_write_is_stable(
        self, medium: Medium, features: int, trace: list[str]
    ) -> None:
        bench_of(medium, VERSION_1 | features).request([header(OUT), b"w" * 512], [1])

        assert medium.trace == trace

    @pytest.mark.parametrize(
        ("features", "writeback"), [(CONFIG_WCE, 0), (FLUSH | CONFIG_WCE, 1), (0, 1), (FLUSH, 1)]
    )
    def test_how_writeback_starts(self, medium: Medium, features: int, writeback: int) -> None:
        bench = bench_of(medium, VERSION_1 | features)

        assert bench.device.read_config(0x20, 1)[0] == writeback

    def test_the_driver_can_turn_the_cache_off_and_on(self, medium: Medium) -> None:
        bench = bench_of(medium)
        bench.device.write_config(0x20, b"\x00")
        bench.request([header(OUT, 1), b"w" * 512], [1])
        bench.device.write_config(0x20, b"\x01")
        bench.request([header(OUT, 2), b"w" * 512], [1])

        assert medium.trace == ["write 1", "flush", "write 2"]

    def test_ranges_are_made_stable_too(self, medium: Medium) -> None:
        bench = bench_of(medium)
        bench.device.write_config(0x20, b"\x00")
        bench.request([header(WRITE_ZEROES_TYPE), ranges((0, 1, 0))], [1])

        assert medium.trace == ["zero 0+1 False", "flush"]

    @pytest.mark.parametrize("value", [2, 255])
    def test_other_values_of_writeback_are_dropped(self, medium: Medium, value: int) -> None:
        bench = bench_of(medium)

        bench.device.write_config(0x20, bytes([value]))

        assert bench.device.read_config(0x20, 1) == b"\x01"

    def test_nothing_else_can_be_written(self, medium: Medium) -> None:
        bench = bench_of(medium)
        before = bench.device.read_config(0, 0x60)

        bench.device.write_config(0, b"\x00" * 0x20)
        bench.device.write_config(0x21, b"\x00" * 0x40)

        assert bench.device.read_config(0, 0x60) == before

    def test_a_failed_sync_is_remembered(self, medium: Medium) -> None:
        bench = bench_of(medium)
        medium.failures["flush"] = errno.EIO
        first = status(bench.request([header(FLUSH_TYPE)], [1]))
        medium.failures.clear()

        assert (first, status(bench.request([header(FLUSH_TYPE)], [1]))) == (IOERR, IOERR)
        assert medium.trace == ["flush"]

    def test_a_failed_sync_outlives_reset_and_snapshot(self, medium: Medium) -> None:
        bench = bench_of(medium)
        medium.failures["flush"] = errno.EIO
        bench.request([header(FLUSH_TYPE)], [1])
        medium.failures.clear()

        bench.restore_into(Block(medium))
        bench.reset()

        assert status(Bench(bench.device).request([header(FLUSH_TYPE)], [1])) == IOERR

    def test_reset_returns_writeback_to_its_start(self, medium: Medium) -> None:
        bench = bench_of(medium)
        bench.device.write_config(0x20, b"\x00")

        bench.reset()

        assert bench.device.read_config(0x20, 1) == b"\x01"


class TestRanges:
    def test_discard_reaches_the_backend(self, medium: Medium) -> None:
        used = bench_of(medium).request([header(DISCARD_TYPE), ranges((8, 16, 0), (32, 8, 0))], [1])

        assert (status(used), medium.trace) == (OK, ["discard 8+16", "discard 32+8"])

    @pytest.mark.parametrize(("flags", "trace"), [(0, "zero 3+5 False"), (1, "zero 3+5 True")])
    def test_zeroes_are_written(self, medium: Medium, flags: int, trace: str) -> None:
        used = bench_of(medium).request([header(WRITE_ZEROES_TYPE), ranges((3, 5, flags))], [1])

        assert (status(used), medium.trace) == (OK, [trace])
        assert medium.data[1536:4096] == bytes(2560)

    @pytest.mark.parametrize("cut", [1, 8, 15])
    def test_a_range_may_be_cut_anywhere(self, medium: Medium, cut: int) -> None:
        data = ranges((8, 16, 0))

        used = bench_of(medium).request([header(DISCARD_TYPE) + data[:cut], data[cut:]], [1])

        assert (status(used), medium.trace) == (OK, ["discard 8+16"])

    @pytest.mark.parametrize("length", [0, 15, 17, 16 * 17])
    def test_a_wrong_length_is_an_error(self, medium: Medium, length: int) -> None:
        used = bench_of(medium).request([header(DISCARD_TYPE) + bytes(length)], [1])

        assert (status(used), medium.trace) == (IOERR, [])

    @pytest.mark.parametrize("kind", [DISCARD_TYPE, WRITE_ZEROES_TYPE])
    @pytest.mark.parametrize("flags", [2, 3, 0x80000000])
    def test_reserved_flags_are_unsupported(self, medium: Medium, kind: int, flags: int) -> None:
        used = bench_of(medium).request([header(kind), ranges((0, 8, flags))], [1])

        assert (status(used), medium.trace) == (UNSUPP, [])

    def test_discard_with_unmap_is_unsupported(self, medium: Medium) -> None:
        used = bench_of(medium).request([header(DISCARD_TYPE), ranges((0, 8, 1))], [1])

        assert (status(used), medium.trace) == (UNSUPP, [])

    @pytest.mark.parametrize(
        "bad", [(64, 1, 0), (60, 8, 0), ((1 << 64) - 1, 2, 0), (0, 0xFFFFFFFF, 0)]
    )
    def test_one_bad_range_leaves_the_others_unapplied(
        self, medium: Medium, bad: tuple[int, int, int]
    ) -> None:
        used = bench_of(medium).request([header(DISCARD_TYPE), ranges((0, 8, 0), bad)], [1])

        assert (status(used), medium.trace) == (IOERR, [])

    @pytest.mark.parametrize(("kind", "limit"), [(DISCARD_TYPE, 1 << 22), (13, 1 << 14)])
    def test_a_range_longer_than_allowed_is_an_error(self, kind: int, limit: int) -> None:
        medium = Medium(sectors=1 << 30)
        bench = bench_of(medium)

        good = bench.request([header(kind), ranges((0, limit, 0))], [1])
        bad = bench.request([header(kind), ranges((0, limit + 1, 0))], [1])

        assert (status(good), status(bad), len(medium.trace)) == (OK, IOERR, 1)

    def test_an_empty_range_is_left_out(self, medium: Medium) -> None:
        used = bench_of(medium).request([header(DISCARD_TYPE), ranges((8, 0, 0))], [1])

        assert (status(used), medium.trace) == (OK, [])

    def test_a_host_that_cannot_unmap_after_all_is_announced(self, medium: Medium) -> None:
        bench = bench_of(medium)
        medium.can_unmap = False

        bench.request([header(WRITE_ZEROES_TYPE), ranges((0, 8, 1))], [1])

        assert bench.device.read_config(0x38, 1) == b"\x00"
        assert bench.config_interrupts == 1
        assert bench.device.device_features & DISCARD


class TestIdentity:
    @pytest.mark.parametrize("serial", ["", "disk0", "x" * 20])
    def test_the_serial_is_padded_to_20_bytes(self, medium: Medium, serial: str) -> None:
        used = bench_of(medium, serial=serial).request([header(GET_ID)], [20, 1])

        assert (used.length, used.data) == (21, serial.encode().ljust(20, b"\0") + OK)

    def test_a_short_buffer_gets_the_beginning(self, medium: Medium) -> None:
        used = bench_of(medium, serial="abcdefghijklmnop").request([header(GET_ID)], [10, 1])

        assert (used.length, used.data) == (11, b"abcdefghij" + OK)

    def test_of_a_long_buffer_only_20_bytes_are_written_and_told(self, medium: Medium) -> None:
        used = bench_of(medium, serial="abc").request([header(GET_ID)], [30, 1])

        assert (used.length, used.data) == (20, b"abc" + bytes(17) + b"\xa5" * 10 + OK)


class TestLargeTransfers:
    """Requests above 8 MiB: they go on in steps, between other work."""

    LARGE = 20 << 20

    @pytest.fixture
    def zeroes(self) -> Medium:
        medium = Medium(sectors=1 << 21)
        medium.data = bytearray(32 << 20)
        return medium

    def start(self, medium: Medium, kind: int, *, features: int | None = None) -> Bench:
        """Serve one large request of five segments as far as its first step."""
        bench = Bench(Block(medium), features, memory_bytes=64 << 20)
        driver = bench.drivers[0]
        requested = driver.arena.allocate(17)
        driver.write_bytes(requested, header(kind, 1))
        data = Segment(32 << 20, self.LARGE // 5, kind == IN)
        driver.add_segments(
            [Segment(requested, 16, False), *[data] * 5, Segment(requested + 16, 1, True)]
        )
        bench.serve()
        return bench

    def test_a_large_read_is_done_in_steps(self, zeroes: Medium) -> None:
        bench = self.start(zeroes, IN)
        early = bench.drivers[0].collect()

        steps = [bench.loop.advance() for _ in range(4)]

        assert (early, steps) == ([], [1, 1, 0, 0])
        assert zeroes.trace == ["read 1", "read 16385", "read 32769"]
        [used] = bench.drivers[0].collect()
        assert (used.length, status(used)) == (self.LARGE + 1, OK)

    def test_a_large_write_is_stable_at_its_end(self, zeroes: Medium) -> None:
        bench = self.start(zeroes, OUT, features=VERSION_1)

        bench.loop.advance()
        bench.loop.advance()

        assert zeroes.trace == ["write 1", "write 16385", "write 32769", "flush"]
        [used] = bench.drivers[0].collect()
        assert (used.length, status(used)) == (1, OK)

    def test_small_requests_are_served_between_the_steps(self, zeroes: Medium) -> None:
        bench = self.start(zeroes, IN)

        bench.request([header(IN)], [512, 1])

        assert zeroes.trace == ["read 1", "read 0"]

    def test_a_step_that_fails_ends_the_request(self, zeroes: Medium) -> None:
        bench = self.start(zeroes, IN)
        zeroes.failures["read"] = errno.EIO

        bench.loop.advance()

        [used] = bench.drivers[0].collect()
        assert (used.length, status(used), bench.loop.advance()) == (0, IOERR, 0)

    def test_a_disk_that_shrinks_meanwhile_ends_the_request(self, zeroes: Medium) -> None:
        bench = self.start(zeroes, IN)
        bench.device.resize(20000)  # type: ignore[attr-defined]

        bench.loop.advance()

        [used] = bench.drivers[0].collect()
        assert (used.length, status(used), zeroes.trace) == (0, IOERR, ["read 1"])

    def test_reset_drops_the_rest(self, zeroes: Medium) -> None:
        bench = self.start(zeroes, IN)
        timers = list(bench.loop.timers)

        bench.reset()
        timers[0].callback()

        assert zeroes.trace == ["read 1"]
        assert bench.drivers[0].collect() == []

    def test_disabling_the_queue_drops_the_rest(self, zeroes: Medium) -> None:
        bench = self.start(zeroes, IN)

        bench.disable_queue(0)
        bench.loop.advance()

        assert zeroes.trace == ["read 1"]

    def test_a_snapshot_starts_the_request_again(self, zeroes: Medium) -> None:
        bench = self.start(zeroes, IN)

        bench.restore_into(Block(zeroes))
        bench.serve()
        bench.loop.advance()
        bench.loop.advance()

        assert zeroes.trace == ["read 1", "read 1", "read 16385", "read 32769"]
        [used] = bench.drivers[0].collect()
        assert (used.length, status(used)) == (self.LARGE + 1, OK)

    def test_a_request_of_a_gibibyte_takes_no_memory(self, zeroes: Medium) -> None:
        zeroes.readv = lambda views, offset: None  # type: ignore[method-assign]
        bench = Bench(Block(zeroes), memory_bytes=64 << 20)
        driver = bench.drivers[0]
        requested = driver.arena.allocate(17)
        driver.write_bytes(requested, header(IN))
        data = Segment(32 << 20, 1 << 23, True)
        tracemalloc.start()
        driver.add_segments(
            [Segment(requested, 16, False), *[data] * 127, Segment(requested + 16, 1, True)]
        )

        bench.serve()
        steps = [bench.loop.advance() for _ in range(126)]

        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (sum(steps), driver.used_element(0)[1]) == (126, (127 << 23) + 1)  # type: ignore[attr-defined]
        assert peak < 1 << 20


class TestResize:
    def test_a_new_capacity_is_announced(self, medium: Medium) -> None:
        bench = bench_of(medium)
        generation = bench.device.config_generation

        bench.device.resize(32)  # type: ignore[attr-defined]

        assert bench.device.read_config(0, 8) == struct.pack("<Q", 32)
        assert (bench.device.config_generation, bench.config_interrupts) == (generation + 1, 1)

    def test_the_new_capacity_bounds_requests(self, medium: Medium) -> None:
        bench = bench_of(medium)
        bench.device.resize(32)  # type: ignore[attr-defined]

        assert status(bench.request([header(IN, 31)], [512, 1])) == OK
        assert status(bench.request([header(IN, 32)], [512, 1])) == IOERR

    @pytest.mark.parametrize("sectors", [-1, 65])
    def test_more_than_the_backend_has_is_refused(self, medium: Medium, sectors: int) -> None:
        with pytest.raises(ConfigurationError, match="0 to 64 are allowed"):
            Block(medium).resize(sectors)


def test_any_request_can_go_to_any_queue(medium: Medium) -> None:
    bench = bench_of(medium, queues=3)

    answers = [bench.request([header(IN, 9)], [512, 1], queue=index) for index in (2, 0, 1)]

    assert [used.data for used in answers] == [b"\x0a" * 512 + OK] * 3
    assert bench.interrupts == [2, 0, 1]
