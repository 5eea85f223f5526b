"""How much of the host one guest may use up by what it knows and has open of a share."""

from __future__ import annotations

import resource
from typing import Final

from virtio.named_tuple import NamedTuple

MAX_NODES: Final = 1 << 20
"""A guest's kernel keeps about a kilobyte for each file that it knows; here one takes 250 bytes."""

MOST_DESCRIPTORS: Final = 8192
FEWEST_DESCRIPTORS: Final = 128
MAX_LOCK_OWNERS: Final = 256


class Limits(NamedTuple):
    """The most nodes; the most handles, and of nodes the descriptors that are cached and pinned."""

    nodes: int = MAX_NODES
    handles: int = MOST_DESCRIPTORS // 2
    cached: int = MOST_DESCRIPTORS // 4
    pinned: int = MOST_DESCRIPTORS // 4 - MAX_LOCK_OWNERS

    @property
    def descriptors(self) -> int:
        """How many descriptors that is, with those of locks."""
        return self.handles + self.cached + self.pinned + MAX_LOCK_OWNERS


def limits_for(shares: int) -> Limits:
    """Return the limits of each of so many shares: together, half of this process's descriptors."""
    most = _soft_limit()
    each = max(FEWEST_DESCRIPTORS, min(most // 2 // shares, MOST_DESCRIPTORS))
    quarter = each // 4
    return Limits(
        handles=2 * quarter, cached=quarter, pinned=max(quarter - MAX_LOCK_OWNERS, quarter // 2)
    )


def raise_limit(shares: int) -> None:
    """Let this process, which is the machine's alone, have the descriptors for so many shares."""
    wanted = 2 * MOST_DESCRIPTORS * shares
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if _soft_limit() < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _soft_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft
