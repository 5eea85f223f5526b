"""Features and configuration of the network device. VIRTIO 1.4 "Network Device"."""

from collections.abc import Callable

import pytest

from tests.spec.net import (
    CSUM,
    CTRL_VQ,
    GUEST_ANNOUNCE,
    GUEST_CSUM,
    GUEST_TSO4,
    HOST_TSO4,
    MQ,
    OUR_MAC,
    STATUS,
    NetRig,
    Wire,
    frame,
)
from virtio.errors import ConfigurationError
from virtio.net import Net

NetMaker = Callable[..., NetRig]

# Typed from VIRTIO 1.4 "Feature bits": what each bit needs; of an inner list, one.
NEEDS: dict[int, list[int]] = {
    **{bit: [1] for bit in (7, 8, 10, 54, 55)},
    **{bit: [0] for bit in (11, 12, 14, 56)},
    **{bit: [17] for bit in (2, 18, 19, 20, 21, 22, 23)},
}


@pytest.mark.spec("NET-30")
def test_features_are_offered_with_those_that_they_need(make_net: NetMaker) -> None:
    offered = make_net(pairs=2).net.device_features

    for bit, needed in NEEDS.items():
        assert not offered >> bit & 1 or all(offered >> one & 1 for one in needed)
    assert offered & (1 << 10 | 1 << 14 | 1 << 6) == 0


@pytest.mark.spec("NET-30")
@pytest.mark.parametrize("bit", [bit for bit in NEEDS if bit not in (10, 14)])
def test_feature_without_what_it_needs_is_refused(bit: int, make_net: NetMaker) -> None:
    rig = make_net(pairs=2)
    rest = (1 << needed for needed in NEEDS[bit])

    assert not rig.driver.negotiate(1 << 32 | 1 << bit)
    assert rig.driver.negotiate(1 << 32 | 1 << bit | sum(rest))


@pytest.mark.spec("NET-30")
@pytest.mark.parametrize(
    ("bit", "others", "one"),
    [(9, GUEST_CSUM, GUEST_TSO4), (13, CSUM, HOST_TSO4)],
    ids=["guest", "host"],
)
def test_congestion_needs_segmentation(bit: int, others: int, one: int, make_net: NetMaker) -> None:
    rig = make_net()

    assert not rig.driver.negotiate(1 << 32 | 1 << bit | others)
    assert rig.driver.negotiate(1 << 32 | 1 << bit | others | one)


@pytest.mark.spec("NET-03")
@pytest.mark.parametrize(
    ("pairs", "features", "present", "control"),
    [
        (3, MQ | CTRL_VQ, [0, 1, 2, 3, 4, 5, 6], 6),
        (3, CTRL_VQ, [0, 1, 2], 2),
        (1, CTRL_VQ, [0, 1, 2], 2),
        (3, 0, [0, 1], None),
    ],
)
def test_control_queue_follows_the_pairs_that_were_negotiated(
    pairs: int, features: int, present: list[int], control: int | None, make_net: NetMaker
) -> None:
    rig = make_net(pairs=pairs, features=features)

    assert rig.present_queues() == present
    if control is not None:
        assert rig.request(control, ((b"\7\0",), (1,))).data == b"\1"


@pytest.mark.spec("NET-15")
@pytest.mark.parametrize("mtu", [0, 67, 65536, -1])
def test_mtu_out_of_bounds_is_refused(mtu: int) -> None:
    with pytest.raises(ConfigurationError, match="must be 68 to 65535"):
        Net(mtu=mtu)


@pytest.mark.spec("NET-15")
def test_mtu_is_shown_and_stays(make_net: NetMaker) -> None:
    rig = make_net(mtu=1400)
    rig.poke_config(0x0A, b"\0\0")

    assert rig.read_config(0x0A, 2) == b"\x78\x05"


@pytest.mark.spec("NET-16")
@pytest.mark.parametrize(("pairs", "shown"), [(2, 2), (4, 4)])
def test_number_of_pairs_is_shown(pairs: int, shown: int, make_net: NetMaker) -> None:
    rig = make_net(pairs=pairs)

    assert rig.read_config(0x08, 2) == bytes([shown, 0])
    assert rig.read_config(0x11, 7) == bytes(7)


@pytest.mark.spec("NET-16")
@pytest.mark.parametrize("pairs", [0, 5, 0x8001])
def test_number_of_pairs_is_what_the_network_serves(pairs: int) -> None:
    with pytest.raises(ConfigurationError, match="must be 1 to 4"):
        Net(Wire(pairs=4), pairs=pairs)


@pytest.mark.spec("NET-17")
def test_link_that_changes_is_shown_and_told(make_net: NetMaker) -> None:
    rig = make_net()
    seen = [rig.read_config(0x06, 2)]
    edges = rig.line.edges

    rig.net.link = False
    seen.append(rig.read_config(0x06, 2))
    told = rig.line.edges - edges
    rig.net.link = False
    rig.net.link = True
    seen.append(rig.read_config(0x06, 2))

    assert seen == [b"\1\0", b"\0\0", b"\1\0"]
    assert told == 1
    assert rig.driver.read(0x60) & 2


@pytest.mark.spec("NET-17")
def test_nothing_comes_in_while_the_cable_is_pulled(make_net: NetMaker) -> None:
    rig = make_net()
    rig.give(2048)

    rig.net.link = False
    rig.deliver_frames(frame())
    rig.net.link = True
    rig.deliver_frames(frame(61))

    assert [len(one.frame) for one in rig.received()] == [61]


@pytest.mark.spec("NET-18")
def test_configuration_cannot_be_written(make_net: NetMaker) -> None:
    rig = make_net(pairs=2, mtu=1500, speed=1000)
    before = rig.config_image(32)

    rig.poke_config(0, b"\xff" * 32)
    rig.write_config(0, b"\x12\x34\x56\x78")

    assert rig.config_image(32) == before
    assert before[:6] == OUR_MAC
    assert before[12:17] == b"\xe8\x03\0\0\1"


@pytest.mark.spec("NET-25")
def test_announcement_is_asked_for_and_the_wish_ends_with_its_command(make_net: NetMaker) -> None:
    rig = make_net(features=CTRL_VQ | STATUS | GUEST_ANNOUNCE)
    edges = rig.line.edges

    rig.net.announce()
    asked = rig.read_config(0x06, 2)
    told = rig.line.edges - edges
    rig.add(2, ((b"\3\0",), (1,)))
    rig.serve()

    assert (asked, told) == (b"\3\0", 1)
    assert rig.read_config(0x06, 2) == b"\1\0"
    assert [one.data for one in rig.rings[2].collect()] == [b"\0"]


@pytest.mark.spec("NET-25")
def test_announcement_is_not_asked_of_a_driver_that_cannot(make_net: NetMaker) -> None:
    rig = make_net(features=CTRL_VQ | STATUS)

    rig.net.announce()

    assert rig.read_config(0x06, 2) == b"\1\0"
