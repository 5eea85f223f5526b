"""Packets for the guest. VIRTIO 1.4 "Network Device", "Processing of Incoming Packets"."""

import struct
from collections.abc import Callable

import pytest

from tests.spec.net import (
    CTRL_VLAN,
    CTRL_VQ,
    DATA_VALID,
    ECN,
    GUEST_CSUM,
    GUEST_ECN,
    GUEST_TSO4,
    GUEST_TSO6,
    GUEST_USO4,
    GUEST_USO6,
    MQ,
    MRG_RXBUF,
    MTU,
    NEEDS_CSUM,
    OTHER_MAC,
    OUR_MAC,
    PEER_MAC,
    PLAIN,
    RSC_INFO,
    TCPV4,
    TCPV6,
    UDP_L4,
    NetRig,
    Wire,
    checksums_hold,
    frame,
    header,
    ip_frame,
)

NetMaker = Callable[..., NetRig]
TCP4 = header(NEEDS_CSUM, TCPV4, 54, 1000, 34, 16, 1) + ip_frame(bytes(3000))
TCP6 = header(NEEDS_CSUM, TCPV6, 74, 1000, 54, 16, 1) + ip_frame(bytes(3000), version=6)
UDP4 = header(NEEDS_CSUM, UDP_L4, 42, 1000, 34, 6, 1) + ip_frame(bytes(3000), protocol=17)
UDP6 = header(NEEDS_CSUM, UDP_L4, 62, 1000, 54, 6, 1) + ip_frame(
    bytes(3000), version=6, protocol=17
)
CONGESTED = header(NEEDS_CSUM, TCPV4 | ECN, 54, 1000, 34, 16, 1) + ip_frame(bytes(3000))


@pytest.mark.spec("NET-01", "NET-02")
@pytest.mark.parametrize("features", [0, MRG_RXBUF, MRG_RXBUF | GUEST_CSUM])
def test_header_of_a_received_packet_has_12_bytes(features: int, make_net: NetMaker) -> None:
    rig = make_net(features=features)

    rig.give(2048)
    rig.deliver_frames(frame())

    assert rig.got() == [header(num_buffers=1) + frame()]


@pytest.mark.spec("NET-04")
def test_packet_too_large_for_the_buffer_is_dropped_whole(make_net: NetMaker) -> None:
    rig = make_net(features=0)
    rig.give(1000, 2000)

    rig.deliver_frames(frame(1514), frame(60))

    [used] = rig.rings[0].collect()
    assert used.data[: used.length] == PLAIN + frame(60)
    assert used.data[used.length :] == b"\xa5" * (1000 - 72)
    assert rig.net.counters.unfit == 1


@pytest.mark.spec("NET-05")
def test_packet_is_cut_over_buffers_all_full_but_the_last(make_net: NetMaker) -> None:
    rig = make_net()
    rig.give(*[1500] * 8)

    rig.deliver_frames(frame(9000), frame(60))

    buffers = rig.got()
    assert [len(one) for one in buffers] == [1500] * 6 + [12, 72]
    assert b"".join(buffers[:7]) == header(num_buffers=7) + frame(9000)
    assert buffers[7] == PLAIN + frame(60)


@pytest.mark.spec("NET-05")
def test_buffers_of_all_sizes_and_shapes_take_a_packet(make_net: NetMaker) -> None:
    rig = make_net(size=64)
    for sizes in ((100,), (12, 40), (2000,), (1,), (700, 1, 299)):
        rig.add(0, ((), sizes))
    rig.settle()

    rig.deliver_frames(frame(1600))

    # The last two were not needed.
    assert [len(one) for one in rig.got()] == [100, 52, 1460]
    rig.deliver_frames(frame(500))
    # A buffer without room for a header is none.
    assert [len(one) for one in rig.got()] == [0, 512]


@pytest.mark.spec("NET-06")
def test_no_buffer_is_taken_while_they_are_too_few(make_net: NetMaker) -> None:
    rig = make_net()
    rig.give(1500, 1500)
    rig.deliver_frames(frame(4000))
    untouched = rig.got()
    edges = rig.line.edges

    rig.give(1500)

    assert untouched == []
    assert [len(one) for one in rig.got()] == [1500, 1500, 1012]
    assert rig.line.edges == edges + 1


@pytest.mark.spec("NET-06")
def test_driver_is_asked_to_tell_of_more_buffers_when_they_are_too_few(make_net: NetMaker) -> None:
    rig = make_net()
    rig.give(1500)
    rig.deliver_frames(frame(4000))
    rig.rings[0].should_kick()

    rig.rings[0].add([], [1500])

    assert rig.rings[0].should_kick()


