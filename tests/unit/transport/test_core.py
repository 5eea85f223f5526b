"""The life of a device on its transport: service, failure, reset, and what happens meanwhile."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from transport import VirtioMmio
from transport.testing import MmioDriver, RecordingLine
from virtio.block import Block
from virtio.device.declaration import Device, field, queue
from virtio.device.lifecycle import Activation, VirtioDevice
from virtio.entropy import Entropy
from virtio.errors import ConfigurationError, DriverError
from virtio.testing import ManualLoop, PackedDriver, SplitDriver, flat_memory
from virtio.virtqueue.chain import DescriptorChain
from virtio.virtqueue.queue import Queue
from vmm.disk.raw import RawDisk

PATIENCE_SECONDS = 10
A_MOMENT_SECONDS = 0.05


class Journal(VirtioDevice):
    """Writes down what its transport asks of it, and fails where it is told to."""

    device_id = 42

    def __init__(self, failing: str = "") -> None:
        super().__init__()
        self.failing = failing
        self.calls: list[str] = []

    def note(self, call: str) -> None:
        self.calls.append(call)
        if call == self.failing:
            raise ArithmeticError(call)

    @property
    def device_features(self) -> int:
        return 1 << 32 | 1 << 40

    @property
    def queue_max_sizes(self) -> tuple[int, ...]:
        return (8, 8)

    def features_acceptable(self, features: int) -> bool:
        self.note("features_acceptable")
        return True

    def negotiated(self, features: int) -> None:
        super().negotiated(features)
        self.note("negotiated")

    def activate(self, activation: Activation) -> None:
        super().activate(activation)
        self.note("activate")

    def handle_queue(self, index: int) -> bool:
        self.note(f"handle_queue {index}")
        return False

    def enable_queue(self, index: int, queue: Queue) -> None:
        super().enable_queue(index, queue)
        self.note(f"enable_queue {index}")

    def disable_queue(self, index: int) -> None:
        super().disable_queue(index)
        self.note(f"disable_queue {index}")

    def reset(self) -> None:
        super().reset()
        self.note("reset")


class Setting:
    """A device on its transport, with a driver for its registers and one for its queue 0."""

    def __init__(self, device: VirtioDevice) -> None:
        self.device = device
        self.line = RecordingLine()
        self.loop = ManualLoop()
        self.memory = flat_memory()
        self.transport = VirtioMmio(device, self.memory, self.line, self.loop, name="it")
        self.driver = MmioDriver(self.transport)
        self.ring = SplitDriver(self.memory, 8)


@contextmanager
def set_up(device: VirtioDevice) -> Iterator[Setting]:
    setting = Setting(device)
    with setting.transport:
        yield setting


# What a device is asked, and when


def test_device_is_driven_through_its_life_in_order() -> None:
    device = Journal()
    with set_up(device) as setting:
        setting.driver.start(setting.ring, features=1 << 32 | 1 << 40)
        setting.transport.service()
        setting.driver.write(0xC0, 1)
        setting.driver.set_up_queue(0, *setting.ring.layout)
        setting.transport.service()
        setting.driver.write(0x44, 0)
        setting.driver.status = 0

    assert device.calls == [
        "reset",
        "features_acceptable",
        "negotiated",
        "activate",
        "handle_queue 0",
        "disable_queue 0",
        "enable_queue 0",
        "handle_queue 0",
        "disable_queue 0",
        "reset",
        "reset",
    ]


def test_activation_has_the_ready_queues_at_their_indices() -> None:
    device = Journal()
    with set_up(device) as setting:
        setting.driver.negotiate()
        setting.driver.set_up_queue(1, *setting.ring.layout)
        setting.driver.go_live()

        assert device.activation is not None
        assert device.activation.features == 1 << 32
        first, second = device.activation.queues
        assert first is None
        assert second is not None
        assert (second.index, second.size, second.features) == (1, 8, 1 << 32)


@pytest.mark.parametrize("features", [1 << 24, 1 << 33, 1 << 37, 1 << 43, 1 << 49, 1 << 128])
@pytest.mark.spec("COM-13", "COM-19")
def test_device_that_offers_a_forbidden_feature_is_refused(features: int) -> None:
    class Bold(Journal):
        @property
        def device_features(self) -> int:
            return features

    with pytest.raises(ConfigurationError, match=rf"feature bits \[{features.bit_length() - 1}\]"):
        Setting(Bold())


@pytest.mark.parametrize("size", [0, 3, 65536])
@pytest.mark.spec("MMIO-09")
def test_device_with_an_impossible_queue_size_is_refused(size: int) -> None:
    class Odd(Journal):
        @property
        def queue_max_sizes(self) -> tuple[int, ...]:
            return (8, size)

    with pytest.raises(ConfigurationError, match=f"queue 1: the largest size is {size};"):
        Setting(Odd())


@pytest.mark.spec("COM-11", "COM-15")
@pytest.mark.parametrize("features", [0, 1 << 40, 1 << 32 | 1 << 3])
def test_wrong_features_are_refused_whatever_the_device_says(features: int) -> None:
    device = Journal()
    with set_up(device) as setting:
        assert setting.driver.negotiate(features) is False
        assert device.calls == ["reset"]


@pytest.mark.spec("COM-16")
def test_features_cannot_change_while_the_device_looks_at_them() -> None:
    class Watched(Journal):
        def features_acceptable(self, features: int) -> bool:
            setting.driver.accept_features(1 << 32 | 1 << 40)
            return True

    with set_up(Watched()) as setting:
        setting.driver.negotiate(1 << 32)

        assert setting.transport.features == 1 << 32


@pytest.mark.spec("COM-02", "MMIO-18")
def test_eventfd_written_before_driver_ok_calls_no_handler() -> None:
    device = Journal()
    with set_up(device) as setting:
        setting.driver.negotiate()
        setting.driver.set_up_queue(0, *setting.ring.layout)

        os.eventfd_write(setting.transport.notify_fds[0], 1)
        setting.transport.handle_notify(0)

        assert "handle_queue 0" not in device.calls


@pytest.mark.spec("COM-22")
def test_watchers_are_gone_before_the_device_is_reset() -> None:
    class Watcher(Journal):
        def activate(self, activation: Activation) -> None:
            activation.loop.add_reader(99, self.reset)

        def reset(self) -> None:
            watched.append(list(setting.loop.readers))

    watched: list[list[int]] = []
    with set_up(Watcher()) as setting:
        setting.driver.start()
        assert list(setting.loop.readers) == [99]
        watched.clear()

        setting.driver.status = 0

        assert watched == [[]]


# Failure


@pytest.mark.parametrize(
    ("failing", "status"),
    [
        ("features_acceptable", 0x43),
        ("negotiated", 0x43),
        ("activate", 0x4F),
        ("handle_queue 0", 0x4F),
    ],
)
def test_failure_in_device_code_needs_a_reset(failing: str, status: int) -> None:
    with set_up(Journal(failing)) as setting:
        setting.driver.negotiate()
        setting.driver.set_up_queue(0, *setting.ring.layout)
        setting.driver.go_live()
        setting.transport.service()

        assert setting.driver.status == status


@pytest.mark.parametrize("failing", ["activate", "handle_queue 0"])
@pytest.mark.spec("COM-05")
def test_failure_of_a_live_device_raises_the_configuration_interrupt(failing: str) -> None:
    with set_up(Journal(failing)) as setting:
        setting.driver.start(setting.ring)
        setting.transport.service()

        assert setting.driver.interrupt_status == 2


def test_failing_enable_queue_needs_a_reset() -> None:
    with set_up(Journal("enable_queue 0")) as setting:
        setting.driver.start()

        setting.driver.set_up_queue(0, *setting.ring.layout)

        assert setting.driver.status == 0x4F


def test_queue_is_disabled_although_the_device_fails_to_let_go() -> None:
    with set_up(Journal("disable_queue 0")) as setting:
        setting.driver.start(setting.ring)

        setting.driver.write(0x44, 0)

        assert setting.driver.read(0x44) == 0
        assert setting.driver.status == 0x4F


@pytest.mark.spec("COM-23")
def test_reset_is_carried_out_although_the_device_fails_in_it() -> None:
    with set_up(Journal("reset")) as setting:
        setting.driver.start(setting.ring)

        setting.driver.status = 0

        assert setting.driver.status == 0
        assert setting.line.edges == 0


def test_broken_device_is_not_called_for_its_queues() -> None:
    device = Journal("handle_queue 0")
    with set_up(device) as setting:
        setting.driver.start(setting.ring)
        setting.transport.service()

        setting.driver.notify(0)
        setting.transport.handle_notify(0)

        assert device.calls.count("handle_queue 0") == 1


# Bursts


class OneByOne(Device):
    """Serves one chain at a time."""

    device_id = 42
    width = field("u8", offset=0)

    @queue(size=8, burst=1)
    def requestq(self, chain: DescriptorChain) -> int:
        return chain.write(b"x")


@pytest.mark.spec("SPL-23")
def test_queue_with_more_to_do_lets_others_have_their_turn() -> None:
    with set_up(OneByOne()) as setting:
        setting.driver.start(setting.ring)
        setting.transport.service()
        for _ in range(3):
            setting.ring.add(writable=[1])
        setting.driver.notify(0)
        progress = []

        for _ in range(5):
            setting.transport.handle_notify(0)
            progress.append(setting.ring.used_idx)

    assert progress == [1, 2, 3, 3, 3]


def test_only_the_drivers_notifications_count_as_kicks() -> None:
    with set_up(OneByOne()) as setting:
        setting.driver.start(setting.ring)
        for _ in range(3):
            setting.ring.add(writable=[1])
            setting.driver.notify(0)
        setting.transport.service()

        assert setting.transport.stats.kicks == 3


@pytest.mark.spec("PKD-01")
def test_accepted_packed_ring_is_served_as_one() -> None:
    with set_up(OneByOne(ring_features=1 << 32 | 1 << 34)) as setting:
        ring = PackedDriver(setting.memory, 8)
        setting.driver.start(ring, features=1 << 32 | 1 << 34)
        for _ in range(3):
            ring.add(writable=[1])
        setting.transport.service()

        assert [used.data for used in ring.collect()] == [b"x", b"x", b"x"]


# Later completion, timers and callbacks


class Slowpoke(Device):
    """Answers when its loop calls back: after a second, or when ``wake_fd`` can be read."""

    device_id = 42

    def __init__(self) -> None:
        super().__init__()
        self.held: list[DescriptorChain] = []

    @queue(size=8)
    def requestq(self, chain: DescriptorChain) -> None:
        self.held.append(chain)
        self.loop.call_later(1, self.answer)

    def answer(self) -> None:
        for chain in self.held:
            chain.complete(chain.write(b"late"))
        self.held.clear()


@contextmanager
def waiting_slowpoke() -> Iterator[tuple[Setting, Slowpoke]]:
    device = Slowpoke()
    with set_up(device) as setting:
        setting.driver.start(setting.ring, features=1 << 32 | 1 << 40)
        setting.ring.add(writable=[4])
        setting.transport.service()
        yield setting, device


def test_chain_completed_from_a_timer_interrupts_the_driver() -> None:
    with waiting_slowpoke() as (setting, _):
        setting.loop.advance(1)

        assert [used.data for used in setting.ring.collect()] == [b"late"]
        assert setting.driver.interrupt_status == 1


@pytest.mark.spec("COM-21", "COM-22")
def test_timer_is_gone_after_reset() -> None:
    with waiting_slowpoke() as (setting, _):
        setting.driver.status = 0

        setting.loop.advance(1)

        assert setting.ring.used_idx == 0
        assert setting.loop.timers == []


@pytest.mark.spec("COM-22", "COM-24")
def test_late_completion_after_reset_writes_and_signals_nothing() -> None:
    with waiting_slowpoke() as (setting, device):
        held = list(device.held)
        setting.driver.status = 0
        before = bytes(setting.memory.view(0, 1 << 20))

        for chain in held:
            chain.complete(4)

        assert bytes(setting.memory.view(0, 1 << 20)) == before
        assert setting.line.edges == 0


@pytest.mark.parametrize(("offset", "value"), [(0x44, 0), (0xC0, 1)])
@pytest.mark.spec("MMIO-16", "MMIO-35")
def test_late_completion_after_the_queue_went_writes_and_signals_nothing(
    offset: int, value: int
) -> None:
    with waiting_slowpoke() as (setting, device):
        held = list(device.held)
        setting.driver.write(offset, value)
        before = bytes(setting.memory.view(0, 1 << 20))

        for chain in held:
            chain.complete(4)

        assert bytes(setting.memory.view(0, 1 << 20)) == before
        assert setting.driver.interrupt_status == 0


def test_failing_callback_needs_a_reset() -> None:
    with waiting_slowpoke() as (setting, device):
        device.loop.call_soon_threadsafe(lambda: 1 // 0)

        setting.loop.run_once()

        assert setting.driver.status == 0x4F


# Two threads


class Gate(Device):
    """Stands in its handler until told to go on."""

    device_id = 42

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.may_leave = threading.Event()
        self.left = False

    @queue(size=8)
    def requestq(self, chain: DescriptorChain) -> int:
        self.entered.set()
        assert self.may_leave.wait(PATIENCE_SECONDS)
        self.left = True
        return chain.write(b"done")


@contextmanager
def standing_handler() -> Iterator[tuple[Setting, Gate]]:
    """A device inside its handler, on another thread; let go and joined at the end."""
    device = Gate()
    with set_up(device) as setting:
        setting.driver.start(setting.ring, features=1 << 32 | 1 << 40)
        setting.ring.add(writable=[4])
        worker = threading.Thread(target=setting.transport.service)
        worker.start()
        assert device.entered.wait(PATIENCE_SECONDS)
        try:
            yield setting, device
        finally:
            device.may_leave.set()
            worker.join()


@pytest.mark.parametrize(
    ("offset", "value"), [(0x70, 0), (0x44, 0), (0xC0, 1)], ids=["reset", "ready", "queue reset"]
)
@pytest.mark.spec("COM-22", "MMIO-16", "MMIO-34")
def test_stopping_waits_for_a_running_handler(offset: int, value: int) -> None:
    with standing_handler() as (setting, device):
        stopped = threading.Event()
        left_when_stopped = []

        def stop() -> None:
            setting.driver.write(offset, value)
            left_when_stopped.append(device.left)
            stopped.set()

        stopper = threading.Thread(target=stop)
        stopper.start()
        returned_early = stopped.wait(A_MOMENT_SECONDS)
        device.may_leave.set()
        stopper.join()

    assert returned_early is False
    assert left_when_stopped == [True]


@pytest.mark.spec("COM-22")
def test_status_is_not_zero_while_a_handler_still_runs() -> None:
    with standing_handler() as (setting, device):
        stopper = threading.Thread(target=setting.driver.write, args=(0x70, 0))
        stopper.start()

        assert setting.driver.status == 0x0F
        device.may_leave.set()
        stopper.join()
        assert setting.driver.status == 0


@pytest.mark.spec("MMIO-34")
def test_queue_reset_reads_one_while_it_waits_for_a_handler() -> None:
    with standing_handler() as (setting, device):
        stopper = threading.Thread(target=setting.driver.write, args=(0xC0, 1))
        stopper.start()
        stopper.join(A_MOMENT_SECONDS)

        assert setting.driver.read(0xC0) == 1
        device.may_leave.set()
        stopper.join()
        assert setting.driver.read(0xC0) == 0


@pytest.mark.parametrize(
    "access",
    [
        lambda driver: driver.read(0x60),
        lambda driver: driver.write(0x64, 1),
        lambda driver: driver.write(0x50, 0),
        lambda driver: driver.read(0x70),
        lambda driver: driver.read(0xFC),
        lambda driver: driver.transport.read(0x100, 4),
        lambda driver: driver.write(0x30, 1),
    ],
    ids=["interrupt status", "ack", "notify", "status", "generation", "config", "select"],
)
@pytest.mark.spec("MMIO-20")
def test_register_access_does_not_wait_for_a_running_handler(
    access: Callable[[MmioDriver], object],
) -> None:
    with standing_handler() as (setting, device):
        access(setting.driver)

        assert device.left is False


def test_description_of_a_device_inside_its_handler_says_so() -> None:
    with standing_handler() as (setting, _):
        assert "  a handler of the device has not returned" in setting.transport.describe()


class Doorbell(RecordingLine):
    """An interrupt line that a thread can wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.pressed = threading.Semaphore(0)

    def raise_(self) -> None:
        super().raise_()
        self.pressed.release()


