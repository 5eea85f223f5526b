"""The network device, the packets that it takes, and what it needs of the network behind it."""

from typing import TYPE_CHECKING

from virtio.lazy import lazy_names

if TYPE_CHECKING:
    from virtio.net.backend import NetBackend as NetBackend
    from virtio.net.backend import NetEnd as NetEnd
    from virtio.net.backend import NoNetwork as NoNetwork
    from virtio.net.counters import NetCounters as NetCounters
    from virtio.net.device import Net as Net
else:
    __getattr__, __all__ = lazy_names(
        __name__,
        {
            "backend": "NetBackend NetEnd NoNetwork",
            "counters": "NetCounters",
            "device": "Net",
        },
    )
