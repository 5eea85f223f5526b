"""Where a debugger connects, as the command line says it."""

import socket
import stat
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm.gdb.place import DebugPlace, Listener


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1234", DebugPlace(host="127.0.0.1", port=1234)),
        (":0", DebugPlace(host="127.0.0.1", port=0)),
        ("0.0.0.0:9,wait=off", DebugPlace(host="0.0.0.0", port=9, waits=False)),
        ("[::1]:9,wait=on", DebugPlace(host="::1", port=9)),
        ("unix:/run/g.sock", DebugPlace(path="/run/g.sock")),
        ("unix:g,wait=off", DebugPlace(path="g", waits=False)),
    ],
)
def test_each_form_is_understood(text: str, expected: DebugPlace) -> None:
    assert DebugPlace.parse(text) == expected


@pytest.mark.parametrize("text", ["", "unix:", "host", "65536", "-1", "1,wait=maybe", "1:2x", "٣"])
def test_another_form_is_refused_in_a_line_that_tells_the_right_ones(text: str) -> None:
    with pytest.raises(ConfigurationError, match="must be PORT, HOST:PORT or unix:PATH"):
        DebugPlace.parse(text)


def test_port_zero_is_a_free_one_that_the_address_tells() -> None:
    with Listener(DebugPlace.parse("0")) as listener:
        host, _, port = listener.address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=30).close()

    assert host == "127.0.0.1"


def test_a_port_that_is_taken_is_refused() -> None:
    with (
        Listener(DebugPlace.parse("0")) as first,
        pytest.raises(ConfigurationError, match=r"--gdb 127\.0\.0\.1:.*in use"),
    ):
        Listener(DebugPlace.parse(first.address))


def test_a_path_is_only_its_owners_and_goes_with_the_listener(tmp_path: Path) -> None:
    path = tmp_path / "g.sock"
    with Listener(DebugPlace.parse(f"unix:{path}")):
        mode = stat.S_IMODE(path.stat().st_mode)

    assert mode == 0o600
    assert not path.exists()


def test_a_path_at_which_something_is_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(ConfigurationError, match=f"--gdb unix:{path}: there is something already"):
        Listener(DebugPlace.parse(f"unix:{path}"))

    assert path.read_text() == "mine"
