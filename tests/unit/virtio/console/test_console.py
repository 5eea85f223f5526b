"""The console device: what hosts do to its ports, from any thread, and what a snapshot keeps."""

import pickle
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest

from virtio.console import Console, ConsolePort
from virtio.console.control import Message, Outbox
from virtio.device.doorbell import Doorbell
from virtio.errors import ConfigurationError, InternalError
from virtio.testing import Bench, ManualLoop, Segment

VERSION_1 = 1 << 32
SIZE, MULTIPORT = 1, 2
RX0, TX0, CONTROL_RX, CONTROL_TX, RX1, TX1 = range(6)
DEVICE_READY, ADD, REMOVE, PORT_READY, CONSOLE_PORT, RESIZE, PORT_OPEN, PORT_NAME = range(8)


class Host:
    """A port, and what the host hears of it; ``room`` is how many bytes it takes."""

    def __init__(self, name: str = "", **options: Any) -> None:
        self.port = ConsolePort(name, **options)
        self.room = 1 << 40
        self.received = b""
        self.openings: list[bool] = []
        self.spaces = 0
        self.port.on_data = self._take
        self.port.on_guest_open = self.openings.append
        self.port.on_space = self._note_space

    def _take(self, data: bytes) -> int:
        taken = data[: self.room]
        self.received += taken
        self.room -= len(taken)
        return len(taken)

    def _note_space(self) -> None:
        self.spaces += 1


def console_of(*hosts: Host, **options: Any) -> Console:
    return Console([host.port for host in hosts], **options)


def settle(bench: Bench) -> None:
    bench.serve()
    while bench.loop.advance():
        bench.serve()


def say(bench: Bench, port: int, event: int, value: int = 1) -> None:
    bench.drivers[CONTROL_TX].add([struct.pack("<IHH", port, event, value)], [])
    settle(bench)


def told(bench: Bench) -> list[tuple[int, int, int]]:
    for _ in range(8):
        bench.drivers[CONTROL_RX].add([], [64])
    settle(bench)
    used = bench.drivers[CONTROL_RX].collect()
    return [struct.unpack_from("<IHH", one.data) for one in used]


def got(bench: Bench, queue: int) -> list[bytes]:
    return [one.data[: one.length] for one in bench.drivers[queue].collect()]


def alone(host: Host) -> Bench:
    """Return a live console of one port, the driver of which knows nothing of others."""
    return Bench(console_of(host), VERSION_1)


def set_up(*hosts: Host) -> Bench:
    """Return a live console with all guest's ends open, and no message left to tell."""
    bench = Bench(console_of(*hosts, max_ports=2), VERSION_1 | SIZE | MULTIPORT)
    say(bench, 0, DEVICE_READY)
    for number in range(len(hosts)):
        say(bench, number, PORT_READY)
        say(bench, number, PORT_OPEN)
    told(bench)
    return bench


class TestWhatCannotBe:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: ConsolePort("x" * 256),
            lambda: ConsolePort("a\0b"),
            lambda: ConsolePort("\udc80"),
            lambda: ConsolePort(buffer_bytes=0),
            lambda: Console(max_ports=0),
            lambda: Console(max_ports=65),
            lambda: Console(columns=-1),
            lambda: Console(rows=65536),
            lambda: Console([ConsolePort(), ConsolePort()], max_ports=1),
            lambda: Console([ConsolePort()] * 2),
            lambda: Console([ConsolePort()]).resize(80, 25, 1),
            lambda: Console([ConsolePort()]).resize(80, 65536),
            lambda: Console().remove_port(0),
        ],
    )
    def test_is_refused_in_one_line(self, make: Callable[[], object]) -> None:
        with pytest.raises(ConfigurationError) as caught:
            make()

        assert "\n" not in str(caught.value)

    def test_port_that_was_removed_may_go_into_another_console(self) -> None:
        port = ConsolePort()
        first = Console([port])
        first.remove_port(0)

        assert Console([ConsolePort(), port]).queue_max_sizes[:4] == (128, 128, 32, 32)


