"""Networks for guests: a switch in the process, streams, taps, and the host's own by passt."""

from typing import TYPE_CHECKING

from virtio.lazy import lazy_names

if TYPE_CHECKING:
    from vmm.net.config import NetConfig as NetConfig
    from vmm.net.opening import open_network as open_network
    from vmm.net.options import parse_net as parse_net
    from vmm.net.port import NoSuchFrame as NoSuchFrame
    from vmm.net.port import Port as Port
    from vmm.net.switch import Switch as Switch
else:
    __getattr__, __all__ = lazy_names(
        __name__,
        {
            "config": "NetConfig",
            "opening": "open_network",
            "options": "parse_net",
            "port": "NoSuchFrame Port",
            "switch": "Switch",
        },
    )
