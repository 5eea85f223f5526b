"""The saved state of a console: what names other ports, or is too much, is refused."""

from typing import Any

import pytest

from virtio.console import Console, ConsolePort
from virtio.errors import ConfigurationError


def console() -> Console:
    return Console([ConsolePort("a", buffer_bytes=16), ConsolePort("b", buffer_bytes=16)])


def state(**ports: Any) -> dict[str, Any]:
    """Return the state of such a console, with changes to its first port."""
    plain = console().state()
    number, first = plain["ports"][0]
    return plain | {"ports": ((number, first | ports), plain["ports"][1])}


def test_a_state_that_can_be_is_taken() -> None:
    new = console()

    new.restore(state(waiting=b"0123456789abcdef"))

    assert new.state()["ports"][0][1]["waiting"] == b"0123456789abcdef"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"host_open": 1}, "console port 0: host_open is 1, must be bool"),
        ({"size": (80, 65536)}, "console port 0: rows is 65536"),
        ({"waiting": bytes(17)}, "console port 0: waiting has 17 items, must have 0 to 16"),
        ({"waiting": "text"}, "console port 0: waiting is 'text', must be bytes"),
    ],
)
def test_a_port_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        console().restore(state(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"announced": (5,)}, "announced has a port that there is not"),
        ({"ready": (1, 2)}, "ready has a port that there is not"),
        ({"driver_ready": None}, "driver_ready is None, must be bool"),
        ({"messages": ((1, 2, 65536, b""),)}, "message value is 65536"),
        ({"messages": ((1 << 32, 2, 1, b""),)}, "message port is 4294967296"),
        ({"messages": ((1, 7, 1, bytes(256)),)}, "message extra has 256 items"),
        ({"messages": ((0, 6, 1, b""),) * 113}, "113 messages are waiting"),
    ],
)
def test_a_dialogue_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    plain = state()

    with pytest.raises(ConfigurationError, match=message):
        console().restore(plain | {"dialogue": plain["dialogue"] | changes})


def test_other_numbers_that_cannot_be_are_refused() -> None:
    plain = state()
    [(_, first), second] = plain["ports"]

    with pytest.raises(ConfigurationError, match="two ports have one number"):
        console().restore(plain | {"ports": ((1, first), second)})
    with pytest.raises(ConfigurationError, match="port number is 16, must be 0 to 15"):
        console().restore(plain | {"ports": ((16, first), second)})
    with pytest.raises(ConfigurationError, match="offset is 4294967297"):
        console().restore(plain | {"offsets": ((0, (1 << 32) + 1),)})
    with pytest.raises(ConfigurationError, match="max_nr_ports must be 16"):
        console().restore(plain | {"config": plain["config"] | {"max_nr_ports": 1 << 31}})
    with pytest.raises(ConfigurationError, match="saved cols is '80', must be int"):
        console().restore(plain | {"config": plain["config"] | {"cols": "80"}})
    with pytest.raises(ConfigurationError, match="saved rows = 65536: a u16 is needed"):
        console().restore(plain | {"config": plain["config"] | {"rows": 65536}})
