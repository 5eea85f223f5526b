"""The trace: what a machine does, as typed events; see ``docs/trace.md``."""

from typing import TYPE_CHECKING

from virtio.lazy import lazy_names

if TYPE_CHECKING:
    from vmm.trace.events import Event as Event
    from vmm.trace.tracer import Tracer as Tracer
else:
    __getattr__, __all__ = lazy_names(__name__, {"events": "Event", "tracer": "Tracer"})
