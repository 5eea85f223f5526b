"""What a driver does in the rings, and how it notifies: by what a device sees there.

VIRTIO 1.2 2.7, 2.8, 4.2.3.3, 4.2.3.4.
"""

from __future__ import annotations

from typing import Final

from transport.pci.registers import NO_BUS_MASTER
from transport.status import STOPPED, status_names
from virtio.features import VIRTIO_F_NOTIFICATION_DATA, mask
from vmm.driver_check.case import Case, Suspect
from vmm.driver_check.duties import load_duties
from vmm.trace.events import NO_QUEUE, Breach, Completed, Dropped, Kick, Taken

DEFINED_INTERRUPTS: Final = 3

_BY_ITEM: Final = {
    "SPL-02": "queue-size-impossible",
    "PKD-02": "queue-size-impossible",
    "SPL-03": "queue-misaligned",
    "SPL-04": "queue-outside-memory",
}
_OF_EVERY_CHAIN: Final = ("DRV-RNG-04", "DRV-RNG-05", "DRV-RNG-06")
_OF_SPLIT_CHAINS: Final = ("DRV-RNG-01", "DRV-RNG-02", "DRV-RNG-03")
_OF_PACKED_CHAINS: Final = ("DRV-RNG-13", "DRV-RNG-15")


def breach(case: Case, event: Breach) -> None:
    """Judge a breach that the device itself saw."""
    if not event.item:
        return  # the device failed, and not the driver
    found = load_duties().by_item.get(event.item)
    name = _BY_ITEM.get(event.item) or (found.id if found else "device-rule-broken")
    message = event.message.removeprefix(f"{event.item}: ").removeprefix(f"queue {event.queue}: ")
    if name == "queue-size-impossible":
        queue = case.life.queue(event.queue)
        if "QueueSize" in queue.written:  # told when it was written
            return
        register, most = case.called("QueueSizeMax"), case.max_size(event.queue)
        case.finds(name, event.queue, size=0, most=most, register=register)
        return
    case.finds(name, event.queue, message=message, item=event.item)


def taken(case: Case, event: Taken) -> None:
    """Judge a chain that the device took."""
    queue = case.life.queue(event.queue)
    if not queue.taken:
        for duty in _OF_EVERY_CHAIN:
            case.keeps(duty)
        for duty in _OF_PACKED_CHAINS if case.is_packed else _OF_SPLIT_CHAINS:
            case.keeps(duty)
        case.keeps("DRV-NTF-04")
        if case.kind == "pci":
            case.keeps("DRV-PCI-02")
    queue.taken += 1
    if queue.size and event.total > queue.size:
        size = queue.size
        case.finds("chain-longer-than-queue", event.queue, total=event.total, size=size)
    elif event.total > 1:
        case.keeps("DRV-RNG-11")
    if event.id in queue.out:
        case.suspects.setdefault((event.queue, event.id), Suspect(event.at, case.batch))
    queue.out.add(event.id)
    if case.is_packed and queue.size:
        for number in range(min(event.total, queue.size)):
            queue.slots[(queue.place + number) % queue.size] = number == 0
        queue.place = (queue.place + event.total) % queue.size


def completed(case: Case, event: Completed) -> None:
    """Note that a chain went back."""
    suspect = case.suspects.pop((event.queue, event.id), None) if case.suspects else None
    if suspect is not None and event.at <= suspect.at:
        return  # and is out again, as was told before
    if suspect is not None:
        case.finds("chain-reused", event.queue, id=event.id)
    queue = case.life.queue(event.queue)
    if event.id in queue.out:
        queue.out.remove(event.id)
        queue.returned += 1
        if queue.returned == 1:
            case.keeps("DRV-RNG-12")
            case.keeps("DRV-DEV-01")


def judge_suspects(case: Case, *, last: bool = False) -> None:
    """Tell of chains that were taken twice, once no record that explains it can come any more.

    Native code and Python tell of a queue in two ways. Whoever empties both at once may get a chain
    that was taken again before the word that it had gone back.
    """
    for (queue, number), suspect in list(case.suspects.items()):
        if last or suspect.batch < case.batch:
            del case.suspects[queue, number]
            case.finds("chain-reused", queue, id=number)


def lost(case: Case) -> None:
    """Forget what depends on every record having been read."""
    case.lossy = True
    case.suspects.clear()
    for queue in case.life.queues.values():
        queue.out.clear()


# Notifications


def kick(case: Case, event: Kick) -> None:
    """Judge notifications that the device heard."""
    queue = case.life.queue(event.queue)
    queue.kicks += event.count
    if not queue.heard and case.is_live and queue.ready:
        queue.heard = True
        for duty in ("DRV-NTF-01", "DRV-NTF-02", "DRV-NTF-03"):
            case.keeps(duty)


def dropped(case: Case, event: Dropped) -> None:
    """Judge what had no effect: notifications that nobody heard."""
    if event.queue != NO_QUEUE:
        _judge_unheard(case, event.queue)
    elif event.what == NO_BUS_MASTER:
        case.finds("no-bus-master")


def notified(case: Case, value: int) -> None:
    """Judge a notification by a register; most never come to one."""
    if case.life.accepted & mask(VIRTIO_F_NOTIFICATION_DATA):
        value &= 0xFFFF
    if not case.max_size(value):
        register, last = case.called("QueueNotify"), case.queue_count - 1
        case.finds("kick-of-missing-queue", number=value, register=register, last=last)
    elif not case.is_live or not case.life.queue(value).ready:
        _judge_unheard(case, value)


def _judge_unheard(case: Case, index: int) -> None:
    if case.status & STOPPED:
        return  # a device that needs a reset hears nothing, and its driver need not know
    queue = case.life.queue(index)
    if not case.is_live or queue.ready:  # then it came just before DRIVER_OK
        before = "before DRIVER_OK" if case.is_live else status_names(case.status)
        case.finds("kick-before-driver-ok", index, before=before)
    else:
        case.finds("kick-of-disabled-queue", index)


# Interrupts


def acknowledged(case: Case, value: int) -> None:
    """Judge a write to InterruptACK."""
    life = case.life
    if value & ~DEFINED_INTERRUPTS:
        case.finds("acknowledged-undefined", value=value)
    else:
        case.keeps("DRV-INT-02")
    if life.interrupts and life.complete and "InterruptStatus" not in life.read:
        case.finds("acknowledged-unread")
    elif life.interrupts:
        case.keeps("DRV-INT-01")
    life.acknowledged += 1
