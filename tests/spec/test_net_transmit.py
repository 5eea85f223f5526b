"""Packets from the guest. VIRTIO 1.4 "Network Device", "Packet Transmission"."""

from collections.abc import Callable

import pytest

from tests.spec.net import (
    CSUM,
    ECN,
    HOST_ECN,
    HOST_TSO4,
    HOST_USO,
    MRG_RXBUF,
    NEEDS_CSUM,
    PEER_MAC,
    PLAIN,
    TCPV4,
    TCPV6,
    UDP,
    UDP_L4,
    NetRig,
    Wire,
    checksums_hold,
    frame,
    header,
    ip_frame,
)

NetMaker = Callable[..., NetRig]
TO_SEND = frame(60, PEER_MAC)


@pytest.mark.spec("NET-01", "NET-02")
@pytest.mark.parametrize("features", [0, MRG_RXBUF, MRG_RXBUF | CSUM])
def test_header_of_a_packet_to_send_has_12_bytes(features: int, make_net: NetMaker) -> None:
    rig = make_net(features=features)

    assert rig.sent(header() + TO_SEND) == [PLAIN + TO_SEND]


@pytest.mark.spec("NET-11")
@pytest.mark.parametrize("flags", [0, 2, 4, 0x80, 0xFE])
def test_fields_that_no_flag_calls_for_leave_a_frame_as_it_is(
    flags: int, make_net: NetMaker
) -> None:
    rig = make_net()
    garbage = header(flags, 0, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF)

    assert rig.sent(garbage + TO_SEND) == [PLAIN + TO_SEND]


@pytest.mark.spec("NET-11")
def test_checksum_is_not_asked_for_by_a_driver_without_the_feature(make_net: NetMaker) -> None:
    rig = make_net(features=0)

    assert rig.sent(header(NEEDS_CSUM, csum_start=14, csum_offset=2) + TO_SEND) == [PLAIN + TO_SEND]


@pytest.mark.spec("NET-11")
@pytest.mark.parametrize("told", [0, 13, 54, 65535])
def test_length_of_the_headers_is_found_whatever_the_driver_says(
    told: int, make_net: NetMaker
) -> None:
    rig = make_net()
    data = ip_frame(bytes(3000))

    [packet] = rig.sent(header(NEEDS_CSUM, TCPV4, told, 1000, 34, 16) + data)

    assert packet == header(NEEDS_CSUM, TCPV4, 54, 1000, 34, 16, 1) + data


TCP = ip_frame(bytes(3000))
UDP_FRAME = ip_frame(bytes(3000), protocol=17)
BAD = {
    "nothing": b"",
    "short-header": bytes(11),
    "empty-frame": header(),
    "no-ethernet-header": header() + bytes(13),
    "oversize": header() + bytes(65558),
    "100000-bytes": header() + bytes(99988),
    "checksum-outside": header(NEEDS_CSUM, csum_start=50, csum_offset=9) + TO_SEND,
    "checksum-far-outside": header(NEEDS_CSUM, csum_start=65535, csum_offset=65535) + TO_SEND,
    "checksum-in-the-ethernet-header": header(NEEDS_CSUM, csum_start=0, csum_offset=0) + TO_SEND,
    "no-segment-size": header(NEEDS_CSUM, TCPV4, 54, 0, 34, 16) + TCP,
    "tiny-segments": header(NEEDS_CSUM, TCPV4, 54, 1, 34, 16) + TCP,
    "no-data-to-cut": header(NEEDS_CSUM, TCPV4, 54, 100, 34, 16) + ip_frame(b""),
    "cut-without-checksum": header(0, TCPV4, 54, 1000, 34, 16) + TCP,
    "checksum-of-another-protocol": header(NEEDS_CSUM, TCPV4, 54, 1000, 34, 6) + TCP,
    "fragments": header(NEEDS_CSUM, UDP, 42, 1000, 34, 6) + UDP_FRAME,
    "unknown-kind": header(NEEDS_CSUM, 2, 54, 1000, 34, 16) + TCP,
    "congestion-of-nothing": header(NEEDS_CSUM, ECN, 54, 1000, 34, 16) + TCP,
}


