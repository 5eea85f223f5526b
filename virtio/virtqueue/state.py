"""Where a queue lies, and what of it is not in guest memory, as plain values.

VIRTIO 1.4 "Virtqueues"; a queue is saved and rebuilt with its machine.
"""

from typing import NamedTuple

from virtio.virtqueue.chain import Descriptor


class QueueLayout(NamedTuple):
    """Where the driver put a queue: its size in entries, and three guest-physical addresses."""

    size: int
    descriptor_area: int
    driver_area: int
    device_area: int


class SavedChain(NamedTuple):
    """A chain that the device had not given back when the state of its queue was taken.

    ``used_length`` is set when the device was done with it, and only its turn had not come.
    """

    descriptors: tuple[Descriptor, ...]
    head_index: int
    buffer_id: int
    slots: int
    used_length: int | None


class QueueState(NamedTuple):
    """All of a queue that is not in guest memory, as a plain value.

    The two positions count ring entries: modulo 65536 in the split form; modulo twice the queue
    size in the packed form, where the first lap is the one with wrap counter 1. ``unsignalled``
    counts the entries used since the driver's wish to be notified was last looked at. ``breach``
    is the item, message and chain of the error that broke the queue.
    """

    index: int  # type: ignore[assignment]  # the name in the specification, over tuple.index()
    layout: QueueLayout
    features: int
    next_avail: int
    next_used: int
    unsignalled: int
    outstanding: tuple[SavedChain, ...]
    breach: tuple[str, str, int | None] | None
