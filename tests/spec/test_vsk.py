"""The socket device. VIRTIO 1.4 "Socket Device"."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.spec.conftest import RigMaker
from tests.spec.rig import Form
from tests.spec.vsk import (
    BUFFER_BYTES,
    CREDIT_REQUEST,
    CREDIT_UPDATE,
    EOM,
    EOR,
    EVENT,
    F_NO_IMPLIED_STREAM,
    F_SEQPACKET,
    F_STREAM,
    GUEST_CID,
    GUEST_PORT,
    HOST_CID,
    HOST_PORT,
    INVALID,
    RECEIVE,
    REQUEST,
    RESPONSE,
    RST,
    RW,
    RX,
    SEND,
    SEQPACKET,
    SHUTDOWN,
    STREAM,
    TX,
    Host,
    VsockRig,
    packet,
)
from virtio.errors import ConfigurationError
from virtio.virtqueue.state import QueueState
from virtio.vsock import Vsock

VsockMaker = Callable[..., VsockRig]


@pytest.fixture
def make_vsock(form: Form) -> Iterator[VsockMaker]:
    """A function that makes a live socket device, which is closed after the test."""
    rigs: list[VsockRig] = []

    def make(**options: int) -> VsockRig:
        rigs.append(VsockRig(form, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make_vsock: VsockMaker) -> VsockRig:
    """A live socket device."""
    return make_vsock()


# What it is


@pytest.mark.spec("VSK-01")
@pytest.mark.parametrize("cid", [0, 1, 2, 0xFFFF_FFFF, 1 << 32, (1 << 64) - 1, -1])
def test_reserved_cid_is_given_to_no_guest(cid: int) -> None:
    with pytest.raises(ConfigurationError, match=f"guest CID {cid}: must be 3 to 4294967294"):
        Vsock(cid)


@pytest.mark.spec("VSK-01")
def test_guest_reads_its_cid(make_rig: RigMaker) -> None:
    rig = make_rig(Vsock(0xFFFF_FFFE))
    assert rig.config_image(12) == bytes.fromhex("feffffff 00000000 00000000")


@pytest.mark.spec("VSK-02")
@pytest.mark.parametrize(
    ("features", "kinds"),
    [
        (0, [STREAM]),
        (F_STREAM, [STREAM]),
        (F_SEQPACKET, [STREAM, SEQPACKET]),
        (F_NO_IMPLIED_STREAM, []),
        (F_STREAM | F_NO_IMPLIED_STREAM, [STREAM]),
        (F_SEQPACKET | F_NO_IMPLIED_STREAM, [SEQPACKET]),
    ],
)
def test_accepted_features_say_which_types_there_are(
    features: int, kinds: list[int], make_vsock: VsockMaker
) -> None:
    rig = make_vsock(features=features)

    for kind in (STREAM, SEQPACKET):
        rig.send(REQUEST, type=kind)
        assert rig.ops() == [RESPONSE if kind in kinds else RST]
        if kind in kinds:
            assert rig.vsock.connect(9, kind=kind).kind == kind
            assert rig.ops() == [REQUEST]
        else:
            with pytest.raises(ConfigurationError, match=f"no sockets of type {kind}"):
                rig.vsock.connect(9, kind=kind)


# Requests


@pytest.mark.spec("VSK-07")
def test_listener_answers_a_request(rig: VsockRig) -> None:
    rig.send(REQUEST)

    [answer] = rig.heard()
    assert answer[:4] == (HOST_CID, GUEST_CID, HOST_PORT, GUEST_PORT)
    assert (answer.type, answer.op, answer.flags) == (STREAM, RESPONSE, 0)


@pytest.mark.spec("VSK-07")
def test_request_that_nobody_listens_for_is_refused(rig: VsockRig) -> None:
    rig.send(REQUEST, dst_port=99)

    [answer] = rig.heard()
    assert (answer.op, answer.src_port, answer.dst_port) == (RST, 99, GUEST_PORT)
    assert rig.hosts[0].heard == ["close"]
    assert rig.ops() == []


@pytest.mark.spec("VSK-07")
def test_request_of_the_host_is_open_when_the_guest_says_so(rig: VsockRig) -> None:
    host = Host(rig.vsock.connect(22))
    [asked] = rig.heard()
    assert (asked.op, asked.dst_port) == (REQUEST, 22)
    assert host.connection.send(b"early") == 0

    rig.send(RESPONSE, src_port=22, dst_port=asked.src_port)

    assert host.heard == ["open"]
    assert host.connection.send(b"hello") == 5
    assert rig.heard()[0].data == b"hello"


@pytest.mark.spec("VSK-07")
def test_request_of_the_host_ends_when_the_guest_refuses(rig: VsockRig) -> None:
    host = Host(rig.vsock.connect(22))
    [asked] = rig.heard()

    rig.send(RST, src_port=22, dst_port=asked.src_port)

    assert host.heard == ["close"]
    assert rig.ops() == []


@pytest.mark.spec("VSK-05")
def test_guest_cannot_answer_what_it_was_not_asked(rig: VsockRig) -> None:
    rig.send(REQUEST, dst_port=HOST_PORT)
    rig.heard()
    rig.send(RESPONSE)
    assert rig.ops() == [RST]

    host = Host(rig.vsock.connect(22))
    port = host.connection.host_port
    rig.send(RESPONSE, src_port=22, dst_port=port)  # before it can have seen the request

    assert host.heard == ["close"]


@pytest.mark.spec("VSK-05")
def test_guest_cannot_answer_its_own_request(rig: VsockRig) -> None:
    rig.vsock.on_request = lambda connection: rig.hosts.append(Host(connection))
    rig.send(REQUEST)

    rig.send(RESPONSE)

    assert (rig.ops(), rig.hosts[0].heard) == ([RST], ["close"])
    rig.hosts[0].connection.accept()
    assert rig.ops() == []


# What belongs to nothing


@pytest.mark.spec("VSK-04")
@pytest.mark.parametrize("op", [REQUEST, RW])
def test_unknown_type_is_answered_with_rst(op: int, rig: VsockRig) -> None:
    rig.send(op, type=9)

    [answer] = rig.heard()
    assert (answer.op, answer.type) == (RST, 9)


@pytest.mark.spec("VSK-05")
@pytest.mark.parametrize(
    "op", [INVALID, RESPONSE, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST, 8, 99]
)
def test_packet_of_no_connection_is_answered_with_rst(op: int, rig: VsockRig) -> None:
    rig.send(op)
    assert rig.ops() == [RST]


@pytest.mark.spec("VSK-05")
@pytest.mark.parametrize("op", [INVALID, REQUEST, 8, 99])
def test_op_that_makes_no_sense_ends_the_connection(op: int, rig: VsockRig) -> None:
    host = rig.connect()

    rig.send(op)

    assert (rig.ops(), host.heard) == ([RST], ["close"])


@pytest.mark.spec("VSK-05")
def test_rst_is_never_answered(rig: VsockRig) -> None:
    rig.send(RST)
    assert rig.ops() == []
    host = rig.connect()

    rig.send(RST)

    assert (rig.ops(), host.heard) == ([], ["close"])


@pytest.mark.spec("VSK-06")
@pytest.mark.parametrize(
    "spoof",
    [
        {"src_cid": HOST_CID},
        {"src_cid": GUEST_CID | 1 << 32},
        {"dst_cid": 9},
        {"dst_cid": HOST_CID | 1 << 63},
    ],
)
def test_packet_of_another_sender_or_receiver_is_dropped(
    spoof: dict[str, Any], rig: VsockRig
) -> None:
    rig.send(REQUEST, **spoof)

    assert (rig.ops(), rig.hosts) == ([], [])


@pytest.mark.spec("VSK-05")
@pytest.mark.parametrize("length", [1, 43])
def test_packet_without_a_whole_header_is_dropped(length: int, rig: VsockRig) -> None:
    rig.put(packet(REQUEST)[:length])

    assert rig.ops() == []
    rig.connect()


# Data and credit


@pytest.mark.spec("VSK-09")
def test_bytes_go_both_ways_with_valid_credit(rig: VsockRig) -> None:
    host = rig.connect()
    rig.send(RW, b"ping")
    host.connection.send(b"pong")

    assert host.received == [b"ping"]
    [answer] = rig.heard()
    assert (answer.op, answer.data) == (RW, b"pong")
    assert (answer.buf_alloc, answer.fwd_cnt) == (BUFFER_BYTES, 4)


@pytest.mark.spec("VSK-09")
def test_only_what_the_host_took_is_told_as_consumed(rig: VsockRig) -> None:
    host = rig.connect()
    host.room = 3
    rig.send(RW, b"abcdef")
    rig.send(CREDIT_REQUEST)
    [before] = rig.heard()

    host.make_room()
    rig.send(CREDIT_REQUEST)

    assert (before.op, before.fwd_cnt) == (CREDIT_UPDATE, 3)
    assert rig.heard()[0].fwd_cnt == 6
    assert host.received == [b"abc", b"def"]


@pytest.mark.spec("VSK-08")
def test_device_sends_no_more_than_the_credit(rig: VsockRig) -> None:
    rig.send(REQUEST, buf_alloc=10)
    rig.heard()
    rig.hosts[0].connection.send(b"0123456789abcdef")

    sent, asked = rig.heard()
    assert (sent.data, asked.op) == (b"0123456789", CREDIT_REQUEST)
    assert rig.ops() == [], "it asks once"

    rig.send(CREDIT_UPDATE, buf_alloc=10, fwd_cnt=4)
    assert [one.data for one in rig.heard()] == [b"abcd", b""]


@pytest.mark.spec("VSK-08")
@pytest.mark.parametrize(("buf_alloc", "fwd_cnt"), [(5, 0), (0, 0), (10, 11), (10, 0xFFFF_FFFF)])
def test_credit_that_shrank_below_what_is_under_way_is_none(
    buf_alloc: int, fwd_cnt: int, rig: VsockRig
) -> None:
    rig.send(REQUEST, buf_alloc=10)
    rig.heard()
    rig.hosts[0].connection.send(b"0123456789abcdef")
    rig.heard()

    rig.send(CREDIT_UPDATE, buf_alloc=buf_alloc, fwd_cnt=fwd_cnt)

    assert all(one.op == CREDIT_REQUEST for one in rig.heard())


@pytest.mark.spec("VSK-08")
def test_counters_go_past_their_end(make_vsock: VsockMaker) -> None:
    rig = make_vsock()
    host = rig.connect()
    credit = host.connection._credit
    credit._tx_cnt = credit._peer_fwd_cnt = 0xFFFF_FFFC
    credit._rx_cnt = credit.fwd_cnt = 0xFFFF_FFFE
    rig.send(CREDIT_UPDATE, buf_alloc=8, fwd_cnt=0xFFFF_FFFC)

    host.connection.send(b"0123456789")
    assert rig.heard()[0].data == b"01234567"
    rig.send(RW, b"ping", buf_alloc=8, fwd_cnt=2)

    answer = rig.heard()[0]
    assert (answer.data, answer.fwd_cnt) == (b"89", 2)
    assert host.received == [b"ping"]


@pytest.mark.spec("VSK-10")
def test_slow_reader_gets_everything(rig: VsockRig) -> None:
    host = rig.connect()
    host.room = 0
    sent = bytes(range(256)) * 1024
    offset = told = 0
    while offset < len(sent):
        part = sent[offset : offset + min(4096, told + BUFFER_BYTES - offset)]
        assert part or host.room == 0, "the driver stalls, and the device says nothing"
        offset += len(part)
        if part:
            rig.send(RW, part)
        host.make_room(30000)
        told = ([told] + [one.fwd_cnt for one in rig.heard()])[-1]
    host.make_room()

    assert b"".join(host.received) == sent


@pytest.mark.spec("VSK-10")
def test_credit_is_told_when_half_of_it_is_used(rig: VsockRig) -> None:
    rig.connect()
    updates = []
    for _ in range(2 * BUFFER_BYTES // 4096):
        rig.send(RW, bytes(4096))
        updates += [one.fwd_cnt for one in rig.heard()]

    assert updates == [n * BUFFER_BYTES // 2 for n in (1, 2, 3, 4)]


@pytest.mark.spec("VSK-11")
def test_data_without_credit_ends_the_connection(rig: VsockRig) -> None:
    host = rig.connect()
    host.room = 0
    for _ in range(BUFFER_BYTES // 4096):
        rig.send(RW, bytes(4096))
    assert rig.ops() == []

    rig.send(RW, b"x")

    assert (rig.ops(), host.heard) == ([RST], ["close"])


@pytest.mark.spec("VSK-11")
@pytest.mark.parametrize("length", [5, 1 << 31, 0xFFFF_FFFF])
def test_length_of_more_than_the_data_ends_the_connection(length: int, rig: VsockRig) -> None:
    host = rig.connect()

    rig.send(RW, b"data", len=length)

    assert (rig.ops(), host.received) == ([RST], [])


@pytest.mark.spec("VSK-11")
def test_bytes_past_the_length_are_ignored(rig: VsockRig) -> None:
    host = rig.connect()
    rig.send(RW, b"data and more", len=4)
    rig.send(CREDIT_UPDATE, b"data", len=4)

    assert (rig.ops(), host.received) == ([], [b"data"])


# Flow


@pytest.mark.spec("VSK-03")
def test_full_rx_does_not_hold_up_tx(rig: VsockRig) -> None:
    host = rig.connect()
    host.connection.send(bytes(BUFFER_BYTES))

    for _ in range(100):
        rig.send(RW, b"x")

    assert sum(map(len, host.received)) == 100


@pytest.mark.spec("VSK-03")
def test_tx_waits_while_refusals_fill_their_room_and_goes_on_after(rig: VsockRig) -> None:
    sent = came_back = 0
    for _ in range(400):
        if rig.rings[TX].in_flight == rig.rings[TX].size:
            break
        rig.add(TX, ((packet(RW, src_port=sent),), ()))
        rig.settle()
        sent += 1
        came_back += len(rig.rings[TX].collect())
    assert (sent - came_back, came_back) == (64, 256)

    refused = []
    while more := rig.heard():
        refused += more

    assert [one.dst_port for one in refused] == list(range(sent))
    assert len(rig.rings[TX].collect()) == 64


@pytest.mark.spec("VSK-03")
def test_connections_take_turns(make_vsock: VsockMaker) -> None:
    rig = make_vsock(buffer_bytes=44 + 100)
    for port in (1, 2, 3):
        rig.connect(src_port=port)
    for host in rig.hosts:
        host.connection.send(bytes(200))

    assert [one.dst_port for one in rig.heard()] == [1, 2, 3, 1, 2, 3]


@pytest.mark.spec("VSK-03")
@pytest.mark.parametrize("size", [1, 43, 44])
def test_buffer_that_no_data_fits_into_comes_back_empty(size: int, rig: VsockRig) -> None:
    rig.send(REQUEST)
    rig.add(RX, ((), (size,)))
    rig.settle()

    assert [one.length for one in rig.rings[RX].collect()] == [0]
    assert rig.ops() == [RESPONSE]


# Ends


@pytest.mark.spec("VSK-12")
def test_guest_that_sends_no_more_still_hears(rig: VsockRig) -> None:
    host = rig.connect()
    rig.send(RW, b"last")
    rig.send(SHUTDOWN, flags=SEND)
    host.connection.send(b"answer")

    assert host.heard == ["end"]
    assert [(one.op, one.data) for one in rig.heard()] == [(RW, b"answer")]
    rig.send(RW, b"more")
    assert rig.ops() == [RST]


@pytest.mark.spec("VSK-12")
def test_guest_that_receives_no_more_still_speaks(rig: VsockRig) -> None:
    host = rig.connect()
    host.connection.send(b"too late")
    rig.rings[RX].collect()
    rig.send(SHUTDOWN, flags=RECEIVE)
    rig.send(RW, b"still here")

    assert (host.connection.guest_reads, host.connection.send(b"x")) == (False, 0)
    assert (host.received, host.heard) == ([b"still here"], ["space"])


@pytest.mark.spec("VSK-12")
@pytest.mark.parametrize("order", [(RECEIVE | SEND,), (RECEIVE, SEND), (SEND, 0, RECEIVE)])
def test_both_directions_shut_end_the_connection(order: tuple[int, ...], rig: VsockRig) -> None:
    host = rig.connect()
    for flags in order:
        assert rig.ops() == []
        rig.send(SHUTDOWN, flags=flags)

    assert rig.ops() == [RST]
    assert host.heard[-1] == "close"
    assert host.heard.count("end") == 1


@pytest.mark.spec("VSK-12")
def test_what_the_host_has_not_read_keeps_the_connection(rig: VsockRig) -> None:
    host = rig.connect()
    host.room = 0
    rig.send(RW, b"unread")
    rig.send(SHUTDOWN, flags=RECEIVE | SEND)
    assert (rig.ops(), host.heard.count("end")) == ([], 0)

    host.make_room()

    assert (host.received, rig.ops()) == ([b"unread"], [RST])
    assert host.heard[-2:] == ["end", "close"]


@pytest.mark.spec("VSK-12")
def test_host_says_when_it_sends_no_more_after_its_data(rig: VsockRig) -> None:
    host = rig.connect()
    host.connection.send(b"last words")
    host.connection.end()

    data, end = rig.heard()
    assert (data.data, end.op, end.flags) == (b"last words", SHUTDOWN, SEND)
    assert host.connection.send(b"x") == 0
    rig.send(RW, b"answer")
    assert host.received == [b"answer"]

    host.connection.close()
    [end] = rig.heard()
    assert (end.op, end.flags) == (SHUTDOWN, RECEIVE | SEND)


@pytest.mark.spec("VSK-12")
def test_guest_that_does_not_answer_the_end_is_reset(rig: VsockRig) -> None:
    host = rig.connect()
    host.connection.close()
    assert rig.ops() == [SHUTDOWN]

    rig.loop.advance(7.9)
    assert rig.ops() == []
    rig.loop.advance(0.2)

    assert (rig.ops(), host.heard) == ([RST], ["close"])
    rig.connect()


@pytest.mark.spec("VSK-12")
def test_end_that_the_guest_answers_is_over(rig: VsockRig) -> None:
    host = rig.connect()
    host.connection.close()
    rig.heard()
    rig.send(RST)
    rig.connect()
    assert all(timer.cancelled for timer in rig.loop.timers), "one would stay for each end"

    rig.loop.advance(60)

    assert host.heard == ["close"]
    assert rig.ops() == [], "the time for the first one's end must not end the second"


# Messages


@pytest.mark.spec("VSK-13")
def test_message_may_come_in_several_packets(rig: VsockRig) -> None:
    host = rig.connect(type=SEQPACKET)
    rig.send(RW, b"one, ", type=SEQPACKET)
    rig.send(RW, b"two", type=SEQPACKET, flags=EOM | EOR)
    rig.send(RW, b"", type=SEQPACKET, flags=EOM)
    rig.send(RW, b"three", type=SEQPACKET, flags=EOM)

    assert host.received == [b"one, two", b"", b"three"]


@pytest.mark.spec("VSK-13")
def test_message_goes_in_several_packets_of_which_the_last_says_so(
    make_vsock: VsockMaker,
) -> None:
    rig = make_vsock(buffer_bytes=44 + 4)
    host = rig.connect(type=SEQPACKET)
    host.connection.send(b"0123456789")
    host.connection.send(b"")

    packets = rig.heard()

    assert [(one.data, one.flags) for one in packets] == [
        (b"0123", 0),
        (b"4567", 0),
        (b"89", EOM),
        (b"", EOM),
    ]
    assert {one.type for one in packets} == {SEQPACKET}


@pytest.mark.spec("VSK-13")
def test_message_is_taken_whole_or_not_at_all(rig: VsockRig) -> None:
    host = rig.connect(type=SEQPACKET)
    assert host.connection.send(bytes(60000)) == 60000
    assert host.connection.send(bytes(6000)) == 0
    rig.heard()

    assert host.heard == ["space"]
    assert host.connection.send(bytes(6000)) == 6000
    with pytest.raises(ValueError, match="message of 65537 bytes: the guest takes 65536 at most"):
        host.connection.send(bytes(65537))


@pytest.mark.spec("VSK-13")
def test_stream_has_no_message_ends(rig: VsockRig) -> None:
    host = rig.connect()
    host.connection.send(b"data")
    assert [one.flags for one in rig.heard()] == [0]


# Limits


@pytest.mark.spec("VSK-15")
def test_connections_are_limited_and_requests_beyond_are_refused(rig: VsockRig) -> None:
    answers = []
    for port in range(1100):
        rig.send(REQUEST, src_port=port)
        answers += rig.ops()

    assert (answers.count(RESPONSE), answers.count(RST)) == (1023, 77)
    with pytest.raises(ConfigurationError, match="1023 connections are open"):
        rig.vsock.connect(1)

    rig.send(RST, src_port=0)
    rig.connect(src_port=5000)


@pytest.mark.spec("VSK-15")
def test_messages_without_a_byte_are_limited(rig: VsockRig) -> None:
    host = rig.connect(type=SEQPACKET)
    host.connection.on_data = lambda data: 0
    rig.send(RW, b"x", type=SEQPACKET, flags=EOM)  # the host takes nothing from now on
    for _ in range(255):
        rig.send(RW, b"", type=SEQPACKET, flags=EOM)
    assert rig.ops() == []

    rig.send(RW, b"", type=SEQPACKET, flags=EOM)

    assert rig.ops() == [RST]


@pytest.mark.spec("VSK-15")
def test_host_is_told_when_there_is_room_again(rig: VsockRig) -> None:
    host = rig.connect()
    assert host.connection.send(bytes(BUFFER_BYTES + 10)) == BUFFER_BYTES
    assert host.connection.send(b"x") == 0
    assert host.heard == []

    rig.heard()

    assert host.heard == ["space"]
    assert host.connection.send(bytes(10)) == 10


# Life


@pytest.mark.spec("VSK-14")
def test_restored_guest_is_told_that_its_connections_are_gone(form: Form) -> None:
    before = VsockRig(form)
    before.connect()
    assert before.rings[EVENT].in_flight == 0
    state = before.vsock.state()
    rings = [queue.state() for queue in before.vsock.queues if queue is not None]
    ring = before.rings[EVENT]

    after = restored(before, state, rings)
    after.handle_queue(EVENT)
    token = ring.add((), (8,))
    after.handle_queue(EVENT)

    [used] = ring.collect()
    assert (used.token, used.length, used.data[:4]) == (token, 4, bytes(4))
    ring.add((), (8,))
    after.handle_queue(EVENT)
    assert ring.collect() == [], "it is told once"
    before.close()


def restored(rig: VsockRig, state: dict[str, object], rings: list[QueueState]) -> Vsock:
    """Return a device that goes on where a rig's was saved, on its memory."""
    from virtio.device.lifecycle import Activation
    from virtio.virtqueue.queue import Queue

    device = Vsock(ring_features=rig.vsock.ring_features)
    features = rig.vsock.driver_features
    device.negotiated(features)
    device.restore(state)
    queues = [Queue.from_state(rig.memory, one) for one in rings]
    device.activate(Activation(rig.memory, features, [*queues], lambda: None, rig.loop))
    return device


@pytest.mark.spec("VSK-14")
def test_device_that_was_never_live_has_nothing_to_tell() -> None:
    assert Vsock(3).state()["reset_is_news"] is False


@pytest.mark.spec("VSK-14")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reset_is_news": 1}, "reset_is_news"),
        ({"config": {"guest_cid": 2}}, "guest CID 2"),
        ({"config": {"guest_cid": 1 << 40}}, "guest_cid"),
    ],
)
def test_saved_state_that_cannot_be_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Vsock(3).restore(Vsock(3).state() | change)


@pytest.mark.spec("VSK-14")
def test_reset_ends_every_connection_of_the_host(rig: VsockRig) -> None:
    host = rig.connect()

    rig.driver.status = 0

    assert host.heard == ["close"]
    assert host.connection.send(b"x") == 0
