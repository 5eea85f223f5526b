"""The trace: what a machine does, as typed events; see ``docs/trace.md``."""

from typing import TYPE_CHECKING

from virtio.lazy import lazy_names

if TYPE_CHECKING:
    from vmm.trace.cassette import Cassette as Cassette
    from vmm.trace.cassette import CassetteError as CassetteError
    from vmm.trace.events import Event as Event
    from vmm.trace.query import LiveTrace as LiveTrace
    from vmm.trace.query import Trace as Trace
    from vmm.trace.tracer import Tracer as Tracer
else:
    __getattr__, __all__ = lazy_names(
        __name__,
        {
            "cassette": "Cassette CassetteError",
            "events": "Event",
            "query": "LiveTrace Trace",
            "tracer": "Tracer",
        },
    )
