"""The state of a transport as a plain value, from which it can be rebuilt."""

from typing import Any, NamedTuple

from transport.negotiation import NegotiationState
from transport.queue_slot import QueueSlotState


class TransportState(NamedTuple):
    """Registers, queues and pending interrupts; ``device`` is the device's own state."""

    status: int
    features: NegotiationState
    queue_select: int
    interrupt_status: int
    queues: tuple[QueueSlotState, ...]
    device: dict[str, Any]
