"""The networks of restored machines, which no snapshot names."""

import pytest

from virtio.errors import ConfigurationError
from vmm.config import MachineConfig
from vmm.net import NetConfig, parse_net
from vmm.net.guest import with_network
from vmm.net.restored import with_networks
from vmm.snapshot.plain import from_plain, to_plain

SAVED = MachineConfig(nets=(NetConfig("user", mtu=9000), NetConfig("tap", "t0", queues=2)))


def test_cards_without_a_network_of_today_have_none() -> None:
    assert with_networks(SAVED, ()).nets == (NetConfig(mtu=9000), NetConfig(queues=2))


def test_networks_come_behind_the_cards_that_were_saved() -> None:
    nets = (parse_net("socket=s,pcap=p"), parse_net("tap=t1,queues=2"))

    assert with_networks(SAVED, nets).nets == (
        NetConfig("socket", "s", mtu=9000, pcap="p"),
        NetConfig("tap", "t1", queues=2),
    )


@pytest.mark.parametrize(
    ("nets", "message"),
    [
        ((NetConfig(),) * 3, "3 networks: the machine was saved with 2 network cards"),
        ((NetConfig(mtu=1500),), "mtu is as it was saved"),
        ((NetConfig(mac="02:00:00:00:00:01"),), "mac is as it was saved"),
        ((NetConfig("tap", "t0", queues=4),), "queues is as it was saved"),
    ],
)
def test_network_for_another_card_is_refused(nets: tuple[NetConfig, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        with_networks(SAVED, nets)


def test_saved_cards_survive_a_file() -> None:
    config = MachineConfig(nets=(NetConfig("user", mac="02:00:00:00:00:01").saved(),))

    assert from_plain(MachineConfig, to_plain(config)).nets == config.nets


def test_command_of_the_default_guest_follows_its_network() -> None:
    words = with_network(["ls", "-l"], (NetConfig("user"), NetConfig("tap", "t0")))

    assert (words[:2], words[3:]) == (["sh", "-c"], ["sh", "ls", "-l"])
    assert words[2].count("udhcpc -i eth0") == 1
    assert "ip link set eth1 up" in words[2]
    assert words[2].endswith('\nexec "$@"')
