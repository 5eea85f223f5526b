"""The control queue of the network device. VIRTIO 1.4 "Control Virtqueue"."""

import struct
from collections.abc import Callable

import pytest

from tests.spec.net import (
    BROADCAST,
    CTRL_MAC_ADDR,
    CTRL_RX,
    CTRL_RX_EXTRA,
    CTRL_VQ,
    GROUP,
    OTHER_MAC,
    OUR_MAC,
    NetRig,
    frame,
)
from virtio.testing import Segment

NetMaker = Callable[..., NetRig]
PROMISC, ALLMULTI, ALLUNI, NOMULTI, NOUNI, NOBCAST = range(6)
OUR, OTHER, MULTI, ALL = (frame(60, to) for to in (OUR_MAC, OTHER_MAC, GROUP, BROADCAST))


def tables(unicast: list[bytes], multicast: list[bytes]) -> bytes:
    """Return the data of a command that sets the address tables."""
    parts = [struct.pack("<I", len(one)) + b"".join(one) for one in (unicast, multicast)]
    return b"".join(parts)


# Commands that make no sense

FULL = tables([OTHER_MAC], [GROUP])
BAD = {
    "unknown-class": (7, 0, b""),
    "coalescing": (6, 0, bytes(8)),
    "statistics": (8, 0, b""),
    "unknown-mode": (0, 6, b"\1"),
    "mode-without-data": (0, 0, b""),
    "mode-of-two-bytes": (0, 0, b"\1\0"),
    "mode-neither-on-nor-off": (0, 0, b"\2"),
    "unknown-address-command": (1, 2, OTHER_MAC),
    "short-address": (1, 1, OTHER_MAC[:5]),
    "long-address": (1, 1, OTHER_MAC + b"\0"),
    "no-tables": (1, 0, b""),
    "half-a-count": (1, 0, b"\0\0\0"),
    "one-table": (1, 0, FULL[:10]),
    "half-an-address": (1, 0, FULL[:-1]),
    "more-than-tables": (1, 0, FULL + b"\0"),
    "endless-table": (1, 0, b"\xff" * 4 + FULL[4:]),
    "endless-second-table": (1, 0, FULL[:10] + b"\xff" * 4 + GROUP),
    "large-table": (1, 0, struct.pack("<I", 1025) + bytes(6 * 1025 + 4)),
    "half-a-vlan": (2, 0, b"\1"),
    "announcement-with-data": (3, 0, b"\1"),
    "half-a-number-of-pairs": (4, 0, b"\1"),
    "rss": (4, 1, bytes(32)),
    "short-offloads": (5, 0, bytes(7)),
    "long-offloads": (5, 0, bytes(9)),
}


@pytest.mark.spec("NET-19", "NET-21")
@pytest.mark.parametrize("command", BAD.values(), ids=BAD)
def test_command_that_makes_no_sense_is_refused_and_changes_nothing(
    command: tuple[int, int, bytes], make_net: NetMaker
) -> None:
    rig = make_net(pairs=2)
    assert rig.command(1, 0, tables([OTHER_MAC], [])) == 0
    before = rig.net.state()

    assert rig.command(*command) == 1
    assert rig.net.state() == before


@pytest.mark.spec("NET-19")
@pytest.mark.parametrize("length", [0, 1])
def test_command_without_a_number_is_refused(length: int, make_net: NetMaker) -> None:
    rig = make_net()

    used = rig.request(rig.controlq, ((bytes(length),) if length else (), (1,)))

    assert (used.length, used.data) == (1, b"\1")


@pytest.mark.spec("NET-19")
@pytest.mark.parametrize(
    ("kind", "number", "data"),
    [
        (0, 0, b"\1"),
        (0, 5, b"\1"),
        (1, 0, FULL),
        (1, 1, OTHER_MAC),
        (2, 0, b"\1\0"),
        (3, 0, b""),
        (4, 0, b"\1\0"),
        (5, 0, bytes(8)),
    ],
)
def test_command_whose_feature_was_not_accepted_is_refused(
    kind: int, number: int, data: bytes, make_net: NetMaker
) -> None:
    rig = make_net(pairs=2, features=CTRL_VQ)
    before = rig.net.state()

    assert rig.command(kind, number, data) == 1
    assert rig.net.state() == before


@pytest.mark.spec("NET-19")
def test_command_that_cannot_be_answered_is_not_done(make_net: NetMaker) -> None:
    rig = make_net()
    before = rig.net.state()

    used = rig.request(rig.controlq, ((bytes([0, PROMISC, 1]),), ()))

    assert used.length == 0
    assert rig.net.state() == before


@pytest.mark.spec("NET-19")
def test_command_may_be_cut_anyhow_and_is_answered_in_its_first_byte(make_net: NetMaker) -> None:
    rig = make_net()

    used = rig.request(rig.controlq, ([b"\0", b"\0", b"\1"], (1, 7)))

    assert (used.length, used.data) == (1, b"\0" + b"\xa5" * 7)
    assert rig.net.state()["filter"]["modes"] == ("promisc",)