@pytest.mark.spec("NET-06", "NET-07")
def test_packet_that_never_has_enough_buffers_makes_way_for_the_next(make_net: NetMaker) -> None:
    rig = make_net()
    rig.give(1500, 1500)
    rig.deliver_frames(frame(9000), frame(60))

    rig.loop.advance(1)
    rig.settle()

    assert rig.got() == [PLAIN + frame(60)]
    assert rig.net.counters.unfit == 1


@pytest.mark.spec("NET-06")
def test_many_tiny_buffers_end_in_a_drop(make_net: NetMaker) -> None:
    rig = make_net(size=64)
    rig.give(*[12] * 64)

    rig.deliver_frames(frame(1000))
    rig.loop.advance(1)
    rig.settle()
    rig.deliver_frames(frame(60))

    assert [len(one) for one in rig.got()] == [12] * 6


@pytest.mark.spec("NET-07")
def test_flood_without_buffers_is_dropped_and_the_rest_goes_on(make_net: NetMaker) -> None:
    rig = make_net()
    packets = [PLAIN + frame(60 + n % 100) for n in range(2000)]

    taken = rig.deliver(*packets)

    assert 0 < taken < 2000
    assert rig.sent(header() + frame(60, PEER_MAC)) == [PLAIN + frame(60, PEER_MAC)]
    assert rig.command(0, 0, b"\1") == 0
    rig.give(*[2048] * 32)
    assert rig.got() == packets[:32]


@pytest.mark.spec("NET-07")
def test_network_is_told_when_there_is_room_again(make_net: NetMaker) -> None:
    rig = make_net()
    for _ in range(2):
        rig.deliver(*[PLAIN + frame()] * 2000)
    while_full = rig.network.resumed

    for _ in range(10):
        rig.give(*[2048] * 32)
        rig.got()

    assert rig.network.resumed == while_full + 1


@pytest.mark.spec("NET-07")
def test_packets_for_a_driver_that_is_not_live_are_lost(make_net: NetMaker) -> None:
    rig = make_net()
    rig.deliver_frames(frame())
    rig.driver.status = 0

    taken = rig.deliver_frames(frame())
    rig.start(0)
    rig.give(2048)

    assert taken == 1
    assert rig.got() == []
    assert rig.net.counters.lost == 1


# Unfinished packets

KINDS = {
    "tcp4": (TCP4, GUEST_TSO4),
    "tcp6": (TCP6, GUEST_TSO6),
    "udp4": (UDP4, GUEST_USO4),
    "udp6": (UDP6, GUEST_USO6),
    "congested": (CONGESTED, GUEST_TSO4 | GUEST_ECN),
}


@pytest.mark.spec("NET-08")
@pytest.mark.parametrize("version", [4, 6])
def test_driver_that_takes_no_partial_checksum_gets_complete_ones(
    version: int, make_net: NetMaker
) -> None:
    rig = make_net(features=0)
    rig.give(2048)
    start = 34 if version == 4 else 54

    rig.deliver(
        header(NEEDS_CSUM, csum_start=start, csum_offset=16)
        + ip_frame(b"some data", version=version)
    )

    [received] = rig.received()
    assert received.header == PLAIN
    assert checksums_hold(received.frame)


@pytest.mark.spec("NET-08", "NET-10")
def test_driver_without_checksums_is_not_told_of_verified_ones(make_net: NetMaker) -> None:
    rig = make_net(features=0)
    rig.give(2048)

    rig.deliver(header(DATA_VALID) + frame())

    assert rig.got() == [PLAIN + frame()]


@pytest.mark.spec("NET-10")
def test_verified_checksum_is_told_as_the_network_did(make_net: NetMaker) -> None:
    rig = make_net()
    rig.give(2048, 2048)

    rig.deliver(header(DATA_VALID, num_buffers=1) + frame(), PLAIN + frame())

    assert [one.header[0] for one in rig.received()] == [DATA_VALID, 0]


@pytest.mark.spec("NET-10")
@pytest.mark.parametrize("features", [0, GUEST_CSUM, None])
def test_coalesced_segments_are_never_told(features: int | None, make_net: NetMaker) -> None:
    rig = make_net(features=features)
    rig.give(2048)

    rig.deliver(header(RSC_INFO, num_buffers=1) + frame())

    [received] = rig.received()
    assert received.header == PLAIN


