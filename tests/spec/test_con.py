"""The console device. VIRTIO 1.4 "Console Device"."""

import struct
from collections.abc import Callable, Iterator

import pytest

from tests.spec.con import (
    ADD,
    CONSOLE_PORT,
    CONTROL_RX,
    CONTROL_TX,
    DEVICE_READY,
    EMERG_WR,
    F_EMERG_WRITE,
    F_SIZE,
    PORT_NAME,
    PORT_OPEN,
    PORT_READY,
    REMOVE,
    RESIZE,
    RX0,
    RX1,
    TX0,
    TX1,
    ConsoleRig,
    Host,
    Told,
)
from tests.spec.conftest import RigMaker
from tests.spec.rig import Form
from virtio.console import Console
from virtio.errors import ConfigurationError
from virtio.testing import Segment

ConsoleMaker = Callable[..., ConsoleRig]
ALONE = F_SIZE | F_EMERG_WRITE


@pytest.fixture
def make_console(form: Form) -> Iterator[ConsoleMaker]:
    """A function that makes a live console, which is closed after the test."""
    rigs: list[ConsoleRig] = []

    def make(*hosts: Host, **options: int) -> ConsoleRig:
        rigs.append(ConsoleRig(*hosts, form=form, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


# Emergency writes


@pytest.mark.spec("CON-01")
@pytest.mark.parametrize("status", [0x00, 0x01, 0x03, 0x0B, 0x0F])
def test_low_byte_of_an_emergency_write_comes_out_at_any_status(
    status: int, make_rig: RigMaker
) -> None:
    host = Host()
    rig = make_rig(Console([host.port]))
    rig.reach(status)

    rig.write_config(EMERG_WR, struct.pack("<I", 0x1241))
    rig.write_config(EMERG_WR, b"B")
    rig.write_config(EMERG_WR + 1, b"xyz")

    assert host.received == b"AB"
    assert rig.read_config(EMERG_WR, 4) == bytes(4)


@pytest.mark.spec("CON-02")
def test_emergency_write_works_when_the_device_needs_a_reset(make_console: ConsoleMaker) -> None:
    host = Host()
    rig = make_console(host)
    rig.rings[TX0].add_segments([Segment(1 << 40, 16, False)])
    rig.driver.notify(TX0)
    rig.serve()
    assert rig.driver.status == 0x4F
    edges, memory = rig.line.edges, bytes(rig.memory.view(0, 4 << 20))

    rig.write_config(EMERG_WR, b"!\0\0\0")

    assert host.received == b"!"
    assert (rig.line.edges, rig.driver.status) == (edges, 0x4F)
    assert bytes(rig.memory.view(0, 4 << 20)) == memory


# Queues


@pytest.mark.spec("CON-03")
def test_without_multiport_there_are_two_queues(make_console: ConsoleMaker) -> None:
    rig = make_console(Host(), Host(), features=ALONE)

    assert rig.present_queues() == [RX0, TX0]


@pytest.mark.spec("CON-03")
def test_without_multiport_both_ends_of_port_0_are_open(make_console: ConsoleMaker) -> None:
    hosts = Host(), Host()
    rig = make_console(*hosts, features=ALONE)

    rig.put(TX0, b"out")
    hosts[0].port.send(b"in")
    rig.give(RX0, 16)

    assert (hosts[0].received, rig.got(RX0)) == (b"out", [b"in"])
    assert (hosts[0].openings, hosts[1].openings) == ([True], [])


# Control messages


@pytest.mark.spec("CON-04")
def test_no_port_is_announced_before_the_driver_is_ready(make_console: ConsoleMaker) -> None:
    rig = make_console(Host(), Host())
    before = rig.told()

    rig.say(0, DEVICE_READY)

    assert before == []
    assert rig.told() == [Told(0, ADD, 1), Told(1, ADD, 1)]


@pytest.mark.spec("CON-04")
def test_driver_that_failed_is_told_of_no_port(make_console: ConsoleMaker) -> None:
    rig = make_console(Host())

    rig.say(0, DEVICE_READY, 0)
    rig.console.add_port(Host().port)

    assert rig.told() == []


@pytest.mark.spec("CON-04", "CON-13")
def test_port_that_is_ready_is_described(make_console: ConsoleMaker) -> None:
    rig = make_console(Host(console=True), Host("agent"))
    rig.say(0, DEVICE_READY)
    rig.told()

    rig.say(0, PORT_READY)
    rig.say(1, PORT_READY)

    assert rig.told() == [
        Told(0, CONSOLE_PORT, 1),
        Told(0, RESIZE, 1, struct.pack("<HH", 80, 25)),
        Told(0, PORT_OPEN, 1),
        Told(1, PORT_NAME, 1, b"agent"),
        Told(1, PORT_OPEN, 1),
    ]


@pytest.mark.spec("CON-05")
def test_port_is_added_once_however_often_the_driver_is_ready(make_console: ConsoleMaker) -> None:
    rig = make_console(Host())

    rig.say(0, DEVICE_READY)
    rig.say(0, DEVICE_READY)

    assert rig.told() == [Told(0, ADD, 1)]


@pytest.mark.spec("CON-05", "CON-06")
def test_number_is_free_again_once_its_port_was_removed(make_console: ConsoleMaker) -> None:
    rig = make_console(Host(), Host())
    rig.set_up(0, 1)

    rig.console.remove_port(1)
    number = rig.console.add_port(Host().port)
    rig.settle()

    assert number == 1
    assert rig.told() == [Told(1, REMOVE, 1), Told(1, ADD, 1)]


@pytest.mark.spec("CON-05")
def test_no_port_is_added_past_the_most_that_there_can_be(make_console: ConsoleMaker) -> None:
    rig = make_console(Host(), Host(), Host())
    rig.set_up(0, 1, 2)

    with pytest.raises(ConfigurationError, match="no more fit in"):
        rig.console.add_port(Host().port)

    assert rig.told() == []
    assert struct.unpack("<I", rig.config_image(4, 4)) == (3,)


@pytest.mark.spec("CON-06")
def test_port_removed_twice_is_one_message(make_console: ConsoleMaker) -> None:
    rig = make_console(Host(), Host())
    rig.set_up(0, 1)

    rig.console.remove_port(1)
    with pytest.raises(ConfigurationError, match="there are"):
        rig.console.remove_port(1)
    rig.settle()

    assert rig.told() == [Told(1, REMOVE, 1)]


@pytest.mark.spec("CON-06")
def test_port_that_came_and_went_unseen_is_no_message(make_console: ConsoleMaker) -> None:
    rig = make_console(Host())
    rig.say(0, DEVICE_READY)
    rig.settle()

    rig.console.remove_port(rig.console.add_port(Host().port))
    rig.console.remove_port(0)
    rig.settle()

    assert rig.told() == []


@pytest.mark.spec("CON-07")
@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\0" * 7,
        struct.pack("<IHH", 1, PORT_READY, 1),
        struct.pack("<IHH", 0xFFFF_FFFF, PORT_OPEN, 1),
        struct.pack("<IHH", 0, ADD, 1),
        struct.pack("<IHH", 0, 8, 1),
        struct.pack("<IHH", 0, 0xFFFF, 0xFFFF),
    ],
)
def test_message_without_sense_is_ignored(make_console: ConsoleMaker, message: bytes) -> None:
    host = Host()
    rig = make_console(host)
    rig.set_up(0)
    segment = Segment(0x100000 - 64, len(message), False)
    rig.rings[CONTROL_TX].write_bytes(segment.address, message)
    rig.rings[CONTROL_TX].add_segments([segment])
    rig.driver.notify(CONTROL_TX)

    rig.settle()

    assert [one.length for one in rig.rings[CONTROL_TX].collect()] == [0]
    assert (rig.told(), rig.driver.status, host.openings) == ([], 0x0F, [True])