class TestPort:
    def test_takes_what_fits_and_tells_of_space_once(self) -> None:
        host = Host(buffer_bytes=4)
        bench = alone(host)
        taken = [host.port.send(b"012"), host.port.send(b"345"), host.port.send(b"6")]

        for _ in range(2):
            bench.drivers[RX0].add([], [2])
        settle(bench)

        assert (taken, host.spaces, got(bench, RX0)) == ([3, 1, 0], 1, [b"01", b"23"])

    def test_sender_may_send_from_within_on_space(self) -> None:
        host = Host(buffer_bytes=4)
        bench = alone(host)
        host.port.send(b"01234567")
        host.port.on_space = lambda: host.port.send(b"4567")
        for _ in range(2):
            bench.drivers[RX0].add([], [64])

        settle(bench)

        assert got(bench, RX0) == [b"0123", b"4567"]

    def test_host_may_answer_from_within_on_data(self) -> None:
        host = Host()
        bench = alone(host)
        host.port.on_data = host.port.send
        bench.drivers[RX0].add([], [64])
        bench.drivers[TX0].add([b"echo"], [])

        settle(bench)

        assert got(bench, RX0) == [b"echo"]

    def test_opening_tells_a_sender_that_was_refused(self) -> None:
        host = Host()
        host.port.close()
        refused = host.port.send(b"x")

        host.port.open()
        host.port.open()

        assert (refused, host.spaces, host.port.send(b"x")) == (0, 1, 1)

    def test_without_a_receiver_output_is_dropped(self) -> None:
        bench = Bench(Console([ConsolePort()]), VERSION_1)

        assert bench.request([b"x"], [], queue=TX0).length == 0

    def test_receiver_that_takes_more_than_there_is_is_told_so(self) -> None:
        host = Host()
        host.port.on_data = lambda data: len(data) + 1
        bench = alone(host)
        bench.drivers[TX0].add([b"abc"], [])

        with pytest.raises(InternalError, match="took 4 of 3 bytes"):
            bench.serve()

    def test_console_without_ports_takes_output_and_gives_nothing(self) -> None:
        bench = Bench(Console(), VERSION_1)
        bench.drivers[RX0].add([], [16])

        assert bench.request([b"x"], [], queue=TX0).length == 0
        assert bench.drivers[RX0].collect() == []

    def test_port_added_to_a_live_console_of_one_port_is_open(self) -> None:
        host = Host()
        device = Console()
        bench = Bench(device, VERSION_1)

        device.add_port(host.port)
        bench.loop.advance()

        assert host.openings == [True]

    def test_emergency_bytes_go_where_they_are_wanted(self) -> None:
        device = console_of(Host())
        seen: list[bytes] = []
        device.on_emergency_write = seen.append

        device.write_config(4, struct.pack("<IIII", 1, 0x4241, 2, 3))
        device.write_config(9, b"zzz")

        assert seen == [b"A"]