@pytest.mark.spec("NET-09")
@pytest.mark.parametrize("accepts", KINDS)
@pytest.mark.parametrize("comes", KINDS)
def test_frame_is_left_uncut_only_for_a_driver_that_takes_its_kind(
    accepts: str, comes: str, make_net: NetMaker
) -> None:
    packet, needed = KINDS[comes]
    features = KINDS[accepts][1]
    rig = make_net(features=MRG_RXBUF | GUEST_CSUM | features)
    rig.give(*[4096] * 4)

    rig.deliver(packet)

    received = rig.received()
    if needed & features == needed:
        assert [one.header + one.frame for one in received] == [packet]
    else:
        assert len(received) == 3
        assert {one.header[:2] for one in received} == {b"\1\0"}


@pytest.mark.spec("NET-08", "NET-09")
@pytest.mark.parametrize("comes", KINDS)
def test_frame_for_a_driver_that_takes_none_is_cut_and_complete(
    comes: str, make_net: NetMaker
) -> None:
    rig = make_net(features=0)
    rig.give(*[2048] * 4)

    rig.deliver(KINDS[comes][0])

    received = rig.received()
    assert {one.header for one in received} == {PLAIN}
    assert [checksums_hold(one.frame) for one in received] == [True] * 3


@pytest.mark.spec("NET-28")
def test_packets_follow_the_offloads_that_the_driver_switches(make_net: NetMaker) -> None:
    rig = make_net(size=64)
    every = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6
    rig.give(*[4096] * 16)
    rig.deliver(TCP4)
    at_first = len(rig.got())

    off = rig.command(5, 0, struct.pack("<Q", every & ~GUEST_TSO4))
    rig.deliver(TCP4)
    cut = [one.header[0] for one in rig.received()]
    nothing = rig.command(5, 0, bytes(8))
    rig.deliver(TCP4)
    complete = [one.header for one in rig.received()]
    on = rig.command(5, 0, struct.pack("<Q", every))
    rig.deliver(TCP4)

    assert (off, nothing, on) == (0, 0, 0)
    assert (at_first, cut, complete) == (1, [1, 1, 1], [PLAIN] * 3)
    assert rig.got() == [TCP4]
    assert [mask for mask, _ in rig.network.told] == [0x6F, 0x05, 0x00, 0x07]


@pytest.mark.spec("NET-28")
def test_packets_that_wait_for_buffers_follow_a_switched_offload(make_net: NetMaker) -> None:
    rig = make_net()
    rig.deliver(TCP4)

    rig.command(5, 0, bytes(8))
    rig.give(*[4096] * 4)

    assert [one.header for one in rig.received()] == [PLAIN] * 3


@pytest.mark.spec("NET-28")
def test_offload_that_was_not_negotiated_cannot_be_switched_on(make_net: NetMaker) -> None:
    rig = make_net(features=MRG_RXBUF | GUEST_CSUM | GUEST_TSO4 | CTRL_VQ | 1 << 2)
    told = list(rig.network.told)

    answers = [rig.command(5, 0, struct.pack("<Q", 1 << bit)) for bit in (8, 10, 54, 63, 0)]

    assert answers == [1] * 5
    assert rig.network.told == told == [(0x03, 1)]


# Size


@pytest.mark.spec("NET-15")
@pytest.mark.parametrize("mtu", [68, 1280, 1500, 65535])
def test_frames_up_to_the_mtu_pass_and_larger_ones_do_not(mtu: int, make_net: NetMaker) -> None:
    rig = make_net(mtu=mtu, features=MTU | MRG_RXBUF)
    size = mtu + 14
    rig.give(*[32768] * 8)

    rig.deliver_frames(frame(size), frame(size + 1), frame(size + 4, vlan=1), frame(60))

    whole = b"".join(rig.got())
    assert whole.count(OUR_MAC + PEER_MAC) == 3
    assert len(whole) == size + size + 4 + 60 + 36


@pytest.mark.spec("NET-15")
def test_frame_to_be_cut_passes_the_mtu(make_net: NetMaker) -> None:
    rig = make_net(mtu=1500)
    rig.give(4096)

    rig.deliver(TCP4)

    assert rig.got() == [TCP4]


@pytest.mark.spec("NET-15")
def test_driver_without_the_mtu_gets_larger_frames(make_net: NetMaker) -> None:
    rig = make_net(mtu=1500, features=0)
    rig.give(4096)

    rig.deliver_frames(frame(2000))

    assert rig.got() == [PLAIN + frame(2000)]


