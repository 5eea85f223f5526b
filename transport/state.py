"""The state of a transport as a plain value, from which it can be rebuilt."""

from typing import Any

from transport.negotiation import NegotiationState
from transport.queue_registers import QueueRegistersState
from transport.status import STEPS, VIRTIO_CONFIG_S_FEATURES_OK
from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from virtio.saved import U8, U32, check_saved
from virtio.virtqueue.state import QueueLayout, QueueState


class SavedQueue(NamedTuple):
    """The settings of one queue, and its state if there is a live queue behind them."""

    registers: QueueRegistersState
    queue: QueueState | None


class TransportState(NamedTuple):
    """Registers and queues; ``interrupts`` and ``device`` are the states of these two parts."""

    status: U8
    features: NegotiationState
    queue_select: U32
    interrupts: dict[str, Any]
    queues: tuple[SavedQueue, ...]
    device: dict[str, Any]


def check_transport_state(name: str, state: TransportState) -> None:
    """Raise :class:`ConfigurationError` for a state that no transport can have been in.

    A status comes in steps, features are frozen with FEATURES_OK, and a live queue is the one that
    the driver enabled, with the features that it accepted.
    """
    check_saved(name, state)
    status, features = state.status, state.features
    for bit, needed in STEPS:
        if status & bit and status & needed != needed:
            raise ConfigurationError(
                f"saved {name}: status is {status:#x}, a step is missing in it"
            )
    if features.frozen != bool(status & VIRTIO_CONFIG_S_FEATURES_OK):
        raise ConfigurationError(
            f"saved {name}: features.frozen is {features.frozen} at status {status:#x}"
        )
    for index, (registers, queue) in enumerate(state.queues):
        if queue is None:
            continue
        if not registers.ready or not features.frozen:
            raise ConfigurationError(f"saved {name}: queue {index} is live, but not enabled")
        if queue.index != index or queue.layout != QueueLayout(*registers[:4]):
            raise ConfigurationError(f"saved {name}: queue {index} is another one than enabled")
        if queue.features != features.accepted:
            raise ConfigurationError(f"saved {name}: queue {index} has features of its own")