@pytest.mark.spec("CON-07")
def test_bytes_after_a_message_and_room_beside_it_are_ignored(make_console: ConsoleMaker) -> None:
    host = Host()
    rig = make_console(host)
    rig.set_up(0)

    used = rig.request(CONTROL_TX, ((struct.pack("<IHH", 0, PORT_OPEN, 0), b"more"), (8,)))

    assert (used.length, used.data) == (0, b"\xa5" * 8)
    assert host.openings == [True, False]


@pytest.mark.spec("CON-07")
def test_message_may_be_cut_anywhere(make_console: ConsoleMaker) -> None:
    host = Host()
    rig = make_console(host)
    message = struct.pack("<IHH", 0, PORT_READY, 1)

    rig.request(CONTROL_TX, ((message[:1], message[1:5], message[5:]), ()))

    assert rig.told() == [Told(0, PORT_OPEN, 1)]


@pytest.mark.spec("CON-08")
def test_messages_wait_for_buffers_in_order(make_console: ConsoleMaker) -> None:
    rig = make_console(Host(), Host("one"))
    rig.say(0, DEVICE_READY)
    rig.say(1, PORT_READY)
    rig.console.remove_port(0)
    rig.settle()

    messages = [rig.told(1) for _ in range(4)]

    assert messages == [
        [Told(1, ADD, 1)],
        [Told(1, PORT_NAME, 1, b"one")],
        [Told(1, PORT_OPEN, 1)],
        [],
    ]