@pytest.mark.spec("NET-12")
@pytest.mark.parametrize("packet", BAD.values(), ids=BAD)
def test_packet_that_makes_no_sense_is_dropped(packet: bytes, make_net: NetMaker) -> None:
    rig = make_net()

    if packet:
        assert rig.send(packet) == [0]
    else:
        assert rig.request(1, ((), (16,))).length == 0
    assert rig.network.packets == []
    assert rig.net.counters.refused == 1
    assert rig.sent(header() + TO_SEND) == [PLAIN + TO_SEND]


@pytest.mark.spec("NET-12")
@pytest.mark.parametrize(
    ("features", "kind", "offset"),
    [
        (CSUM, TCPV4, 16),
        (CSUM | HOST_TSO4, TCPV6, 16),
        (CSUM | HOST_TSO4, UDP_L4, 6),
        (CSUM | HOST_TSO4, TCPV4 | ECN, 16),
        (CSUM | HOST_USO, TCPV4, 16),
    ],
)
def test_packet_to_be_cut_that_was_not_negotiated_is_dropped(
    features: int, kind: int, offset: int, make_net: NetMaker
) -> None:
    rig = make_net(features=features)

    assert rig.sent(header(NEEDS_CSUM, kind, 54, 1000, 34, offset) + TCP) == []


@pytest.mark.spec("NET-12")
def test_congestion_bit_is_passed_on_where_it_was_negotiated(make_net: NetMaker) -> None:
    rig = make_net(features=CSUM | HOST_TSO4 | HOST_ECN)
    packet = header(NEEDS_CSUM, TCPV4 | ECN, 54, 1000, 34, 16, 1) + TCP

    assert rig.sent(packet) == [packet]


@pytest.mark.spec("NET-13")
@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        (NEEDS_CSUM, TCPV4 | 0x60),
        (0, TCPV4 | 0x20),
        (NEEDS_CSUM | 2, TCPV4 | 0x40),
        (NEEDS_CSUM, 0x20),
        (NEEDS_CSUM, TCPV4 | 0x20),
    ],
    ids=["both", "no-checksum", "data-valid", "no-base", "one"],
)
def test_packet_in_a_tunnel_is_dropped(flags: int, kind: int, make_net: NetMaker) -> None:
    rig = make_net()

    assert rig.sent(header(flags, kind, 54, 1000, 34, 16) + TCP) == []


@pytest.mark.spec("NET-14")
def test_buffer_that_was_sent_is_not_written(make_net: NetMaker) -> None:
    rig = make_net()

    used = rig.request(1, ((header() + TO_SEND,), (64,)))

    assert (used.length, used.data) == (0, b"\xa5" * 64)


@pytest.mark.spec("NET-14")
def test_frame_cut_into_many_segments_by_the_driver_is_one_frame(make_net: NetMaker) -> None:
    rig = make_net(size=64)
    whole = header() + TO_SEND

    used = rig.request(1, ([whole[at : at + 2] for at in range(0, 72, 2)], ()))

    assert used.length == 0
    assert rig.network.packets == [PLAIN + TO_SEND]


# A network that takes finished frames only


@pytest.mark.spec("NET-12")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [6, 17])
def test_checksum_is_completed_for_a_network_that_takes_no_other(
    version: int, protocol: int, make_net: NetMaker
) -> None:
    rig = make_net(Wire(takes=0))
    data = ip_frame(b"odd number of bytes", version=version, protocol=protocol)
    start = 34 if version == 4 else 54

    [packet] = rig.sent(
        header(NEEDS_CSUM, csum_start=start, csum_offset=16 if protocol == 6 else 6) + data
    )

    assert packet[:12] == PLAIN
    assert checksums_hold(packet[12:])
    assert not checksums_hold(data)