@pytest.mark.spec("NET-19")
def test_command_of_a_megabyte_is_refused_and_not_copied(
    make_net: NetMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_net()
    copied: list[int] = []

    def refuse(device: object, data: bytes) -> bytes:
        copied.append(len(data))
        return b"\1"

    monkeypatch.setattr("virtio.net.device.execute", refuse)
    rig.memory.view(0x20_0000, 1 << 20)[:] = bytes(1 << 20)

    rig.rings[rig.controlq].add_segments(
        [Segment(0x20_0000, 1 << 20, False), Segment(0x30_0000, 1, True)]
    )
    rig.driver.notify(rig.controlq)
    rig.serve()

    [used] = rig.rings[rig.controlq].collect()
    assert used.data == b"\1"
    assert copied == [2 + 2 * (4 + 6 * 1024) + 1]


# The filter

MATRIX = [
    # After a reset: own address and broadcast.
    ((), [OUR, ALL]),
    ((PROMISC,), [OUR, OTHER, MULTI, ALL]),
    ((ALLMULTI,), [OUR, MULTI, ALL]),
    ((ALLUNI,), [OUR, OTHER, ALL]),
    ((ALLMULTI, NOMULTI), [OUR, ALL]),
    ((ALLUNI, NOUNI), [ALL]),
    ((NOBCAST,), [OUR]),
    ((NOUNI, NOMULTI, NOBCAST), []),
    ((PROMISC, NOUNI, NOMULTI, NOBCAST), [OUR, OTHER, MULTI, ALL]),
]


@pytest.mark.spec("NET-20", "NET-23")
@pytest.mark.parametrize(("modes", "passes"), MATRIX)
def test_modes_of_the_filter(
    modes: tuple[int, ...], passes: list[bytes], make_net: NetMaker
) -> None:
    rig = make_net()

    assert [rig.command(0, mode, b"\1") for mode in modes] == [0] * len(modes)
    assert rig.frames(OUR, OTHER, MULTI, ALL) == passes


@pytest.mark.spec("NET-20")
@pytest.mark.parametrize("mode", range(6))
def test_mode_is_switched_off_again(mode: int, make_net: NetMaker) -> None:
    rig = make_net()

    rig.command(0, mode, b"\1")
    rig.command(0, mode, b"\0")

    assert rig.frames(OUR, OTHER, MULTI, ALL) == [OUR, ALL]


@pytest.mark.spec("NET-20")
def test_modes_of_the_second_feature_need_it(make_net: NetMaker) -> None:
    rig = make_net(features=CTRL_VQ | CTRL_RX)
    only_extra = make_net(features=CTRL_VQ | CTRL_RX_EXTRA)

    assert [rig.command(0, mode, b"\1") for mode in range(6)] == [0, 0, 1, 1, 1, 1]
    assert [only_extra.command(0, mode, b"\1") for mode in range(6)] == [1, 1, 0, 0, 0, 0]


@pytest.mark.spec("NET-23")
def test_driver_that_cannot_ask_for_groups_gets_all_of_them(make_net: NetMaker) -> None:
    rig = make_net(features=0)

    assert rig.frames(OUR, OTHER, MULTI, ALL) == [OUR, MULTI, ALL]


@pytest.mark.spec("NET-21")
def test_address_tables_are_replaced_as_a_whole(make_net: NetMaker) -> None:
    rig = make_net()
    empty = rig.frames(OTHER, MULTI)

    both = rig.command(1, 0, tables([OTHER_MAC], [GROUP]))
    filled = rig.frames(OTHER, MULTI)
    one = rig.command(1, 0, tables([], [GROUP]))

    assert (both, one) == (0, 0)
    assert (empty, filled) == ([], [OTHER, MULTI])
    assert rig.frames(OTHER, MULTI) == [MULTI]


@pytest.mark.spec("NET-21")
def test_address_tables_are_empty_after_a_reset(make_net: NetMaker) -> None:
    rig = make_net()
    rig.command(1, 0, tables([OTHER_MAC], [GROUP]))
    rig.command(0, PROMISC, b"\1")

    rig.start(CTRL_VQ | CTRL_RX, size=32)

    assert rig.frames(OTHER, MULTI, OUR) == [OUR]


@pytest.mark.spec("NET-21")
def test_tables_of_a_thousand_addresses_are_taken(make_net: NetMaker) -> None:
    rig = make_net()
    many = [bytes([2, 0, 1, 0, n >> 8, n & 255]) for n in range(1024)]

    assert rig.command(1, 0, tables(many, [])) == 0
    assert rig.frames(frame(60, many[1023])) == [frame(60, many[1023])]


@pytest.mark.spec("NET-22", "NET-23")
def test_address_that_the_driver_sets_is_in_the_configuration_and_filtered_by(
    make_net: NetMaker,
) -> None:
    rig = make_net(features=CTRL_VQ | CTRL_MAC_ADDR)
    ring = rig.rings[2]
    ring.add([b"\1\1" + OTHER_MAC], [1])
    rig.driver.notify(2)
    rig.serve()

    assert rig.config_image(6) == OTHER_MAC
    assert [one.data for one in ring.collect()] == [b"\0"]
    assert rig.frames(OUR, OTHER) == [OTHER]


@pytest.mark.spec("NET-22", "COM-21")
def test_address_that_the_driver_set_is_forgotten_at_reset(make_net: NetMaker) -> None:
    rig = make_net(features=CTRL_VQ | CTRL_MAC_ADDR)
    rig.command(1, 1, OTHER_MAC)

    rig.driver.status = 0

    assert rig.config_image(6) == OUR_MAC