@pytest.mark.spec("CON-08")
def test_messages_that_wait_are_few_whatever_happens_meanwhile(make_console: ConsoleMaker) -> None:
    hosts = Host(console=True), Host("one", console=True)
    rig = make_console(*hosts)
    for _ in range(50):
        rig.say(0, DEVICE_READY)
        rig.say(1, PORT_READY)
        hosts[1].port.close()
        rig.settle()
        hosts[1].port.open()
        rig.console.resize(100, 50, 1)
        rig.settle()

    messages = rig.told(32)

    assert len(messages) <= 14
    assert messages[:2] == [Told(0, ADD, 1), Told(1, ADD, 1)]
    assert [one.value for one in messages if one.event == PORT_OPEN] == [0, 1]
    assert messages[-1] == Told(1, RESIZE, 1, struct.pack("<HH", 100, 50))


@pytest.mark.spec("CON-08")
def test_buffer_too_small_for_a_message_comes_back_empty(make_console: ConsoleMaker) -> None:
    rig = make_console(Host())
    rig.say(0, DEVICE_READY)

    rig.give(CONTROL_RX, 7, 8)

    used = rig.rings[CONTROL_RX].collect()
    assert [(one.length, one.data) for one in used] == [
        (0, b"\xa5" * 7),
        (8, struct.pack("<IHH", 0, ADD, 1)),
    ]


# Data


@pytest.mark.spec("CON-09")
def test_room_in_a_transmit_buffer_is_left_alone(make_console: ConsoleMaker) -> None:
    host = Host()
    rig = make_console(host)

    used = rig.request(TX0, ((b"out",), (8,)))
    empty = rig.request(TX0, ((), (8,)))

    assert (used.length, used.data, empty.length) == (0, b"\xa5" * 8, 0)
    assert host.received == b"out"


@pytest.mark.spec("CON-09")
def test_receive_buffer_without_room_comes_back_and_loses_nothing(
    make_console: ConsoleMaker,
) -> None:
    host = Host()
    rig = make_console(host)
    rig.set_up(0)
    address = rig.rings[RX0].arena.allocate(4)
    rig.rings[RX0].write_bytes(address, b"keep")
    rig.rings[RX0].add_segments([Segment(address, 4, False)])

    host.port.send(b"in")
    rig.give(RX0, 16)

    assert rig.got(RX0) == [b"", b"in"]
    assert rig.rings[RX0].read_bytes(address, 4) == b"keep"


@pytest.mark.spec("CON-10")
def test_one_key_press_fills_one_buffer_at_once(make_console: ConsoleMaker) -> None:
    host = Host()
    rig = make_console(host)
    rig.set_up(0)
    rig.give(RX0, 16, 16)
    before = rig.rings[RX0].collect()

    host.port.send(b"k")
    rig.settle()

    [used] = rig.rings[RX0].collect()
    assert (before, used.length, used.data) == ([], 1, b"k" + b"\xa5" * 15)


@pytest.mark.spec("CON-10")
def test_bytes_go_over_to_the_next_buffer_and_the_next_segment(make_console: ConsoleMaker) -> None:
    host = Host()
    rig = make_console(host)
    rig.set_up(0)
    host.port.send(b"0123456789")

    rig.add(RX0, ((), (1, 3)))
    rig.give(RX0, 4, 4, 4)

    assert rig.got(RX0) == [b"0123", b"4567", b"89"]