@pytest.mark.spec("NET-12")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("kind", "protocol"), [("tcp", 6), ("udp", 17)])
@pytest.mark.parametrize("takes", [0, 1], ids=["nothing", "checksums"])
def test_large_frame_is_cut_for_a_network_that_takes_no_such(
    version: int, kind: str, protocol: int, takes: int, make_net: NetMaker
) -> None:
    rig = make_net(Wire(takes=takes))
    payload = bytes(n % 251 for n in range(2501))
    gso = {"tcp4": TCPV4, "tcp6": TCPV6, "udp4": UDP_L4, "udp6": UDP_L4}[f"{kind}{version}"]
    start, offset = 34 if version == 4 else 54, 16 if protocol == 6 else 6
    own = 20 if protocol == 6 else 8
    data = ip_frame(payload, version=version, protocol=protocol, flags=0x99)

    packets = rig.sent(header(NEEDS_CSUM, gso, 0, 1000, start, offset) + data)

    assert [len(one) for one in packets] == [12 + start + own + part for part in (1000, 1000, 501)]
    assert b"".join(one[12 + start + own :] for one in packets) == payload
    if takes:
        assert {one[:12] for one in packets} == {header(1, 0, 0, 0, start, offset, 1)}
    else:
        assert {one[:12] for one in packets} == {PLAIN}
        assert all(checksums_hold(one[12:]) for one in packets)
    if protocol == 6:
        parts = [one[12 + start :] for one in packets]
        assert [int.from_bytes(one[4:8], "big") for one in parts] == [99, 1099, 2099]
        # CWR in the first alone, FIN and PSH in the last alone.
        assert [one[13] for one in parts] == [0x90, 0x10, 0x19]


def test_frame_that_is_not_of_the_protocol_it_claims_is_dropped(make_net: NetMaker) -> None:
    rig = make_net(Wire(takes=0))
    data = bytearray(TCP)
    data[12:14] = b"\x88\xb5"

    assert rig.sent(header(NEEDS_CSUM, TCPV4, 54, 1000, 34, 16) + data) == []
    assert rig.net.counters.refused == 1


# A network that is full


def test_chains_wait_in_order_for_a_network_that_is_full(make_net: NetMaker) -> None:
    rig = make_net()
    packets = [header() + frame(60 + n, PEER_MAC) for n in range(6)]
    rig.network.room = 2
    before = rig.send(*packets[:4])

    rig.network.make_room(1)
    rig.settle()
    between = len(rig.rings[1].collect())
    last = rig.send(*packets[4:])
    rig.network.make_room()
    rig.settle()

    assert (before, between, last) == ([0, 0], 1, [])
    assert len(rig.rings[1].collect()) == 3
    assert rig.network.packets == [PLAIN + one[12:] for one in packets]


def test_segments_that_were_sent_are_not_sent_again(make_net: NetMaker) -> None:
    rig = make_net(Wire(takes=0))
    rig.network.room = 2

    rig.send(header(NEEDS_CSUM, TCPV4, 0, 1000, 34, 16) + TCP)
    rig.network.make_room()
    rig.settle()

    assert [int.from_bytes(one[50:54], "big") for one in rig.network.packets] == [99, 1099, 2099]
    assert len(rig.rings[1].collect()) == 1


def test_reset_lets_go_of_chains_that_wait(make_net: NetMaker) -> None:
    rig = make_net()
    rig.network.room = 0
    rig.send(header() + TO_SEND)

    rig.driver.status = 0
    rig.network.make_room()
    rig.settle()

    assert rig.network.packets == []


@pytest.mark.spec("NET-17")
def test_packets_for_a_pulled_cable_go_nowhere_and_come_back(make_net: NetMaker) -> None:
    rig = make_net()
    rig.network.room = 0
    before = rig.send(header() + TO_SEND)

    rig.net.link = False
    after = rig.send(header() + TO_SEND)

    assert (before, after) == ([], [0, 0])
    assert rig.network.packets == []
    assert rig.net.counters.nowhere == 2


def test_pairs_send_side_by_side(make_net: NetMaker) -> None:
    rig = make_net(pairs=2)

    rig.sent(header() + TO_SEND, pair=1)
    rig.sent(header() + TO_SEND, pair=0)

    assert rig.network.queues == [1, 0]
