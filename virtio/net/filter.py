"""The receive filter: which frames a driver wants to see.

VIRTIO 1.4 "Packet Receive Filtering", "Setting MAC Address Filtering", "VLAN Filtering".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from virtio.errors import ConfigurationError
from virtio.net.packet import HEADER_BYTES
from virtio.saved import Length, Within, checked

BROADCAST: Final = b"\xff" * 6
MAC_BYTES: Final = 6
MAX_ADDRESSES: Final = 1024
"""The most entries that one of the two tables may have."""
VLAN_IDS: Final = 4096
VLAN_TYPE: Final = b"\x81\x00"

_TARGET: Final = slice(HEADER_BYTES, HEADER_BYTES + MAC_BYTES)
_TYPE: Final = slice(HEADER_BYTES + 12, HEADER_BYTES + 14)
_TAG: Final = slice(HEADER_BYTES + 14, HEADER_BYTES + 16)

MODES: Final = ("promisc", "allmulti", "alluni", "nomulti", "nouni", "nobcast")
"""In the order of their command numbers."""


class ReceiveFilter:
    """Decides by the target address, and the VLAN, of a frame; a new one is as after a reset.

    ``modes`` holds the names of ``MODES`` that are on, ``unicast`` and ``multicast`` are the tables
    of addresses, ``vlans`` the VLANs that are listed, as a mask of bits.
    """

    def __init__(self) -> None:
        self.modes: frozenset[str] = frozenset()
        self.unicast: frozenset[bytes] = frozenset()
        self.multicast: frozenset[bytes] = frozenset()
        self.vlans = 0

    def set_mode(self, mode: str, *, on: bool) -> None:
        """Switch one of ``MODES``."""
        self.modes = self.modes | {mode} if on else self.modes - {mode}

    def passes(self, packet: bytes, mac: bytes, *, any_multicast: bool, by_vlan: bool) -> bool:
        """Tell whether the driver wants a frame (``NET-20``, ``NET-23``, ``NET-24``).

        ``any_multicast`` is for one that has no way to ask for groups, ``by_vlan`` for one that
        lists its VLANs; a frame without a tag, or with one of no VLAN, is not filtered by it.
        """
        if by_vlan and packet[_TYPE] == VLAN_TYPE:
            vlan = int.from_bytes(packet[_TAG], "big") & 0xFFF
            if vlan and not self.vlans >> vlan & 1:
                return False
        target, modes = packet[_TARGET], self.modes
        if "promisc" in modes:
            return True
        if target == BROADCAST:
            return "nobcast" not in modes
        if target[0] & 1:
            if "nomulti" in modes:
                return False
            return any_multicast or "allmulti" in modes or target in self.multicast
        if "nouni" in modes:
            return False
        return target == mac or "alluni" in modes or target in self.unicast

    def set_tables(self, data: bytes) -> bool:
        """Replace both tables by those of a command; bad data changes nothing (``NET-21``).

        Each is ``struct virtio_net_ctrl_mac { le32 entries; u8 macs[entries][6]; }``. Returns
        whether they were good.
        """
        first = _table(data, 0)
        second = None if first is None else _table(data, 4 + MAC_BYTES * len(first))
        if first is None or second is None:
            return False
        if len(data) != 8 + MAC_BYTES * (len(first) + len(second)):
            return False
        self.unicast, self.multicast = frozenset(first), frozenset(second)
        return True

    def set_vlan(self, vlan: int, *, listed: bool) -> bool:
        """List a VLAN, or strike it off; False for one that there cannot be."""
        if vlan >= VLAN_IDS:
            return False
        self.vlans = self.vlans | 1 << vlan if listed else self.vlans & ~(1 << vlan)
        return True

    def state(self) -> dict[str, Any]:
        """Return the filter as plain values."""
        return {
            "modes": tuple(sorted(self.modes)),
            "unicast": tuple(sorted(self.unicast)),
            "multicast": tuple(sorted(self.multicast)),
            "vlans": self.vlans,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ReceiveFilter:
        """Return the filter that was saved; raises :class:`ConfigurationError` for what is none."""
        self = cls()
        table = Annotated[
            tuple[Annotated[bytes, Length(MAC_BYTES, MAC_BYTES)], ...], Length(MAX_ADDRESSES)
        ]
        self.unicast = frozenset(checked(table, "net filter unicast", state["unicast"]))
        self.multicast = frozenset(checked(table, "net filter multicast", state["multicast"]))
        every_vlan = Annotated[int, Within(0, (1 << VLAN_IDS) - 1)]
        self.vlans = checked(every_vlan, "net filter vlans", state["vlans"])
        self.modes = frozenset(checked(tuple[str, ...], "net filter modes", state["modes"]))
        if not self.modes.issubset(MODES):
            raise ConfigurationError(f"saved net filter modes: must be among {', '.join(MODES)}")
        return self


def _table(data: bytes, at: int) -> list[bytes] | None:
    """Return the addresses of the table at ``at``; None when too many, or not all there."""
    if at + 4 > len(data):
        return None
    count = int.from_bytes(data[at : at + 4], "little")
    end = at + 4 + MAC_BYTES * count
    if count > MAX_ADDRESSES or end > len(data):
        return None
    return [data[start : start + MAC_BYTES] for start in range(at + 4, end, MAC_BYTES)]
