"""Where a queue lies, and what of it is not in guest memory, as plain values.

VIRTIO 1.4 "Virtqueues"; a queue is saved and rebuilt with its machine.
"""

from typing import Annotated, Final

from virtio.errors import ConfigurationError
from virtio.features import VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED
from virtio.named_tuple import NamedTuple
from virtio.saved import U16, U32, U64, FeatureSet, Length, Line, Within, check_saved, shown
from virtio.virtqueue.chain import MAX_CHAIN_BYTES, MAX_CHAIN_DESCRIPTORS, VIRTQ_DESC_F_WRITE

LARGEST_QUEUE: Final = 32768
SPLIT_LAP: Final = 1 << 16
"""How far the free-running indices of a split queue count."""


class QueueLayout(NamedTuple):
    """Where the driver put a queue: its size in entries, and three guest-physical addresses."""

    size: Annotated[int, Within(0, LARGEST_QUEUE)]
    descriptor_area: U64
    driver_area: U64
    device_area: U64


class SavedChain(NamedTuple):
    """A chain that the device had not given back when the state of its queue was taken.

    ``used_length`` is set when the device was done with it, and only its turn had not come.
    """

    descriptors: Annotated[tuple[tuple[U64, U32, U16], ...], Length(MAX_CHAIN_DESCRIPTORS, 1)]
    head_index: U16
    buffer_id: U16
    slots: Annotated[int, Within(1, LARGEST_QUEUE)]
    used_length: Annotated[int, Within(0, MAX_CHAIN_BYTES)] | None


class QueueState(NamedTuple):
    """All of a queue that is not in guest memory, as a plain value.

    The two positions count ring entries: modulo 65536 in the split form; modulo twice the queue
    size in the packed form, where the first lap is the one with wrap counter 1. ``unsignalled``
    counts the entries used since the driver's wish to be notified was last looked at. ``breach``
    is the item, message and chain of the error that broke the queue.
    """

    index: U16  # type: ignore[assignment]  # the name in the specification, over tuple.index()
    layout: QueueLayout
    features: FeatureSet
    next_avail: U16
    next_used: U16
    unsignalled: U32
    outstanding: Annotated[tuple[SavedChain, ...], Length(LARGEST_QUEUE)]
    breach: tuple[Line, Line, U16 | None] | None


def check_queue_state(state: QueueState) -> None:
    """Raise :class:`ConfigurationError` for a state that no queue can have been in.

    Rings are indexed with what is in a state, in C without another look at it. So a queue is only
    rebuilt from positions inside of its laps, chains inside of its ring, and as many entries in
    flight as those chains take: the device gives entries back at ``next_used``, and from there to
    ``next_avail`` are those that it has. Two chains may have one head: a driver that is wrong makes
    one available twice, and in the packed form a used entry stands where the next one is taken
    while a chain from there is still out.
    """
    check_saved("queue", state)
    size, packed = state.layout.size, bool(state.features >> VIRTIO_F_RING_PACKED & 1)
    if not size:
        return  # which is a geometry that the queue refuses itself (SPL-02, PKD-02)
    lap = 2 * size if packed else SPLIT_LAP
    for name in ("next_avail", "next_used"):
        position = getattr(state, name)
        if position >= lap:
            raise _wrong(state, f"{name} is {position}, must be below {lap}")
    for chain in state.outstanding:
        _check_chain(state, chain, packed=packed)
    in_flight = (state.next_avail - state.next_used) % lap
    taken = sum(chain.slots for chain in state.outstanding)
    if taken != in_flight or taken > size:
        raise _wrong(
            state,
            f"outstanding chains take {taken} of its {size} entries, from next_used to next_avail"
            f" are {in_flight}",
        )


def _check_chain(state: QueueState, chain: SavedChain, *, packed: bool) -> None:
    size, where = state.layout.size, f"outstanding chain {chain.head_index}"
    if chain.head_index >= size:
        raise _wrong(state, f"{where}: head_index must be below {size}")
    if not packed and chain.buffer_id != chain.head_index:
        raise _wrong(state, f"{where}: buffer_id is {chain.buffer_id}, must be its head_index")
    # An indirect table takes one entry, whatever it holds.
    if chain.slots != 1 and not (packed and chain.slots == len(chain.descriptors)):
        raise _wrong(
            state, f"{where}: slots are {chain.slots} for {len(chain.descriptors)} descriptors"
        )
    writable = total = 0
    for _, length, flags in chain.descriptors:
        total += length
        if flags & VIRTQ_DESC_F_WRITE:
            writable += length
        elif writable:
            raise _wrong(state, f"{where}: descriptors to read follow one to write")
    if total > MAX_CHAIN_BYTES:
        raise _wrong(state, f"{where}: descriptors of {total} bytes, at most 2^32 are possible")
    if chain.used_length is None:
        return
    if not state.features >> VIRTIO_F_IN_ORDER & 1:
        raise _wrong(state, f"{where}: used_length is set, but chains are not used in order")
    if chain.used_length > writable:
        raise _wrong(
            state, f"{where}: used_length is {chain.used_length}, there is room for {writable}"
        )


def _wrong(state: QueueState, fault: str) -> ConfigurationError:
    return ConfigurationError(f"saved queue {shown(state.index)}: {fault}")