@pytest.mark.spec("MMIO-25", "MMIO-26")
def test_no_completion_is_lost_between_a_read_and_an_acknowledgement() -> None:
    total = 2000
    line = Doorbell()
    ring = SplitDriver(flat_memory(), 8)
    ring_lock = threading.Lock()
    free = threading.Semaphore(8)
    collected = 0

    def handle_interrupts() -> None:
        nonlocal collected
        while collected < total:
            assert line.pressed.acquire(timeout=PATIENCE_SECONDS)
            driver.acknowledge(driver.interrupt_status)
            with ring_lock:
                back = len(ring.collect())
            collected += back
            for _ in range(back):
                free.release()

    with VirtioMmio(OneByOne(), ring.memory, line, ManualLoop()) as transport:
        driver = MmioDriver(transport)
        driver.start(ring)
        handler = threading.Thread(target=handle_interrupts)
        handler.start()
        for _ in range(total):
            assert free.acquire(timeout=PATIENCE_SECONDS)
            with ring_lock:
                ring.add(writable=[1])
            driver.notify(0)
            transport.service()
        handler.join()

        assert collected == total
        assert driver.interrupt_status == 0


@pytest.mark.spec("MMIO-26")
def test_event_in_a_storm_of_acknowledgements_always_makes_an_edge() -> None:
    with set_up(Journal()) as setting:
        setting.driver.start()
        assert setting.device.activation is not None
        stop = threading.Event()

        def acknowledge() -> None:
            while not stop.is_set():
                setting.driver.acknowledge(3)

        storm = threading.Thread(target=acknowledge)
        storm.start()
        for _ in range(2000):
            setting.device.activation.notify_config()
        stop.set()
        storm.join()
        setting.driver.acknowledge(3)

        assert setting.line.edges == 2000
        assert setting.line.level is False


