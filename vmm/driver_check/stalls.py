"""What a driver left out: looked for when a guest stands still, or at its end."""

from __future__ import annotations

from typing import Final

from transport.device_queues import QueuePosition
from transport.mmio.interrupt import MmioInterrupt
from transport.pci.msix import NO_VECTOR
from transport.pci.registers import VirtioPci
from transport.status import (
    STOPPED,
    VIRTIO_CONFIG_S_ACKNOWLEDGE,
    VIRTIO_CONFIG_S_DRIVER,
    VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_NEEDS_RESET,
    status_names,
)
from virtio.errors import Error
from virtio.features import VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC, mask
from vmm.driver_check.case import Case, QueueLife
from vmm.drivers import DEVICES, TRANSPORTS

PCI_COMMAND_MEMORY: Final = 2
DESCRIPTOR_BYTES: Final = 16
INDIRECT: Final = 4
AVAIL: Final = 1 << 7
ENABLE: Final = 0
DESC: Final = 2
FIRST_ENTRY: Final = 1 << 15
"""Entry 0 with wrap counter 1, as an event suppression structure has it."""

USED: Final = 1 << 15

_PLACES: Final = {
    "mmio": "where ACPI (LNRO0005), or virtio_mmio.device= on the command line, says",
    "pci": "on PCI bus 0, vendor 0x1af4",
}


def examine(case: Case, *, stuck: bool) -> None:
    """Look for what is missing at the end; ``stuck``: of a guest that should have got further."""
    _look_for_a_driver(case)
    if case.status & VIRTIO_CONFIG_S_FAILED:
        before = status_names(case.status & ~VIRTIO_CONFIG_S_FAILED)
        case.finds("driver-gave-up", names=before)
    elif case.status & VIRTIO_CONFIG_S_NEEDS_RESET:
        case.finds("needs-reset-ignored")
    _look_for_indirect(case)
    if stuck:
        examine_quiet(case)


def _look_for_a_driver(case: Case) -> None:
    reached, kind = case.transport.reached, case.transport.device.device_id
    if not reached & VIRTIO_CONFIG_S_ACKNOWLEDGE:
        if case.space_read and not (case.command or 0) & PCI_COMMAND_MEMORY:
            case.finds("memory-space-off")
            return
        looked = ", though its registers were read" if case.identified else ""
        advice = _advice(*TRANSPORTS[case.kind])
        case.finds("no-driver", looked=looked, place=_PLACES[case.kind], next=advice)
    elif not reached & VIRTIO_CONFIG_S_DRIVER:
        driver = DEVICES.get(kind)
        advice = _advice(*driver) if driver else "write a driver: Linux has none for this type"
        case.finds("driver-never-set", type=kind, next=advice)


def _advice(module: str, option: str) -> str:
    return (
        f"in Linux {option}=y, or the module {module} in its initrd; in a kernel of your own a"
        " driver that looks there"
    )


def _look_for_indirect(case: Case) -> None:
    """Note that indirect descriptors were used, of which no event tells: the rings show it."""
    if not case.life.accepted & mask(VIRTIO_RING_F_INDIRECT_DESC):
        return
    for one in case.transport.queues:
        layout = None if one.queue is None else one.queue.layout
        if layout is None or not case.life.queue(one.index).taken:
            continue
        try:
            table = bytes(
                case.transport.memory.view(layout.descriptor_area, DESCRIPTOR_BYTES * layout.size)
            )
        except (Error, ValueError):  # the machine goes away
            continue
        at = 14 if case.is_packed else 12
        if any(table[start + at] & INDIRECT for start in range(0, len(table), DESCRIPTOR_BYTES)):
            kept = (14,) if case.is_packed else (7, 8, 9, 10)
            for number in kept:
                case.keeps(f"DRV-RNG-{number:02}")


def examine_quiet(case: Case) -> None:
    """Look for the step that a driver, which has begun, does not take."""
    if case.status & STOPPED:
        return
    if case.is_live:
        _examine_live(case)
    elif case.has_features:
        enabled = sum(one.ready for one in case.life.queues.values())
        names = status_names(case.status)
        case.finds("driver-ok-never-set", names=names, enabled=enabled, count=case.queue_count)
    elif case.status & VIRTIO_CONFIG_S_DRIVER and case.life.complete and not case.life.refused:
        register = case.called("DriverFeatures")
        written = "DriverFeatures" in case.life.written
        case.finds("features-ok-never-set" if written else "features-stalled", register=register)


