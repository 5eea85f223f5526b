"""What an author declares, and what a driver and a transport then see of it."""

from typing import Any

import pytest

from virtio.device.declaration import Device, feature, field, queue
from virtio.device.lifecycle import Activation, EventLoop
from virtio.errors import InternalError
from virtio.memory import FlatMemory
from virtio.testing.bench import Bench
from virtio.virtqueue.batch import ChainBatch
from virtio.virtqueue.chain import DescriptorChain
from virtio.virtqueue.queue import Queue

VERSION_1 = 1 << 32


class Example(Device):
    """A device with some of everything."""

    device_id = 42

    FIRST = feature(0)
    SECOND = feature(1, requires=(FIRST,))
    THIRD = feature(2, requires_any=(FIRST, SECOND))
    HIDDEN = feature(3, when=lambda device: device.shows_hidden)
    NEEDS_HIDDEN = feature(4, requires=(HIDDEN,))
    MANY = feature(5)

    size = field("u64", 0x00)
    mode = field("u8", 0x08, feature=FIRST, writable=True, default=7)
    level = field("u16", 0x0A)
    secret = field("u32", 0x0C, feature=HIDDEN, default=0xFFFFFFFF)
    name = field("bytes", 0x10, length=6, default=b"abc")
    emergency = field("u32", 0x18, feature=SECOND, early=True)
    pairs = field("u16", 0x1C, default=3)
    wide = field("u32", 0x20, writable=True, default=0x44332211)

    def __init__(self, *, shows_hidden: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.shows_hidden = shows_hidden
        self.calls: list[tuple[str, object]] = []

    @emergency.written
    def _emergency_written(self, value: int) -> bool:
        self.calls.append(("emergency", value))
        return False

    @queue(size=16)
    def controlq(self, chain: DescriptorChain) -> int | None:
        self.calls.append(("controlq", bytes(chain.read(16))))
        return 0

    @queue(size=32, count="pairs", multiqueue=MANY)
    def dataq(self, chain: DescriptorChain, number: int) -> int | None:
        self.calls.append(("dataq", number))
        return None

    @queue(size=8, feature=SECOND, batch=True)
    def statsq(self, chains: ChainBatch) -> list[int | None]:
        self.calls.append(("statsq", len(chains)))
        return [0] * len(chains)

    @queue(size=4, manual=True)
    def eventq(self, live: Queue) -> bool:
        self.calls.append(("eventq", live))
        return True


class NoLoop:
    """Stands where a loop is needed, and is never used."""


def live(device: Device, features: int, queues: list[Any] | None = None) -> list[None]:
    """Take the device to DRIVER_OK; returns what counts its configuration interrupts."""
    interrupts: list[None] = []
    loop: EventLoop = NoLoop()  # type: ignore[assignment]
    device.negotiated(features)
    device.activate(
        Activation(
            FlatMemory([]), features, queues or [None] * 8, lambda: interrupts.append(None), loop
        )
    )
    return interrupts


class TestFeatures:
    def test_the_ring_features_offered_by_default(self) -> None:
        assert Example().ring_features == 1 << 28 | 1 << 29 | 1 << 32 | 1 << 40

    def test_the_device_features_are_those_declared(self) -> None:
        assert Example(ring_features=0).device_features == VERSION_1 | 0b100111

    def test_a_feature_is_offered_when_its_condition_holds(self) -> None:
        device = Example(ring_features=0, shows_hidden=True)

        assert device.device_features == VERSION_1 | 0b111111

    def test_version_1_is_offered_whatever_the_mask(self) -> None:
        assert Example(ring_features=1 << 29).ring_features == 1 << 29 | VERSION_1

    def test_in_order_is_not_offered_without_the_promise(self) -> None:
        assert Example(ring_features=1 << 35).ring_features == VERSION_1

    def test_in_order_is_offered_with_the_promise(self) -> None:
        class Ordered(Device):
            in_order = True

        assert Ordered(ring_features=1 << 35).ring_features == VERSION_1 | 1 << 35

    @pytest.mark.parametrize("bit", [0, 24, 27, 30, 33, 36, 37, 39, 41, 43, 44, 128])
    def test_a_foreign_bit_is_no_ring_feature(self, bit: int) -> None:
        with pytest.raises(ValueError, match="ring features"):
            Example(ring_features=1 << bit)

    @pytest.mark.parametrize("bit", [-1, 24, 28, 44, 49, 128])
    def test_a_reserved_bit_cannot_be_declared(self, bit: int) -> None:
        with pytest.raises(ValueError, match="a device type owns bits"):
            feature(bit)

    @pytest.mark.parametrize("features", [0b000, 0b001, 0b011, 0b101, 0b111, 0b100001])
    def test_sets_with_their_prerequisites_are_acceptable(self, features: int) -> None:
        assert Example().features_acceptable(VERSION_1 | features)

    @pytest.mark.parametrize("features", [0b010, 0b100, 0b1000, 0b10000])
    def test_other_sets_are_not_acceptable(self, features: int) -> None:
        assert not Example().features_acceptable(VERSION_1 | features)

    def test_on_an_instance_a_feature_tells_whether_it_was_accepted(self) -> None:
        device = Example()
        device.negotiated(VERSION_1 | 0b01)

        assert device.FIRST
        assert not device.SECOND

    def test_a_feature_cannot_be_assigned(self) -> None:
        with pytest.raises(AttributeError):
            Example().FIRST = True


class TestReadingConfiguration:
    def test_fields_lie_little_endian_at_their_offsets(self) -> None:
        device = Example()
        device.size = 0x0102030405060708
        device.level = 0x0A0B

        assert device.read_config(0, 0x28) == bytes.fromhex(
            "0807060504030201 07 00 0b0a 00000000 616263000000 0000 00000000 0300 0000 11223344"
            "00000000"
        )

    @pytest.mark.parametrize("width", [1, 2, 4, 8])
    def test_any_width_at_any_offset_gives_the_same_bytes(self, width: int) -> None:
        device = Example()
        device.size = 0x0102030405060708
        whole = device.read_config(0, 0x40)

        parts = [device.read_config(offset, width) for offset in range(0x40 - width + 1)]

        assert parts == [whole[offset : offset + width] for offset in range(0x40 - width + 1)]

    def test_bytes_past_the_end_are_zero(self) -> None:
        assert Example().read_config(0x23, 4) == b"\x44\0\0\0"
        assert Example().read_config(0xFFFFFFFF, 8) == bytes(8)

    def test_a_field_whose_feature_is_offered_is_read_before_it_is_accepted(self) -> None:
        assert Example().read_config(0x08, 1) == b"\x07"

    def test_a_field_whose_feature_is_not_offered_reads_zero(self) -> None:
        assert Example().read_config(0x0C, 4) == bytes(4)
        assert Example(shows_hidden=True).read_config(0x0C, 4) == b"\xff" * 4


class TestWritingConfiguration:
    def test_a_writable_field_takes_a_driver_write(self) -> None:
        device = Example()
        device.negotiated(VERSION_1 | 0b1)

        device.write_config(0x08, b"\x05")

        assert device.mode == 5

    def test_before_features_ok_a_write_is_dropped(self) -> None:
        device = Example()

        device.write_config(0x08, b"\x05")
        device.write_config(0x20, b"\x05")

        assert (device.mode, device.wide) == (7, 0x44332211)

    def test_without_its_feature_accepted_a_write_is_dropped(self) -> None:
        device = Example()
        device.negotiated(VERSION_1)

        device.write_config(0x08, b"\x05")

        assert device.mode == 7

    def test_read_only_fields_keep_their_values(self) -> None:
        device = Example()
        device.negotiated(VERSION_1 | 0b111)
        before = device.read_config(0, 0x08) + device.read_config(0x09, 0x17)

        device.write_config(0, b"\xff" * 0x20)

        assert device.read_config(0, 0x08) + device.read_config(0x09, 0x17) == before

    @pytest.mark.parametrize(
        ("offset", "data", "value"),
        [
            (0x20, b"\xaa", 0x443322AA),
            (0x21, b"\xaa\xbb", 0x44BBAA11),
            (0x1F, b"\xaa\xbb", 0x443322BB),
            (0x23, b"\xaa\xbb\xcc", 0xAA332211),
            (0x24, b"\xaa", 0x44332211),
            (0x1C, b"\xaa" * 12, 0xAAAAAAAA),
        ],
    )
    def test_a_partial_write_changes_only_its_bytes(
        self, offset: int, data: bytes, value: int
    ) -> None:
        device = Example()
        device.negotiated(VERSION_1)

        device.write_config(offset, data)

        assert (device.wide, device.pairs) == (value, 3)

    def test_an_early_field_takes_a_write_in_any_state(self) -> None:
        device = Example()

        device.write_config(0x18, b"\x41\0\0\0")

        assert device.calls == [("emergency", 0x41)]

    def test_a_hook_that_refuses_leaves_the_value(self) -> None:
        device = Example()

        device.write_config(0x18, b"\x41\0\0\0")

        assert device.emergency == 0

    def test_a_hook_may_assign_other_fields(self) -> None:
        class Answering(Device):
            command = field("u8", 0)
            answer = field("u8", 1)

            @command.written
            def _command_written(self, value: int) -> bool:
                self.answer = value + 1
                return True

        device = Answering()
        interrupts = live(device, VERSION_1)
        device.write_config(0, b"\x05")

        assert (device.command, device.answer, len(interrupts)) == (5, 6, 1)


class TestChangingConfiguration:
    def test_a_change_moves_the_generation_and_interrupts_a_live_driver(self) -> None:
        device = Example()
        interrupts = live(device, VERSION_1)

        device.size = 5

        assert (device.config_generation, len(interrupts)) == (1, 1)

    def test_the_same_value_again_changes_nothing(self) -> None:
        device = Example()
        device.size = 5
        generation = device.config_generation
        interrupts = live(device, VERSION_1)

        device.size = 5

        assert (device.config_generation, interrupts) == (generation, [])

    def test_a_change_before_driver_ok_moves_only_the_generation(self) -> None:
        device = Example()

        device.size = 5

        assert device.config_generation == 1

    def test_after_reset_nobody_is_interrupted(self) -> None:
        device = Example()
        interrupts = live(device, VERSION_1)
        device.reset()

        device.size = 5

        assert interrupts == []

    def test_the_interrupt_comes_after_the_lock_is_free(self) -> None:
        device = Example()
        live(device, VERSION_1)
        assert device.activation is not None
        free: list[bool] = []
        device.activation.notify_config = lambda: free.append(
            not device.config_lock._is_owned()  # type: ignore[attr-defined]
        )

        device.size = 5

        assert free == [True]

    @pytest.mark.parametrize("value", [-1, 0x10000])
    def test_a_value_that_does_not_fit_is_refused(self, value: int) -> None:
        with pytest.raises(ValueError, match="a u16 is needed"):
            Example().level = value

    def test_bytes_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(ValueError, match="7 bytes, at most 6"):
            Example().name = b"1234567"

    def test_fields_that_overlap_are_refused(self) -> None:
        with pytest.raises(TypeError, match="one and two overlap"):
            type("Bad", (Device,), {"one": field("u32", 0), "two": field("u8", 3)})


class TestQueueLayout:
    def test_order_of_declaration_is_queue_order(self) -> None:
        assert Example().queue_max_sizes == (16, 32, 32, 32, 8, 4)

    @pytest.mark.parametrize(
        ("features", "sizes"),
        [
            (0b000000, [16, 32, 4, 0, 0, 0, 0]),
            (0b000010, [16, 32, 8, 4, 0, 0, 0]),
            (0b100000, [16, 32, 32, 32, 4, 0, 0]),
            (0b100010, [16, 32, 32, 32, 8, 4, 0]),
        ],
    )
    def test_the_accepted_features_decide_which_queues_exist(
        self, features: int, sizes: list[int]
    ) -> None:
        device = Example()
        device.negotiated(VERSION_1 | features)

        assert [device.queue_max_size(index) for index in range(7)] == sizes

    def test_a_subclass_may_replace_a_handler_and_add_a_queue(self) -> None:
        class Derived(Example):
            def controlq(self, chain: DescriptorChain) -> int | None:
                return None

            @queue(size=2)
            def lastq(self, chain: DescriptorChain) -> int | None:
                return None

        assert Derived().queue_max_sizes == (16, 32, 32, 32, 8, 4, 2)

    def test_a_queue_is_found_by_its_kind_and_number(self) -> None:
        device = Example()
        queues = [object() for _ in range(5)]
        live(device, VERSION_1 | 0b100000, queues)

        assert device.queue_of("dataq", 2) is queues[3]
        assert device.queue_of("eventq") is queues[4]
        assert device.queue_of("statsq") is None


class TestState:
    def test_values_features_and_generation_are_carried_over(self) -> None:
        device, other = Example(), Example()
        device.size = 9
        device.negotiated(VERSION_1 | 0b1)
        device.write_config(0x08, b"\x01")

        other.restore(device.state())

        assert (other.size, other.mode, other.FIRST) == (9, 1, True)
        assert other.config_generation == device.config_generation

    def test_reset_undoes_what_the_driver_wrote_and_keeps_what_the_device_set(self) -> None:
        device = Example()
        device.size = 9
        device.negotiated(VERSION_1 | 0b1)
        device.write_config(0x08, b"\x01")

        device.reset()

        assert (device.size, device.mode, device.FIRST) == (9, 7, False)

    def test_a_device_that_is_not_live_has_no_loop(self) -> None:
        with pytest.raises(InternalError, match="Example is not live"):
            _ = Example().loop


class Echo(Device):
    """Serves chains in each of the ways that there are."""

    device_id = 42

    def __init__(self) -> None:
        super().__init__()
        self.held: list[DescriptorChain] = []
        self.batches: list[int] = []
        self.manual_calls = 0

    @queue(size=256)
    def echoq(self, chain: DescriptorChain) -> int | None:
        if chain.read(4) == b"fail":
            raise RuntimeError("told to fail")
        return chain.write(chain.read(chain.readable_length))

    @queue(size=256)
    def laterq(self, chain: DescriptorChain) -> int | None:
        self.held.append(chain)
        return None

    @queue(size=256, batch=True, burst=8)
    def batchq(self, chains: ChainBatch) -> list[int | None]:
        self.batches.append(len(chains))
        lengths: list[int | None] = [chain.write(b"ok") for chain in chains]
        return lengths[: 8 - len(self.held)]

    @queue(size=256, manual=True)
    def manualq(self, live: Queue) -> bool:
        self.manual_calls += 1
        return self.manual_calls < 3

    @queue(size=256, count=2)
    def pairq(self, chain: DescriptorChain, number: int) -> int | None:
        return chain.write(bytes([number]))


class TestServing:
    def test_a_handler_answers_each_chain(self) -> None:
        bench = Bench(Echo())

        used = bench.request([b"he", b"llo"], [3, 10])

        assert (used.length, used.data[:5]) == (5, b"hello")

    def test_the_driver_is_notified_once_for_a_burst(self) -> None:
        bench = Bench(Echo(), VERSION_1)
        for _ in range(60):
            bench.drivers[0].add([b"x"], [1])

        bench.serve()

        assert (len(bench.drivers[0].collect()), bench.interrupts) == (60, [0])

    def test_one_call_serves_no_more_than_a_burst(self) -> None:
        bench = Bench(Echo(), VERSION_1)
        for _ in range(100):
            bench.drivers[0].add([b"x"], [1])

        more = bench.device.handle_queue(0)

        assert (more, len(bench.drivers[0].collect())) == (True, 64)

    def test_the_driver_need_not_kick_while_more_is_left(self) -> None:
        bench = Bench(Echo(), VERSION_1)
        for _ in range(100):
            bench.drivers[0].add([b"x"], [1])

        bench.device.handle_queue(0)
        busy = bench.drivers[0].should_kick()
        bench.serve()

        assert (busy, bench.drivers[0].should_kick()) == (False, True)

    @pytest.mark.parametrize("features", [VERSION_1, VERSION_1 | 1 << 29])
    def test_a_driver_that_kicks_only_when_asked_is_never_stuck(self, features: int) -> None:
        bench = Bench(Echo(), features)
        bench.serve()
        kicks = []

        for _ in range(1000):
            bench.drivers[0].add([b"x"], [1])
            kicks.append(bench.drivers[0].should_kick())
            bench.device.handle_queue(0)
            bench.drivers[0].collect()

        assert kicks == [True] * 1000

    def test_a_chain_may_be_completed_later(self) -> None:
        device = Echo()
        bench = Bench(device, VERSION_1)
        bench.drivers[1].add([], [8])
        bench.serve()
        early = bench.drivers[1].collect()

        device.held[0].complete(device.held[0].write(b"late"))

        [used] = bench.drivers[1].collect()
        assert (early, used.length, used.data[:4], bench.interrupts) == ([], 4, b"late", [1])

    def test_a_batch_handler_takes_bursts(self) -> None:
        device = Echo()
        bench = Bench(device)
        for _ in range(20):
            bench.drivers[2].add([], [2])

        bench.serve()

        assert device.batches == [8, 8, 4]
        assert [used.data for used in bench.drivers[2].collect()] == [b"ok"] * 20

    def test_a_batch_handler_that_forgets_a_chain_is_a_bug(self) -> None:
        device = Echo()
        bench = Bench(device)
        for _ in range(8):
            bench.drivers[2].add([], [2])
        device.held = [None] * 2  # type: ignore[list-item]

        with pytest.raises(InternalError, match="8 chains were handed over, 6 answered"):
            bench.device.handle_queue(2)

    def test_a_manual_handler_says_itself_whether_more_is_left(self) -> None:
        device = Echo()
        bench = Bench(device)

        answers = [bench.device.handle_queue(3) for _ in range(3)]

        assert answers == [True, True, False]

    def test_a_handler_of_several_queues_gets_the_number_among_them(self) -> None:
        bench = Bench(Echo())

        assert bench.request([], [1], queue=4).data == b"\x00"
        assert bench.request([], [1], queue=5).data == b"\x01"

    def test_what_was_done_before_a_failure_comes_back(self) -> None:
        bench = Bench(Echo(), VERSION_1)
        for data in (b"one", b"two", b"fail", b"four"):
            bench.drivers[0].add([data], [8])

        with pytest.raises(RuntimeError):
            bench.device.handle_queue(0)

        assert [used.length for used in bench.drivers[0].collect()] == [3, 3]

    def test_a_failure_tells_the_queue_and_the_chain(self) -> None:
        bench = Bench(Echo(), VERSION_1)
        bench.drivers[0].add([b"one"], [8])
        bench.drivers[0].add([b"fail"], [8])

        with pytest.raises(RuntimeError) as caught:
            bench.device.handle_queue(0)

        assert caught.value.__notes__[0].startswith("in echoq, at <DescriptorChain 2 of queue 0")

    @pytest.mark.parametrize("index", [0, 6, 0xFFFF])
    def test_a_kick_for_a_queue_that_is_not_there_does_nothing(self, index: int) -> None:
        device = Echo()
        Bench(device).disable_queue(0)

        assert not device.handle_queue(index)

    def test_a_kick_for_a_device_that_is_not_live_does_nothing(self) -> None:
        assert not Echo().handle_queue(0)

    def test_nothing_is_served_after_reset(self) -> None:
        bench = Bench(Echo())
        bench.drivers[0].add([b"x"], [1])

        bench.reset()
        bench.serve()

        assert bench.drivers[0].collect() == []
