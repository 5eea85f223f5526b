"""The switch: who gets which frame, what happens to it on the way, and ends in Python."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.spec.net import NEEDS_CSUM, TCPV4, checksums_hold, header, ip_frame
from tests.unit.vmm.net.cards import (
    BROADCAST,
    GUEST_OFFLOADS,
    MAC_A,
    MAC_B,
    Card,
    frame,
)
from virtio.errors import ConfigurationError
from vmm.net import NoSuchFrame, Port, Switch

LARGE = header(NEEDS_CSUM, TCPV4, 54, 1000, 34, 16, 1) + MAC_B + MAC_A + ip_frame(bytes(2500))[12:]


@pytest.fixture
def switch() -> Iterator[Switch]:
    with Switch() as made:
        yield made


def test_frame_for_an_address_that_nobody_showed_goes_everywhere(switch: Switch) -> None:
    ports = [switch.port() for _ in range(3)]

    ports[0].send(frame(MAC_B, MAC_A))

    assert [one.frames() for one in ports] == [[], *[[frame(MAC_B, MAC_A)]] * 2]


def test_frame_for_a_known_address_goes_there_alone(switch: Switch) -> None:
    ports = [switch.port() for _ in range(3)]
    ports[1].send(frame(BROADCAST, MAC_B))
    ports[0].frames(), ports[2].frames()

    ports[0].send(frame(MAC_B, MAC_A))

    assert [len(one.frames()) for one in ports] == [0, 1, 0]


def test_frame_for_the_sender_itself_goes_nowhere(switch: Switch) -> None:
    ports = [switch.port() for _ in range(2)]
    ports[0].send(frame(BROADCAST, MAC_A))
    ports[1].frames()

    ports[0].send(frame(MAC_A, MAC_B))

    assert [len(one.frames()) for one in ports] == [0, 0]


def test_address_that_moves_is_found_where_it_spoke_last(switch: Switch) -> None:
    ports = [switch.port() for _ in range(3)]
    for port in ports[1:]:
        port.send(frame(BROADCAST, MAC_B))
    for port in ports:
        port.frames()

    ports[0].send(frame(MAC_B, MAC_A))

    assert [len(one.frames()) for one in ports] == [0, 0, 1]


def test_end_that_was_closed_gets_nothing_and_its_address_is_forgotten(switch: Switch) -> None:
    ports = [switch.port() for _ in range(3)]
    ports[1].send(frame(BROADCAST, MAC_B))
    ports[1].close()
    ports[2].frames()

    ports[0].send(frame(MAC_B, MAC_A))

    assert [len(one.frames()) for one in ports[1:]] == [0, 1]


def test_flood_of_addresses_does_not_grow_the_table(switch: Switch) -> None:
    port = switch.port()

    for number in range(5000):
        port.send(frame(BROADCAST, b"\2\0\0\0" + number.to_bytes(2, "big")))

    assert len(switch._places) == 4096


def test_two_guests_talk(switch: Switch) -> None:
    one, other = Card(switch.open()), Card(switch.open(), MAC_B)

    one.send_frames(frame(BROADCAST, MAC_A))
    assert other.frames() == [frame(BROADCAST, MAC_A)]
    other.send_frames(frame(MAC_A, MAC_B))
    assert one.frames() == [frame(MAC_A, MAC_B)]


def test_uncut_frame_passes_between_guests_that_take_such(switch: Switch) -> None:
    one, other = Card(switch.open()), Card(switch.open(), MAC_B)

    one.send(LARGE)

    assert other.got() == [LARGE]


def test_uncut_frame_comes_cut_and_complete_to_a_guest_that_does_not(switch: Switch) -> None:
    one = Card(switch.open())
    other = Card(switch.open(), MAC_B, refuse=GUEST_OFFLOADS)

    one.send(LARGE)

    frames = other.frames()
    assert [len(each) for each in frames] == [1054, 1054, 554]
    assert all(map(checksums_hold, frames))


def test_ends_in_python_get_frames_as_on_a_wire(switch: Switch) -> None:
    guest, port = Card(switch.open()), switch.port()

    guest.send(LARGE)

    frames = port.frames()
    assert [len(each) for each in frames] == [1054, 1054, 554]
    assert all(map(checksums_hold, frames))


def test_frames_for_a_guest_without_buffers_are_lost_and_counted(switch: Switch) -> None:
    card, port = Card(switch.open()), switch.port()

    port.send(*[frame(MAC_A, MAC_B)] * 2000)

    assert switch.forwarded + switch.lost == 2000
    assert switch.lost > 1000
    assert len(card.frames()) == 64


# Ends in Python


def test_expected_frame_is_returned_and_those_before_it_dropped(switch: Switch) -> None:
    port, peer = switch.port(), switch.port()
    peer.send(*[frame(MAC_A, MAC_B, 60 + n, n) for n in range(4)])

    found = port.expect(lambda one: len(one) == 62, timeout=60)

    assert found == frame(MAC_A, MAC_B, 62, 2)
    assert port.expect(b"\3\3\3", timeout=60) == frame(MAC_A, MAC_B, 63, 3)


def test_frame_that_comes_later_is_waited_for(switch: Switch) -> None:
    port, peer = switch.port(), switch.port()
    found: list[bytes] = []
    waiter = threading.Thread(target=lambda: found.append(port.expect(MAC_B, timeout=60)))

    waiter.start()
    peer.send(frame(MAC_A, MAC_B))
    waiter.join()

    assert found == [frame(MAC_A, MAC_B)]


def test_error_for_a_frame_that_does_not_come_shows_what_came(switch: Switch) -> None:
    port, peer = switch.port(), switch.port()
    peer.send(frame(MAC_A, MAC_B))

    with pytest.raises(NoSuchFrame, match=r"no such frame in 0 s: 1 others came; 02 00") as error:
        port.expect(b"never", timeout=0)

    assert error.value.others == [frame(MAC_A, MAC_B)]
    with pytest.raises(NoSuchFrame, match="nothing came"):
        port.expect(b"never", timeout=0)


@pytest.mark.parametrize("size", [0, 13, 65558, 100_000])
def test_frame_that_no_ethernet_carries_is_refused(size: int, switch: Switch) -> None:
    with pytest.raises(ConfigurationError, match=f"frame of {size} bytes: must have 14 to 65557"):
        switch.port().send(bytes(size))


def test_addresses_of_ports_differ(switch: Switch) -> None:
    macs = {switch.port().mac for _ in range(9)}

    assert len(macs) == 9
    with pytest.raises(ConfigurationError, match="must be one station's"):
        switch.port(BROADCAST)


def test_port_keeps_the_last_frames_of_a_flood(switch: Switch) -> None:
    port, peer = switch.port(), switch.port()

    for number in range(10_050):
        peer.send(frame(MAC_A, MAC_B) + number.to_bytes(4, "big"))

    frames = port.frames()
    assert (len(frames), frames[-1][-4:]) == (10_000, (10_049).to_bytes(4, "big"))


# What happens on the way


def passed(count: int, **options: Any) -> list[int]:
    """Send frames with numbers through a switch; returns the numbers that come, in order."""
    with Switch(**options) as switch:
        sender, receiver = switch.port(), switch.port()
        sender.send(*[frame(MAC_B, MAC_A) + n.to_bytes(4, "big") for n in range(count)])
        sender.send(frame(MAC_B, MAC_A) + b"last")
        frames: list[bytes] = []

        def collect(one: bytes) -> bool:
            frames.append(one)
            return len(frames) + switch.lost >= count + 1

        receiver.expect(collect, timeout=60)
    return [int.from_bytes(one[-4:], "big") for one in frames if not one.endswith(b"last")]


def test_loss_is_about_as_asked_for_and_the_same_for_one_seed() -> None:
    with Switch(loss=0.1, seed=5) as first, Switch(loss=0.1, seed=5) as again:
        came = []
        for switch in (first, again):
            sender, receiver = switch.port(), switch.port()
            sender.send(*[frame(MAC_B, MAC_A) + n.to_bytes(4, "big") for n in range(2000)])
            came.append(receiver.frames())

    assert came[0] == came[1]
    assert 1700 < len(came[0]) < 1900
    assert first.lost == 2000 - len(came[0])


def test_duplicates_come_twice() -> None:
    with Switch(duplicate=1) as switch:
        sender, receiver = switch.port(), switch.port()
        sender.send(frame(MAC_B, MAC_A))

        assert receiver.frames() == [frame(MAC_B, MAC_A)] * 2


def test_delayed_frames_come_in_order() -> None:
    assert passed(50, delay=0.01) == list(range(50))


def test_reordered_frames_all_come_later_than_others() -> None:
    numbers = passed(200, reorder=0.2, seed=3)

    assert sorted(numbers) == list(range(200))
    assert numbers != list(range(200))


def test_bandwidth_loses_what_cannot_be_carried_in_time() -> None:
    # 100 frames of 64 bytes take 51 ms each; no frame waits for more than half a second of them.
    with Switch(bandwidth=10_000) as switch:
        sender, receiver = switch.port(), switch.port()
        sender.send(*[frame(MAC_B, MAC_A, 64)] * 100)

        assert switch.lost == 90
        receiver.expect(MAC_A, timeout=60)


def test_closed_switch_carries_nothing() -> None:
    switch = Switch(delay=30)
    sender, receiver = switch.port(), switch.port()
    sender.send(frame(MAC_B, MAC_A))

    switch.close()
    switch.close()
    sender.send(frame(MAC_B, MAC_A))

    assert receiver.frames() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": 1.1}, "loss 1.1: must be 0 to 1"),
        ({"duplicate": -1}, "duplicate -1: must be 0 to 1"),
        ({"reorder": float("nan")}, "reorder nan: must be 0 to 1"),
        ({"delay": 61}, "delay 61: must be 0 to 60 seconds"),
        ({"jitter": -0.1}, "jitter -0.1: must be"),
        ({"bandwidth": 0}, "bandwidth 0: must be from 1000 on"),
    ],
)
def test_network_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Switch(**options)


def test_guests_of_two_threads_send_at_once(switch: Switch) -> None:
    ports = [switch.port() for _ in range(3)]
    threads = [
        threading.Thread(target=lambda port=port: [port.send(frame(BROADCAST, port.mac))] * 500)
        for port in ports[:2]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(ports[2].frames()) == 2
    assert isinstance(ports[0], Port)