def _examine_live(case: Case) -> None:
    positions = case.transport.queue_positions()
    ready = [one for one in positions if one.ready]
    if positions and not ready:
        case.finds("no-queue-enabled", count=len(positions))
    for one in ready:
        _examine_queue(case, one, case.life.queue(one.queue))
    interrupts, life = case.transport.interrupts, case.life
    pending = interrupts.status if isinstance(interrupts, MmioInterrupt) else 0
    if pending and life.complete and life.interrupts and not life.acknowledged:
        count = life.interrupts
        case.finds("interrupt-never-acknowledged", count=count, status=f"{pending:#x}")
    if isinstance(case.transport, VirtioPci) and ready:
        msix = case.transport.msix
        vectors = [msix.queue_vectors[one.queue] for one in ready]
        used = any(case.life.queue(one.queue).taken for one in ready)
        if msix.vectors.enabled and used and all(one == NO_VECTOR for one in vectors):
            case.finds("no-vector", ready[0].queue)


def _examine_queue(case: Case, one: QueuePosition, queue: QueueLife) -> None:
    if one.available:
        began = queue.kicks or one.next_avail or queue.taken
        if not began and _wants_the_first(case, one.queue):
            case.finds("never-kicked", one.queue, register=case.called("QueueNotify"))
        return
    if not queue.kicks:
        return
    if case.is_packed and _is_of_the_other_lap(case, one, queue):
        size = queue.size
        wrap = int(one.next_avail < size)
        slot = one.next_avail % size
        case.finds("packed-wrap", one.queue, slot=slot, wrap=wrap, other=1 - wrap)
    elif not queue.taken and not one.next_avail:
        case.finds("nothing-available", one.queue, **_NOTHING[case.is_packed])


def _wants_the_first(case: Case, index: int) -> bool:
    """Whether the device asks for a notification of the first buffers: it may decline them.

    VIRTIO 1.2 "Available Buffer Notification Suppression", "Event Suppression Structure Format".
    """
    here = case.transport.queues[index].queue
    if here is None:
        return False
    layout, has_event = here.layout, case.life.accepted & mask(VIRTIO_RING_F_EVENT_IDX)
    place = layout.device_area
    if not case.is_packed and has_event:
        place += 4 + 8 * layout.size  # avail_event
    try:
        words = case.transport.memory.view(place, 4 if case.is_packed else 2)
        value = int.from_bytes(words, "little")
    except (Error, ValueError):
        return False
    if case.is_packed:
        place_of_event, flags = value & 0xFFFF, value >> 16 & 3
        return flags == ENABLE or (flags == DESC and place_of_event == FIRST_ENTRY)
    return value == 0  # avail_event is the first buffer's, or the flag NO_NOTIFY is clear


_NOTHING: Final = {
    False: {
        "what": "avail.idx is still 0",
        "wanted": "avail.idx = 1 after the first chain is in avail.ring[0]",
        "next": "add 1 to avail.idx after ring[idx % size], behind a barrier; check the address of"
        " the driver area",
    },
    True: {
        "what": "entry 0 of the ring is not available",
        "wanted": "AVAIL (bit 7) = 1 and USED (bit 15) = 0 in the flags of entry 0",
        "next": "write the flags last, behind a barrier; check the address of the descriptor area",
    },
}


def _is_of_the_other_lap(case: Case, one: QueuePosition, queue: QueueLife) -> bool:
    """Whether the next entry of a packed ring was made available with the wrong wrap counter.

    An entry in the midst of a list keeps the flags of the lap before, which look the same: only the
    entries that begin a list, and those that nobody used, tell.
    """
    here = case.transport.queues[one.queue].queue
    slot = one.next_avail % max(queue.size, 1)
    if here is None or case.lossy or not queue.slots.get(slot, True):
        return False
    if queue.taken and case.life.accepted & mask(VIRTIO_RING_F_INDIRECT_DESC):
        return False
    try:
        place = here.layout.descriptor_area + DESCRIPTOR_BYTES * slot + 14
        flags = int.from_bytes(case.transport.memory.view(place, 2), "little")
    except (Error, ValueError):
        return False
    available, used = bool(flags & AVAIL), bool(flags & USED)
    return available != used and available != (one.next_avail < queue.size)
