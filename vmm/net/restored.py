"""The networks of a restored machine: those of today, behind the cards that were saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from virtio.errors import ConfigurationError
from vmm.config import MachineConfig
from vmm.net.config import NetConfig


def with_networks(config: MachineConfig, nets: Sequence[NetConfig]) -> MachineConfig:
    """Return a saved configuration with networks behind its cards, which keep their addresses.

    Raises :class:`ConfigurationError` for more networks than cards, and for a network that says of
    the card what the saved one is not.
    """
    cards = config.nets
    if len(nets) > len(cards):
        raise ConfigurationError(
            f"{len(nets)} networks: the machine was saved with {len(cards)} network cards"
        )
    for net, card in zip(nets, cards, strict=False):
        for name, plain in (("mac", ""), ("mtu", None), ("queues", 1)):
            if getattr(net, name) not in (plain, getattr(card, name)):
                raise ConfigurationError(f"net {net.kind}: {name} is as it was saved; take it away")
    behind = [net.behind(card) for net, card in zip(nets, cards, strict=False)]
    return replace(config, nets=(*behind, *(card.saved() for card in cards[len(nets) :])))
