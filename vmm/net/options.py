"""Reads a network as the command line tells it: ``user,hostfwd=tcp:8080:80``."""

from __future__ import annotations

from typing import Final

from virtio.errors import ConfigurationError
from vmm.net.config import NetConfig

OPTIONS: Final = ("mac", "mtu", "queues", "hostfwd", "pcap")


def parse_net(text: str) -> NetConfig:
    """Read ``user``, ``tap=NAME``, ``socket=PLACE`` or ``none``, and options behind commas.

    A comma in a name is doubled. Raises :class:`ConfigurationError`.

    >>> net = parse_net("user,hostfwd=tcp:8080:80,hostfwd=udp:53:53")
    >>> net.kind, net.hostfwd
    ('user', ('tcp:8080:80', 'udp:53:53'))
    """
    first, *options = (one.replace("\0", ",") for one in text.replace(",,", "\0").split(","))
    kind, equals, place = first.partition("=")
    if kind not in ("none", "user", "tap", "socket") or bool(equals) != bool(place):
        raise ConfigurationError(
            f"net {text!r}: must be user, tap=NAME, socket=PLACE or none, options behind it"
        )
    chosen: dict[str, str] = {}
    forwards = []
    for option in options:
        name, _, value = option.partition("=")
        if name not in OPTIONS or not value:
            words = ", ".join(f"{one}=" for one in OPTIONS)
            raise ConfigurationError(f"net option {option!r}: must be one of {words}")
        if name == "hostfwd":
            forwards.append(value)
        elif name in chosen:
            raise ConfigurationError(f"net {text!r}: {name} is given twice")
        chosen[name] = value
    return NetConfig(
        kind,  # type: ignore[arg-type]
        place,
        mac=chosen.get("mac", ""),
        mtu=_number("mtu", chosen["mtu"]) if "mtu" in chosen else None,
        queues=_number("queues", chosen.get("queues", "1")),
        hostfwd=tuple(forwards),
        pcap=chosen.get("pcap", ""),
    )


def _number(name: str, text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise ConfigurationError(f"net: {name}={text}: must be a number")
    return int(text)
