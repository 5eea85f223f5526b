"""The network card is saved, and restored by whoever may have written the state."""

from typing import Any

import pytest

from tests.spec.net import GROUP, OTHER_MAC, OUR_MAC, PEER_MAC, PLAIN, Wire, frame, header
from virtio.errors import ConfigurationError
from virtio.net import Net
from virtio.testing import Bench

CONTROLQ = 4


def make(wire: Wire | None = None, **options: Any) -> Net:
    return Net(wire or Wire(), mac=OUR_MAC, pairs=2, mtu=1500, **options)


def live(wire: Wire | None = None) -> Bench:
    return Bench(make(wire), queue_size=16)


def command(bench: Bench, data: bytes) -> bytes:
    return bench.request([data], [1], queue=CONTROLQ).data


def test_what_the_driver_set_is_there_again() -> None:
    bench = live()
    table = b"\1\0\0\0" + OTHER_MAC + b"\1\0\0\0" + GROUP
    commands = [b"\1\0" + table, b"\0\1\1", b"\2\0\5\0", b"\4\0\2\0", b"\5\0" + bytes(8)]
    answers = [command(bench, one) for one in commands]
    before = bench.device.state()

    bench.restore_into(make())

    assert answers == [b"\0"] * 5
    assert bench.device.state() | {"config": 0, "config_generation": 0} == before | {
        "config": 0,
        "config_generation": 0,
    }


def test_address_that_the_driver_chose_survives_and_ends_with_the_next_reset() -> None:
    bench = live()
    command(bench, b"\1\1" + OTHER_MAC)

    bench.restore_into(Net(Wire(), mac=PEER_MAC, pairs=2, mtu=1500))
    restored = bench.device.read_config(0, 6)
    bench.reset()

    assert restored == OTHER_MAC
    assert bench.device.read_config(0, 6) == OUR_MAC


def test_restored_guest_is_asked_to_announce_itself() -> None:
    bench = live()

    bench.restore_into(make())

    assert bench.device.read_config(6, 2) == b"\3\0"
    assert bench.config_interrupts == 1
    assert command(bench, b"\3\0") == b"\0"
    assert bench.device.read_config(6, 2) == b"\1\0"


def test_guest_restored_without_a_network_finds_its_cable_pulled() -> None:
    bench = live()

    bench.restore_into(Net(mac=OUR_MAC, pairs=2, mtu=1500))

    assert bench.device.read_config(6, 2) == b"\0\0"


def test_packets_that_were_held_are_sent_after_the_restore() -> None:
    wire = Wire()
    wire.room = 0
    bench = live(wire)
    bench.drivers[1].add([header() + frame(60, PEER_MAC)])
    bench.serve()
    other = Wire()

    bench.restore_into(make(other))
    bench.serve()

    assert (wire.packets, other.packets) == ([], [PLAIN + frame(60, PEER_MAC)])
    assert len(bench.drivers[1].collect()) == 1


BAD: dict[str, list[object]] = {
    "pairs": [0, 3, True, None],
    "offloads": [-1, 1 << 128, "1"],
    "own_mac": [b"", bytes(6), b"\1\0\0\0\0\0", OUR_MAC + b"\0", 7],
    "filter": [
        {},
        {"modes": ("loud",), "unicast": (), "multicast": (), "vlans": 0},
        {"modes": (), "unicast": (b"short",), "multicast": (), "vlans": 0},
        {"modes": (), "unicast": (), "multicast": (OUR_MAC,) * 1025, "vlans": 0},
        {"modes": (), "unicast": (), "multicast": (), "vlans": 1 << 4096},
    ],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in BAD.items() for v in vs])
def test_state_that_cannot_be_is_refused(name: str, value: object) -> None:
    state = live().device.state() | {name: value}

    with pytest.raises((ConfigurationError, KeyError)):
        make().restore(state)


@pytest.mark.parametrize(
    ("name", "value"), [("max_virtqueue_pairs", 1), ("mtu", 9000), ("speed", 7), ("duplex", 0)]
)
def test_state_of_another_card_is_refused(name: str, value: int) -> None:
    state = live().device.state()
    state["config"] = state["config"] | {name: value}

    with pytest.raises(ConfigurationError, match=f"saved net: {name} must be"):
        make().restore(state)


@pytest.mark.parametrize("mac", [b"", bytes(6), b"\1\0\0\0\0\1", bytes(7), b"\xff" * 6])
def test_address_of_no_single_station_is_refused(mac: bytes) -> None:
    with pytest.raises(ConfigurationError, match="must be 6 bytes, of one station"):
        Net(mac=mac)


def test_address_is_random_and_locally_administered_by_default() -> None:
    first, second = Net().mac, Net().mac

    assert first != second
    assert first[0] & 3 == second[0] & 3 == 2