@pytest.mark.spec("CON-10")
def test_burst_of_buffers_is_one_notification(make_console: ConsoleMaker) -> None:
    host = Host()
    rig = make_console(host)
    rig.set_up(0)
    rig.give(RX0, *[4] * 8)
    before = rig.line.edges

    host.port.send(b"x" * 32)
    rig.settle()

    assert (len(rig.got(RX0)), rig.line.edges - before) == (8, 1)


@pytest.mark.spec("CON-11")
def test_buffer_comes_back_when_the_host_took_all_of_it(make_console: ConsoleMaker) -> None:
    host = Host()
    rig = make_console(host)
    host.room = 5

    rig.put(TX0, b"0123456789", b"abc")
    held = rig.got(TX0)
    host.make_room(5)
    rig.settle()
    first = rig.got(TX0)
    host.make_room()
    rig.settle()

    assert (held, first, rig.got(TX0)) == ([], [b""], [b""])
    assert host.received == b"0123456789abc"


@pytest.mark.spec("CON-11")
def test_full_host_is_not_asked_again_before_it_resumes(make_console: ConsoleMaker) -> None:
    host = Host()
    rig = make_console(host)
    host.room = 0
    rig.put(TX0, b"first")
    host.room = 100

    rig.put(TX0, b"second")

    assert (host.received, rig.got(TX0)) == (b"", [])


@pytest.mark.spec("CON-11")
def test_one_full_host_holds_up_no_other(make_console: ConsoleMaker) -> None:
    hosts = Host(), Host()
    rig = make_console(*hosts)
    hosts[0].room = 0

    rig.put(TX0, b"stuck")
    rig.put(TX1, b"flows")

    assert (hosts[0].received, hosts[1].received) == (b"", b"flows")


@pytest.mark.spec("CON-11")
def test_room_that_comes_while_the_host_says_no_is_not_missed(make_console: ConsoleMaker) -> None:
    host = Host()
    rig = make_console(host)
    answers = iter([0, None])

    def refuse_and_resume_at_once(data: bytes) -> int | None:
        host.port.resume()
        return next(answers)

    host.port.on_data = refuse_and_resume_at_once

    rig.put(TX0, b"text")

    assert rig.got(TX0) == [b""]


# Size


@pytest.mark.spec("CON-12")
@pytest.mark.parametrize("features", [ALONE, 7])
def test_size_of_port_0_is_a_configuration_change(
    make_console: ConsoleMaker, features: int
) -> None:
    rig = make_console(Host(console=True), features=features)
    rig.driver.acknowledge(3)

    rig.console.resize(132, 43)

    assert rig.driver.interrupt_status & 2
    assert rig.config_image(4) == struct.pack("<HH", 132, 43)


@pytest.mark.spec("CON-12")
@pytest.mark.parametrize("port", [0, 1])
def test_size_of_a_port_is_told_by_a_message(make_console: ConsoleMaker, port: int) -> None:
    rig = make_console(Host(console=True), Host(console=True))
    rig.set_up(0, 1)

    rig.console.resize(132, 43, port)
    rig.settle()

    assert rig.told() == [Told(port, RESIZE, 1, struct.pack("<HH", 132, 43))]


@pytest.mark.spec("CON-12")
def test_size_of_another_port_leaves_the_configuration_alone(make_console: ConsoleMaker) -> None:
    rig = make_console(Host(), Host(console=True))
    rig.driver.acknowledge(3)

    rig.console.resize(132, 43, 1)

    assert rig.driver.interrupt_status == 0
    assert rig.config_image(4) == struct.pack("<HH", 80, 25)


# Openings


@pytest.mark.spec("CON-13")
def test_bytes_wait_for_the_guest_to_open_its_end(make_console: ConsoleMaker) -> None:
    host = Host(buffer_bytes=4)
    taken = host.port.send(b"early"), host.port.send(b"y")
    rig = make_console(host)
    rig.say(0, DEVICE_READY)
    rig.say(0, PORT_READY)
    rig.give(RX0, 16)
    before = rig.got(RX0)

    rig.say(0, PORT_OPEN)

    assert (taken, before, rig.got(RX0)) == ((4, 0), [], [b"earl"])
    assert (host.openings, host.spaces) == ([True], 1)


