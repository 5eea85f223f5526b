"""The set-up of queues by registers, and the vectors of MSI-X.

VIRTIO 1.2 4.2.2.2, 4.2.3.2, 4.1.4.3.2, 4.1.5.1.3.
"""

from __future__ import annotations

from typing import Final

from transport.pci.msix import NO_VECTOR
from transport.pci.registers import VirtioPci
from transport.status import status_names
from virtio.features import VIRTIO_F_RING_RESET, mask
from vmm.driver_check.case import Case, QueueLife
from vmm.driver_check.steps import going_on
from vmm.trace.events import NO_QUEUE, QueueEnabled

AREAS: Final = {
    "QueueDescLow": "descriptor area",
    "QueueDriverLow": "driver area",
    "QueueDeviceLow": "device area",
}
HALVES: Final = {"QueueDescHigh", "QueueDriverHigh", "QueueDeviceHigh"}
VECTORS: Final = {"queue_msix_vector", "config_msix_vector"}
OF_A_QUEUE: Final = {*AREAS, *HALVES, "QueueSize", "QueueReady", "QueueReset", "queue_msix_vector"}


def selected(case: Case) -> int:
    """Return the queue that the registers speak of; none when nobody saw it selected."""
    return case.life.selected.get("QueueSel", 0 if case.life.complete else NO_QUEUE)


def queue_written(case: Case, name: str, register: str, value: int) -> None:
    """Judge a write to a register ``name`` of the selected queue, called ``register``."""
    index = selected(case)
    if index == NO_QUEUE:
        return
    if not case.max_size(index):
        last, most = case.queue_count - 1, case.called("QueueSizeMax")
        case.finds("queue-missing", number=index, register=register, last=last, size_register=most)
        return
    case.keeps("DRV-QUE-07")
    queue = case.life.queue(index)
    if name == "QueueSize":
        _judge_size(case, index, queue, value)
    elif name in AREAS or name in HALVES:
        _judge_change(case, index, queue, register)
        queue.written.add(name)
    elif name == "QueueReady":
        _judge_ready(case, index, queue, value)
    elif name == "QueueReset":
        if case.life.accepted & mask(VIRTIO_F_RING_RESET):
            queue.resetting = True
        else:
            case.finds("queue-reset-not-negotiated", index, register=register)


def _judge_change(case: Case, index: int, queue: QueueLife, register: str) -> None:
    if queue.ready:
        case.finds("queue-changed-while-enabled", index, register=register)
    else:
        case.keeps("DRV-QUE-06")


def _judge_size(case: Case, index: int, queue: QueueLife, size: int) -> None:
    most = case.max_size(index)
    if not 1 <= size <= most:
        register = case.called("QueueSizeMax")
        case.finds("queue-size-impossible", index, size=size, most=most, register=register)
    else:
        case.keeps("DRV-QUE-01")
        if not case.is_packed:
            if size & (size - 1):
                case.finds("queue-size-not-power-of-two", index, size=size)
            else:
                case.keeps("DRV-QUE-02")
    _judge_change(case, index, queue, "the size")
    queue.written.add("QueueSize")


def _judge_ready(case: Case, index: int, queue: QueueLife, value: int) -> None:
    if case.kind == "pci" and value != 1:
        case.finds("queue-enable-zero", index, value=value)
        return
    if value == 0:
        case.life.stopping = index if queue.ready else None
        return
    if queue.ready:
        return
    if case.kind == "pci":
        case.keeps("DRV-QUE-08")
    if not case.has_features and not case.life.refused:
        case.finds("queue-before-features-ok", index, before=status_names(case.status))
    else:
        going_on(case, "the queues")
    if case.is_live and not case.life.accepted & mask(VIRTIO_F_RING_RESET):
        case.finds("queue-after-driver-ok", index)
    elif case.has_features:
        case.keeps("DRV-INI-07")
    if queue.resetting:
        register = case.called("QueueReset")
        case.finds("queue-reset-not-waited", index, register=register)
    if case.life.complete:
        _judge_complete(case, index, queue)


def _judge_complete(case: Case, index: int, queue: QueueLife) -> None:
    missing = [area for register, area in AREAS.items() if register not in queue.written]
    if missing:
        case.finds("queue-without-addresses", index, missing=" and ".join(missing))
    elif case.kind == "mmio" and "QueueSize" not in queue.written:
        case.finds("queue-size-never-written", index, most=case.max_size(index))
    else:
        case.keeps("DRV-QUE-05")


def queue_read(case: Case, name: str, value: int) -> None:
    """Judge a read of a register of the selected queue."""
    index = selected(case)
    if name == "QueueReset" and value == 0 and index in case.life.queues:
        queue = case.life.queue(index)
        if queue.resetting:
            queue.resetting = False
            case.keeps("DRV-QUE-10")


def queue_enabled(case: Case, event: QueueEnabled) -> None:
    """Note that a queue came or went."""
    index = event.queue
    before = case.life.queue(index)
    if not event.size:
        case.life.queues[index] = QueueLife(resetting=before.resetting)
        return
    before.ready, before.size, before.resetting = True, event.size, False
    case.keeps("DRV-QUE-03")
    case.keeps("DRV-QUE-04")


def stopping(case: Case, name: str, register: str, *, is_write: bool) -> None:
    """Judge the access after QueueReady = 0, which has to read that back."""
    index, case.life.stopping = case.life.stopping, None
    if index is None:
        return
    if name == "QueueReady" and not is_write:
        case.keeps("DRV-QUE-09")
    else:
        case.finds("queue-stop-not-read-back", index, register=register)


def vector_accessed(case: Case, register: str, value: int, *, is_write: bool) -> None:
    """Judge an access to a vector field."""
    index = selected(case) if register == "queue_msix_vector" else NO_QUEUE
    if index != NO_QUEUE and not case.max_size(index):
        return
    key = register if index == NO_QUEUE else f"{register} of queue {index}"
    if not is_write:
        if case.life.unread_vectors.pop(key, None) is not None:
            case.keeps("DRV-PCI-01")
        return
    if value == NO_VECTOR:
        case.life.unread_vectors.pop(key, None)
        return
    case.life.unread_vectors[key] = value
    if isinstance(case.transport, VirtioPci):
        count = case.transport.msix.vectors.count
        if value >= count:
            last = count - 1
            case.finds(
                "vector-refused", index, register=register, value=value, count=count, last=last
            )