@pytest.mark.spec("COM-22", "COM-23")
def test_reset_in_a_storm_of_notifications_leaves_memory_alone_afterwards() -> None:
    with set_up(OneByOne()) as setting:
        stop = threading.Event()
        rounds = threading.Condition()
        served = 0

        def serve() -> None:
            nonlocal served
            while not stop.is_set():
                setting.driver.notify(0)
                setting.transport.handle_notify(0)
                with rounds:
                    served += 1
                    rounds.notify()

        server = threading.Thread(target=serve)
        server.start()
        unchanged = []
        for _ in range(50):
            ring = SplitDriver(setting.memory, 8)
            setting.driver.start(ring)
            for _ in range(8):
                ring.add(writable=[1])
            setting.driver.status = 0
            before = bytes(setting.memory.view(0, 0x4000))
            with rounds:
                two_more = served + 2
                rounds.wait_for(lambda: served >= two_more, PATIENCE_SECONDS)  # noqa: B023
            unchanged.append(bytes(setting.memory.view(0, 0x4000)) == before)
        stop.set()
        server.join()

    assert unchanged == [True] * 50


@pytest.mark.spec("COM-27", "MMIO-31")
def test_equal_generations_mean_unmixed_configuration() -> None:
    class Wide(Device):
        device_id = 42
        value = field("u64", offset=0)

    mixed = []
    with set_up(Wide()) as setting:
        device = setting.device
        assert isinstance(device, Wide)
        stop = threading.Event()

        def flip() -> None:
            while not stop.is_set():
                device.value = 0xFFFF_FFFF_FFFF_FFFF
                device.value = 0

        flipper = threading.Thread(target=flip)
        flipper.start()
        for _ in range(2000):
            before = setting.driver.read(0xFC)
            low, high = setting.driver.read(0x100), setting.driver.read(0x104)
            mixed.append(setting.driver.read(0xFC) == before and low != high)
        stop.set()
        flipper.join()

    assert not any(mixed)


