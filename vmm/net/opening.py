"""Opens what is behind a network card, and closes it."""

from __future__ import annotations

from pathlib import Path

from virtio.errors import ConfigurationError
from virtio.net.backend import NetBackend, NoNetwork
from vmm.net.config import NetConfig


def open_network(config: NetConfig) -> NetBackend:
    """Open what is behind a card; :func:`close_network` closes it.

    Raises :class:`ConfigurationError` or :class:`HostError`.
    """
    backend = _open(config)
    if not config.pcap:
        return backend
    from vmm.net.pcap import Capture

    try:
        return Capture(backend, Path(config.pcap))
    except BaseException:
        close_network(backend)
        raise


def close_network(backend: NetBackend) -> None:
    """Close what is behind a card, if it holds something of the host."""
    close = getattr(backend, "close", None)
    if close is not None:
        close()


def _open(config: NetConfig) -> NetBackend:
    if config.kind == "own":
        backend = None if config.make is None else config.make()
        if not isinstance(backend, NetBackend):
            raise ConfigurationError("net own: make must return a virtio.net.NetBackend")
        return backend
    if config.kind == "user":
        from vmm.net.user import UserNetwork

        return UserNetwork(config.hostfwd)
    if config.kind == "socket":
        from vmm.net.stream import StreamNetwork, connect, taken_over

        place = config.place
        fd = taken_over(place) if place.startswith("fd:") else connect(place)
        return StreamNetwork(fd, f"net socket={place}")
    if config.kind == "tap":
        return _open_tap(config)
    return NoNetwork()


def _open_tap(config: NetConfig) -> NetBackend:
    from vmm.net.stream import taken_over
    from vmm.net.tap import TapNetwork, check_tap, open_tap

    if not config.place.startswith("fd:"):
        fds = open_tap(config.place, config.queues)
    elif config.queues == 1:
        fds = [check_tap(taken_over(config.place))]
    else:
        raise ConfigurationError("net tap=fd: one descriptor is one pair of queues")
    return TapNetwork(fds, f"net tap={config.place}")