class TestBounds:
    def test_huge_buffer_is_handed_over_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("time.monotonic_ns", lambda: 0)
        host = Host()
        sizes: list[int] = []
        host.port.on_data = lambda data: sizes.append(len(data))
        bench = alone(host)
        bench.drivers[TX0].add_segments([Segment(0, 1 << 20, False)] * 100)

        more = bench.device.handle_queue(TX0)
        first = len(sizes)
        bench.serve()

        assert (more, first, set(sizes), len(sizes)) == (True, 4, {65536}, 1600)
        assert len(bench.drivers[TX0].collect()) == 1

    def test_turn_hands_over_a_budget_of_bytes_whatever_the_chains_hold(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("time.monotonic_ns", lambda: 0)
        host = Host()
        bench = alone(host)
        for _ in range(64):
            bench.drivers[TX0].add([b"\n" * 65536], [])

        turns = [(bench.device.handle_queue(TX0), len(host.received)) for _ in range(17)]

        assert turns == [(turn < 17, min(turn, 16) * 262144) for turn in range(1, 18)]

    def test_turn_ends_with_the_part_that_took_its_time(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [0]
        monkeypatch.setattr("time.monotonic_ns", lambda: now[0])
        monkeypatch.setattr("virtio.console.stream.TURN_NS", 2_000_000)
        host = Host()
        calls: list[bytes] = []

        def take(data: bytes) -> None:
            calls.append(data)
            now[0] += 1_000_000

        host.port.on_data = take
        bench = alone(host)
        for _ in range(10):
            bench.drivers[TX0].add([b"slow"], [])

        more = bench.device.handle_queue(TX0)

        assert (more, len(calls)) == (True, 3)

    def test_huge_buffer_for_nobody_is_dropped_at_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("virtio.console.stream.time.monotonic_ns", lambda: 0)
        bench = Bench(Console(), VERSION_1)
        bench.drivers[TX0].add_segments([Segment(0, 1 << 20, False)] * 100)

        more = bench.device.handle_queue(TX0)

        assert (more, len(bench.drivers[TX0].collect())) == (False, 1)

    def test_driver_is_asked_to_notify_only_while_bytes_wait(self) -> None:
        host = Host()
        bench = alone(host)
        bench.serve()
        idle = bench.drivers[RX0].should_kick()

        host.port.send(b"x")
        settle(bench)

        assert (idle, bench.drivers[RX0].should_kick()) == (False, True)

    def test_messages_about_a_port_replace_each_other(self) -> None:
        outbox = Outbox()
        for _ in range(10):
            for event in (ADD, CONSOLE_PORT, RESIZE, PORT_NAME):
                outbox.put(Message(1, event))
            for value in (0, 1, 0, 1):
                outbox.put(Message(1, PORT_OPEN, value))

        assert [one[1:3] for one in outbox.state()] == [
            *((ADD, 1), (CONSOLE_PORT, 1), (RESIZE, 1), (PORT_NAME, 1)),
            *((PORT_OPEN, 0), (PORT_OPEN, 1)),
        ]


class TestThreads:
    def test_rings_are_answered_together(self) -> None:
        loop, answers = ManualLoop(), []  # type: ignore[var-annotated]
        bell = Doorbell(answers.append)
        bell.ring(1)
        bell.connect(loop)

        for number in (2, 3, 2):
            bell.ring(number)

        assert (loop.advance(), answers) == (1, [{2, 3}])

    def test_ring_after_a_reset_reaches_the_new_loop(self) -> None:
        old, new, answers = ManualLoop(), ManualLoop(), []  # type: ignore[var-annotated]
        bell = Doorbell(answers.append)
        bell.connect(old)
        bell.ring(1)

        bell.connect(None)
        bell.ring(2)
        bell.connect(new)
        bell.ring(3)

        assert (new.advance(), answers) == (1, [{3}])

    def test_bytes_of_a_busy_thread_arrive_whole_and_in_order(self) -> None:
        host = Host(buffer_bytes=64)
        bench = alone(host)
        data = bytes(range(256)) * 40
        space = threading.Event()
        host.port.on_space = space.set

        def send_all() -> None:
            at = 0
            while at < len(data):
                part = data[at : at + 48]
                space.clear()
                taken = host.port.send(part)
                at += taken
                if taken < len(part):
                    space.wait(60)

        sender = threading.Thread(target=send_all)
        sender.start()
        received = b""
        while sender.is_alive() or bench.loop.soon:
            if bench.drivers[RX0].in_flight < 8:
                bench.drivers[RX0].add([], [32])
            settle(bench)
            received += b"".join(got(bench, RX0))
        sender.join(60)
        while bench.drivers[RX0].in_flight < 4:
            bench.drivers[RX0].add([], [32])
        settle(bench)

        assert received + b"".join(got(bench, RX0)) == data


class TestQueueReset:
    def test_output_in_hand_is_forgotten_with_its_queue(self) -> None:
        host = Host()
        bench = set_up(host)
        host.room = 1
        bench.drivers[TX0].add([b"abc"], [])
        bench.serve()

        bench.disable_queue(TX0)
        host.room = 100
        host.port.resume()
        settle(bench)

        assert host.received == b"a"

    def test_bytes_wait_for_a_receive_queue_that_is_gone(self) -> None:
        host = Host()
        bench = set_up(host)
        bench.disable_queue(RX0)

        taken = host.port.send(b"abc")
        settle(bench)

        assert taken == 3


class TestReset:
    def test_sender_that_was_refused_hears_of_the_room(self) -> None:
        host = Host(buffer_bytes=2)
        bench = alone(host)
        host.port.send(b"abc")

        bench.reset()

        assert (host.spaces, host.openings, host.port.guest_open) == (1, [True, False], False)

    def test_reset_before_the_driver_went_live_keeps_what_waits(self) -> None:
        host = Host()
        device = console_of(host)
        host.port.send(b"early")
        device.reset()
        bench = Bench(device, VERSION_1)
        bench.drivers[RX0].add([], [16])

        settle(bench)

        assert got(bench, RX0) == [b"early"]


class TestSnapshot:
    def restored(self, bench: Bench, *hosts: Host) -> Bench:
        """Go on with fresh hosts; the state goes through its form on disk."""
        state = bench.device.state()
        assert pickle.loads(pickle.dumps(state)) == state
        bench.restore_into(console_of(*hosts, max_ports=2))
        return bench

    def test_nothing_is_lost_or_told_twice(self) -> None:
        old, new = (Host(), Host("one")), (Host(), Host("one"))
        bench = set_up(*old)
        old[0].port.send(b"to the guest")
        settle(bench)

        self.restored(bench, *new)
        bench.drivers[RX0].add([], [64])
        messages = told(bench)

        assert (messages, got(bench, RX0)) == ([], [b"to the guest"])
        assert [host.openings for host in new] == [[True], [True]]

    @pytest.mark.parametrize("took", [0, 1, 6, 7])
    def test_buffer_that_was_partly_taken_goes_on_where_it_was(self, took: int) -> None:
        old, new = Host(), Host()
        bench = set_up(old)
        old.room = took
        bench.drivers[TX0].add([b"0123", b"4567"], [])
        bench.drivers[TX0].add([b"next"], [])
        settle(bench)

        self.restored(bench, new)
        settle(bench)

        assert old.received + new.received == b"01234567next"
        assert [one.token for one in bench.drivers[TX0].collect()] == [0, 1]

    def test_second_snapshot_before_the_buffer_moved_keeps_the_place(self) -> None:
        hosts = Host(), Host(), Host()
        bench = set_up(hosts[0])
        hosts[0].room = 3
        bench.drivers[TX0].add([b"abcdef"], [])
        settle(bench)

        self.restored(bench, hosts[1])
        self.restored(bench, hosts[2])
        settle(bench)

        assert [host.received for host in hosts] == [b"abc", b"", b"def"]

    def test_messages_that_wait_are_told_after_it(self) -> None:
        old, new = Host("one", console=True), Host("one", console=True)
        bench = Bench(console_of(old, max_ports=2), VERSION_1 | SIZE | MULTIPORT)
        say(bench, 0, DEVICE_READY)
        say(bench, 0, PORT_READY)

        self.restored(bench, new)

        assert [one[1] for one in told(bench)] == [ADD, CONSOLE_PORT, RESIZE, PORT_NAME, PORT_OPEN]

    def test_what_the_host_did_just_before_is_told_after_it(self) -> None:
        old, new = Host(), Host()
        bench = set_up(old)
        old.port.close()
        old.port.open()

        self.restored(bench, new)

        assert told(bench) == [(0, PORT_OPEN, 0), (0, PORT_OPEN, 1)]

    def test_port_that_is_closed_now_is_told_and_what_waited_dropped(self) -> None:
        old, new = Host(), Host()
        bench = set_up(old)
        old.port.send(b"dropped")
        new.port.close()

        self.restored(bench, new)
        bench.drivers[RX0].add([], [64])

        assert (told(bench), got(bench, RX0)) == ([(0, PORT_OPEN, 0)], [])

    def test_bytes_of_the_new_host_come_after_those_of_the_old_one(self) -> None:
        old, new = Host(), Host()
        bench = set_up(old)
        old.port.send(b"old ")
        new.port.send(b"new")

        self.restored(bench, new)
        bench.drivers[RX0].add([], [64])
        settle(bench)

        assert got(bench, RX0) == [b"old new"]

    def test_ports_get_the_numbers_that_they_had(self) -> None:
        old, new = (Host(), Host("agent")), Host("agent")
        bench = set_up(*old)
        assert isinstance(bench.device, Console)
        bench.device.remove_port(0)

        self.restored(bench, new)
        bench.drivers[TX1].add([b"hello"], [])

        assert told(bench) == [(0, REMOVE, 1)]
        assert new.received == b"hello"

    def test_another_number_of_ports_is_refused(self) -> None:
        state = console_of(Host(), Host()).state()

        with pytest.raises(ConfigurationError, match="1 ports: the saved state has 2"):
            console_of(Host()).restore(state)

    def test_size_is_kept(self) -> None:
        old, new = Host(console=True), Host(console=True)
        bench = set_up(old)
        assert isinstance(bench.device, Console)
        bench.device.resize(132, 43)

        self.restored(bench, new)

        assert bench.device.read_config(0, 4) == struct.pack("<HH", 132, 43)
        assert told(bench) == [(0, RESIZE, 1)]