@pytest.mark.parametrize("size", [0, 11, 12, 25, 12 + 65558, 100_000])
def test_packet_that_is_no_frame_is_dropped(size: int, make_net: NetMaker) -> None:
    rig = make_net()
    rig.give(*[32768] * 8)

    rig.deliver(bytes(size), PLAIN + frame())

    assert rig.got() == [PLAIN + frame()]
    assert rig.net.counters.unfit == 1


# Queue pairs


def flow(port: int) -> bytes:
    """Return a frame of a flow, for the guest or by it."""
    return (
        frame(14, OUR_MAC)[:12]
        + b"\x08\x00"
        + ip_frame(b"", to=OUR_MAC)[14:34]
        + struct.pack(">HH", port, 80)
    )


@pytest.mark.spec("NET-26")
def test_packets_come_in_on_the_first_queue_until_more_are_set(make_net: NetMaker) -> None:
    rig = make_net(pairs=3)
    for pair in range(3):
        rig.give(*[2048] * 16, pair=pair)
    for port in range(3):
        rig.send(header() + flow(port), pair=port)

    rig.deliver_frames(*map(flow, range(12)))

    assert [len(rig.got(pair)) for pair in range(3)] == [12, 0, 0]


@pytest.mark.spec("NET-26")
def test_flow_comes_in_where_it_is_sent_and_within_those_that_are_set(make_net: NetMaker) -> None:
    rig = make_net(pairs=3)
    for pair in range(3):
        rig.give(*[2048] * 16, pair=pair)
    answers = [rig.command(4, 0, struct.pack("<H", n)) for n in (0, 4, 0xFFFF, 3)]
    rig.send(header() + flow(7), pair=2)
    rig.send(header() + flow(8), pair=1)

    rig.deliver_frames(flow(7), flow(7), flow(8))
    spread = [len(rig.got(pair)) for pair in range(3)]
    rig.command(4, 0, struct.pack("<H", 1))
    rig.deliver_frames(flow(7), flow(8))

    assert answers == [1, 1, 1, 0]
    assert spread == [0, 1, 2]
    assert [len(rig.got(pair)) for pair in range(3)] == [2, 0, 0]


@pytest.mark.spec("NET-27")
def test_queue_that_is_reset_is_avoided(make_net: NetMaker) -> None:
    rig = make_net(pairs=2, features=MQ | CTRL_VQ | 1 << 40)
    rig.command(4, 0, struct.pack("<H", 2))
    rig.send(header() + flow(7), pair=1)
    rig.deliver_frames(flow(7))
    rig.give(*[2048] * 4, pair=0)
    before = len(rig.got(0))

    rig.driver.write(0x30, 2)
    rig.driver.write(0xC0, 1)
    rig.settle()
    moved = len(rig.got(0))
    rig.deliver_frames(flow(7))

    assert (before, moved, len(rig.got(0))) == (0, 1, 1)


# The filter at its simplest


@pytest.mark.spec("NET-23")
def test_frame_for_another_station_is_dropped(make_net: NetMaker) -> None:
    rig = make_net()

    assert rig.frames(frame(60, OTHER_MAC), frame()) == [frame()]
    assert rig.net.counters.filtered == 1


@pytest.mark.spec("NET-24")
def test_tagged_frames_pass_without_a_filter_of_vlans(make_net: NetMaker) -> None:
    rig = make_net(features=CTRL_VQ)
    frames = [frame(vlan=n) for n in (0, 1, 100, 4095)]

    assert rig.frames(*frames) == frames


@pytest.mark.spec("NET-24")
def test_tagged_frames_of_listed_vlans_pass_a_filter(make_net: NetMaker) -> None:
    rig = make_net(features=CTRL_VQ | CTRL_VLAN)
    frames = [frame(vlan=n) for n in (1, 100, 0x2000 | 100, 4095)]
    nothing = rig.frames(*frames, frame())

    answers = [rig.command(2, 0, struct.pack("<H", n)) for n in (100, 4095, 4096, 0xFFFF)]
    some = rig.frames(*frames)
    rig.command(2, 1, struct.pack("<H", 100))

    assert answers == [0, 0, 1, 1]
    assert (nothing, some) == ([frame()], frames[1:])
    assert rig.frames(*frames) == frames[3:]


def test_packet_of_a_wire_that_knows_the_queue_comes_in_there(make_net: NetMaker) -> None:
    rig = make_net(Wire(), pairs=2)
    rig.command(4, 0, struct.pack("<H", 2))
    rig.give(2048, pair=1)

    rig.network.end.deliver([PLAIN + frame()], 1)
    rig.settle()

    assert rig.got(1) == [PLAIN + frame()]