@pytest.mark.spec("MMIO-04")
def test_two_processors_hammering_the_registers_do_no_harm() -> None:
    with set_up(OneByOne()) as setting:

        def hammer(status: int) -> None:
            for _ in range(200):
                setting.driver.negotiate()
                setting.driver.set_up_queue(0, *setting.ring.layout)
                setting.driver.status = status
                setting.driver.write(0x44, 0)

        other = threading.Thread(target=hammer, args=(0x0F,))
        other.start()
        hammer(0x8F)
        other.join()
        setting.driver.start(setting.ring)
        setting.ring.add(writable=[1])
        setting.transport.service()

        assert [used.data for used in setting.ring.collect()] == [b"x"]


def test_driver_error_of_a_device_carries_its_item(caplog: pytest.LogCaptureFixture) -> None:
    class Strict(OneByOne):
        def activate(self, activation: Activation) -> None:
            raise DriverError("XXX-01", "no such thing", queue=0)

    with set_up(Strict()) as setting:
        setting.driver.start(setting.ring)

    assert caplog.messages == ["it: XXX-01: queue 0: no such thing; the device needs a reset"]


def test_traffic_is_counted_exactly_and_survives_a_reset() -> None:
    memory = flat_memory((0, 1 << 20))
    ring = SplitDriver(memory, 8)
    transport = VirtioMmio(Entropy(), memory, RecordingLine(), ManualLoop())
    driver = MmioDriver(transport)
    driver.start(ring)
    ring.add([b"abc"], [10])
    ring.add([], [20])
    driver.notify(0)
    transport.service()
    driver.status = 0

    stats = transport.stats
    transport.close()
    assert (stats.kicks, stats.completions) == (1, 2)
    assert (stats.bytes_read, stats.bytes_written) == (3, 30)


@pytest.mark.parametrize(("queues", "poll_ns"), [(1, 50_000), (2, 0)])
def test_a_device_of_several_queues_does_not_wait_for_one_of_them(
    queues: int, poll_ns: int
) -> None:
    memory = flat_memory((0, 1 << 20))
    with RawDisk.scratch(4096) as disk:
        block = Block(disk, queues=queues)
        with VirtioMmio(block, memory, RecordingLine(), ManualLoop(), poll_us=50) as transport:
            driver = MmioDriver(transport)
            driver.start(SplitDriver(memory, 8), features=driver.offered_features())
            [*live] = [queue for queue in block.queues if queue is not None]
            assert [queue.poll_ns for queue in live] == [poll_ns]


def test_bits_that_a_driver_has_reached_outlive_the_reset() -> None:
    with VirtioMmio(Journal(), flat_memory(), RecordingLine(), ManualLoop()) as transport:
        assert transport.reached == 0
        transport.write_status(1)
        transport.write_status(3)
        transport.write_status(0)

        assert transport.status == 0
        assert transport.reached == 3
