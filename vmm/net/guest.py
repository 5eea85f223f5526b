"""Has the default guest use its network before a command runs there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vmm.net.config import NetConfig

_LEASE: Final = """#!/bin/sh
ip addr flush dev $interface
[ "$1" = deconfig ] && exec ip link set $interface up
[ "$ip" ] || exit 0
ip addr add $ip/$mask dev $interface
[ "$router" ] && ip route add default via ${router%% *} dev $interface
for one in $dns; do echo nameserver $one; done > /etc/resolv.conf
"""


def with_network(words: Sequence[str], nets: Sequence[NetConfig]) -> list[str]:
    """Return a command that first brings up the guest's network cards, then runs ``words``.

    A card on the host's network gets its address by DHCP. On others nobody may give addresses, and
    the command has to choose one. A card that gets none is told, and the command runs all the same.
    """
    steps = ["ip link set lo up", "mkdir -p /tmp /etc"]
    for number, net in enumerate(nets):
        steps.append(f"ip link set eth{number} up")
        if net.kind == "user":
            steps += [
                f"printf %s '{_LEASE}' > /tmp/lease && chmod 755 /tmp/lease",
                f"udhcpc -i eth{number} -s /tmp/lease -n -q -f -t 4 -T 2 > /dev/null 2>&1"
                f" || echo 'no address for eth{number}' >&2",
            ]
    steps.append('exec "$@"')
    return ["sh", "-c", "\n".join(steps), "sh", *words]
