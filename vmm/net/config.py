"""A network of a machine, as the command line or a program asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, Self, get_args

from virtio.dataclass import dataclass
from virtio.errors import ConfigurationError

if TYPE_CHECKING:
    from vmm.net.switch import Switch

NetKind = Literal["none", "user", "tap", "socket", "own"]
MAC_WORDS: Final = 6


@dataclass(frozen=True, slots=True)
class NetConfig:
    """A virtio network card, and what is behind it.

    * ``kind``: "user" for the host's network by passt; "tap" for a tap of the host, "socket" for a
      peer that speaks the protocol of QEMU's streams, both at ``place``; "own" for what ``make``
      returns; "none" for a cable that is not plugged in.
    * ``mac``: the card's address, such as "02:00:00:00:00:01"; by default a random one.
    * ``mtu``: the largest packet that the network carries, told to the guest.
    * ``queues``: how many pairs of queues; several are for taps and switches.
    * ``hostfwd``: for "user", ports of the host that lead into the guest: "tcp:8080:80".
    * ``pcap``: a file that gets all packets.
    """

    kind: NetKind = "none"
    place: str = ""
    mac: str = ""
    mtu: int | None = None
    queues: int = 1
    hostfwd: tuple[str, ...] = ()
    pcap: str = ""
    make: Callable[[], object] | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(NetKind):
            kinds = ", ".join(get_args(NetKind))
            raise ConfigurationError(f"net {self.kind!r}: must be one of {kinds}")
        if (self.kind in ("tap", "socket")) != bool(self.place):
            raise ConfigurationError(f"net {self.kind}: needs =PLACE only as tap or socket")
        if self.hostfwd and self.kind != "user":
            raise ConfigurationError(f"net {self.kind}: hostfwd is for user")
        if self.queues != 1 and self.kind in ("user", "socket"):
            raise ConfigurationError(f"net {self.kind}: queues={self.queues}: it has one pair")
        if not 1 <= self.queues <= 256:
            raise ConfigurationError(f"net: queues={self.queues}: must be 1 to 256")
        self.address()

    @classmethod
    def on(cls, switch: Switch, *, mac: str = "", mtu: int | None = None, queues: int = 1) -> Self:
        """Return a card on a switch of this process."""
        return cls("own", mac=mac, mtu=mtu, queues=queues, make=switch.open)

    def address(self) -> bytes | None:
        """Return the card's address; None for a random one."""
        if not self.mac:
            return None
        words = self.mac.split(":")
        try:
            mac = bytes(int(word, 16) for word in words if len(word) == 2)
        except ValueError:
            mac = b""
        if len(words) != MAC_WORDS or len(mac) != MAC_WORDS or mac[0] & 1 or not any(mac):
            raise ConfigurationError(
                f"net: mac={self.mac}: must be one station's, such as 02:00:00:00:00:01"
            )
        return mac

    def saved(self) -> Self:
        """Return the card without its network, which no snapshot names."""
        return type(self)("none", mac=self.mac, mtu=self.mtu, queues=self.queues)

    def behind(self, card: NetConfig) -> Self:
        """Return this network behind another, a saved, card."""
        return type(self)(
            self.kind,
            self.place,
            mac=card.mac,
            mtu=card.mtu,
            queues=card.queues,
            hostfwd=self.hostfwd,
            pcap=self.pcap,
            make=self.make,
        )
