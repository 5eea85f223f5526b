"""Networks as users ask for them."""

from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from virtio.net import NoNetwork
from vmm.net import NetConfig, open_network, parse_net
from vmm.net.tap import check_tap, open_tap
from vmm.net.user import UserNetwork, parse_forward


def test_options_are_read() -> None:
    text = "tap=t0,mac=02:00:00:00:00:0a,mtu=9000,queues=4,pcap=a,,b.pcap"

    assert parse_net(text) == NetConfig(
        "tap", "t0", mac="02:00:00:00:00:0a", mtu=9000, queues=4, pcap="a,b.pcap"
    )
    assert parse_net(text).address() == b"\2\0\0\0\0\x0a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be user, tap=NAME"),
        ("bridge", "must be user, tap=NAME"),
        ("tap", "needs =PLACE"),
        ("tap=", "must be user"),
        ("user=x", "needs =PLACE only"),
        ("user,", "option ''"),
        ("user,colour=red", "option 'colour=red'"),
        ("user,mac", "option 'mac'"),
        ("user,mtu=1,mtu=2", "mtu is given twice"),
        ("user,mtu=big", "mtu=big: must be a number"),
        ("user,queues=2", "it has one pair"),
        ("tap=a,queues=0", "must be 1 to 256"),
        ("tap=a,hostfwd=tcp:1:1", "hostfwd is for user"),
        ("user,mac=01:00:00:00:00:01", "must be one station's"),
        ("user,mac=00:00:00:00:00:00", "must be one station's"),
        ("user,mac=2:0:0:0:0:1", "must be one station's"),
        ("user,mac=02-00-00-00-00-01", "must be one station's"),
    ],
)
def test_network_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_net(text)


@pytest.mark.parametrize(
    "text", ["", "tcp", "tcp:80", "tcp:80:80:80", "sctp:1:1", "tcp:0:80", "tcp:80:65536", "tcp:a:b"]
)
def test_forward_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="ports 1 to 65535"):
        parse_forward(text)


def test_saved_card_names_nothing_of_the_host() -> None:
    net = parse_net("tap=t0,mac=02:00:00:00:00:0a,mtu=9000,pcap=file")

    assert net.saved() == NetConfig(mac="02:00:00:00:00:0a", mtu=9000)
    assert isinstance(open_network(net.saved()), NoNetwork)
    assert NetConfig("user").behind(net) == NetConfig("user", mac=net.mac, mtu=9000)


def test_missing_passt_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(ConfigurationError, match="apt install passt"):
        UserNetwork()


@pytest.mark.parametrize("script", ["echo 'port 80 is taken' >&2; exit 1", "exit 3"])
def test_passt_that_ends_at_once_is_heard(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "passt").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "passt").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    with pytest.raises(ConfigurationError, match="net user: passt: ") as error:
        UserNetwork()
    assert str(error.value).endswith(("port 80 is taken", "exit status 3"))


@pytest.mark.parametrize("name", ["x" * 16, "a/b", "..", ""])
def test_name_of_no_interface_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="a name has 1 to 15 bytes"):
        open_tap(name, 1)


def test_descriptor_of_no_tap_is_refused(tmp_path: Path) -> None:
    import os

    with pytest.raises(ConfigurationError, match="must be one of a tap"):
        check_tap(os.open(tmp_path, os.O_RDONLY))


def test_file_of_packets_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="net pcap="):
        open_network(NetConfig(pcap=str(tmp_path / "missing" / "file")))