@pytest.mark.spec("CON-13")
def test_bytes_wait_while_the_guest_has_closed_its_end(make_console: ConsoleMaker) -> None:
    host = Host()
    rig = make_console(host)
    rig.set_up(0)
    rig.give(RX0, 16)
    rig.say(0, PORT_OPEN, 0)

    host.port.send(b"later")
    rig.settle()
    closed = rig.got(RX0)
    rig.say(0, PORT_OPEN, 1)

    assert (closed, rig.got(RX0)) == ([], [b"later"])
    assert (host.openings, host.port.host_open) == ([True, False, True], True)


@pytest.mark.spec("CON-13")
def test_host_that_closes_its_end_is_told_and_drops_what_waits(make_console: ConsoleMaker) -> None:
    host = Host()
    rig = make_console(host)
    rig.set_up(0)
    host.port.send(b"dropped")

    host.port.close()
    refused = host.port.send(b"refused")
    rig.settle()
    told = rig.told()
    host.port.open()
    host.port.send(b"new")
    rig.give(RX0, 16)

    assert (refused, told, rig.told()) == (0, [Told(0, PORT_OPEN, 0)], [Told(0, PORT_OPEN, 1)])
    assert (rig.got(RX0), host.openings) == ([b"new"], [True])


@pytest.mark.spec("CON-13")
def test_output_in_hand_is_dropped_when_the_host_closes_its_end(
    make_console: ConsoleMaker,
) -> None:
    host = Host()
    rig = make_console(host)
    rig.set_up(0)
    host.room = 2
    rig.put(TX0, b"cut off", b"not seen")

    host.port.close()
    rig.settle()

    assert (rig.got(TX0), host.received) == ([b"", b""], b"cu")


@pytest.mark.spec("CON-13")
def test_output_begins_afresh_for_a_host_that_closed_and_opened(
    make_console: ConsoleMaker,
) -> None:
    host = Host()
    rig = make_console(host)
    rig.set_up(0)
    host.room = 2
    rig.put(TX0, b"cut off")

    host.port.close()
    host.port.open()
    host.make_room()
    rig.put(TX0, b" afresh")

    assert (rig.got(TX0), host.received) == ([b"", b""], b"cu afresh")
    assert rig.told() == [Told(0, PORT_OPEN, 0), Told(0, PORT_OPEN, 1)]


@pytest.mark.spec("CON-13")
def test_removed_port_is_closed_and_its_output_dropped(make_console: ConsoleMaker) -> None:
    hosts = Host(), Host()
    rig = make_console(*hosts)
    rig.set_up(0, 1)
    hosts[1].room = 1
    rig.put(TX1, b"old")
    successor = Host()

    rig.console.remove_port(1)
    rig.console.add_port(successor.port)
    rig.put(TX1, b"new")

    assert (hosts[1].received, hosts[1].openings) == (b"o", [True, False])
    assert (rig.got(TX1), successor.received) == ([b"", b""], b"new")
    assert rig.got(RX1) == []


@pytest.mark.spec("CON-13")
def test_reset_closes_the_guests_end_and_drops_what_it_did_not_take(
    make_console: ConsoleMaker, form: Form
) -> None:
    host = Host()
    rig = make_console(host)
    rig.set_up(0)
    host.port.send(b"for the old driver")

    rig.driver.status = 0
    rig.start(7, form, size=32)
    rig.set_up(0)
    host.port.send(b"for the new one")
    rig.give(RX0, 64)

    assert (rig.got(RX0), host.openings) == ([b"for the new one"], [True, False, True])


@pytest.mark.spec("CON-13")
def test_driver_that_wakes_up_goes_on_with_the_ports_that_it_had(
    make_console: ConsoleMaker, form: Form
) -> None:
    host = Host("agent")
    rig = make_console(host)
    rig.set_up(0)
    rig.driver.status = 0
    rig.start(7, form, size=32)

    rig.say(0, PORT_READY)
    rig.say(0, PORT_OPEN)

    assert host.port.guest_open
    assert rig.told() == [Told(0, PORT_NAME, 1, b"agent"), Told(0, PORT_OPEN, 1)]
