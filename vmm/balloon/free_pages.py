"""Small snapshots: which pages a guest does without, found just before it is saved.

The problem. A guest that frees memory leaves it as it was, and a snapshot would hold it all. Linux
reports free blocks, but seconds after they were freed, a part at a time. It hints at all of them at
once when it is asked; but it may take any of them back, at any moment, without a word, and write to
it (the shrinker of Linux virtio_balloon.c).

What does not work. To give a page back when the hint comes: what the guest wrote since it made the
hint would be lost. To hold the guest first changes nothing: the page may be in use by then.

What we do. Just before we ask, KVM forgets what the guest has written, and the state of all other
devices is noted. After the answer the guest gets its pages back, which a copy of it would otherwise
begin with, and is held. KVM says what it wrote since then. A page
that was hinted at, and that nobody wrote, is free or was never used: the guest cannot expect
anything in it, so that a snapshot can leave it out. The guest that was saved keeps it as it is.
KVM does not see what our devices write, nor our emulator. So when one of them wrote anything in
between, or works on a request that is new, no page is left out.

What remains. A snapshot of a guest that is busy reading from devices is as large as it would be
without all this, and so is one of a guest whose free memory is in pieces: Linux hints at blocks of
4 MiB. A guest that lies loses the pages that it lied about, when it is restored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final

from virtio.balloon.pages import PAGE_BYTES, Range
from virtio.log import Logger
from vmm.host.runs import runs

if TYPE_CHECKING:
    from transport.state import TransportState
    from vmm.balloon.host import MachineBalloon
    from vmm.hardware import Hardware
    from vmm.host.files import Extent

    States = dict[str, TransportState]

_log = Logger(__name__)

_UNWRITTEN: Final = [bytes(1 - (byte >> bit & 1) for bit in range(8)) for byte in range(256)]
"""For a byte of KVM's bitmap, a mark for each of its pages that was not written."""


@contextmanager
def frozen_with_free_pages(
    hardware: Hardware,
    balloon: MachineBalloon,
    frozen: Callable[[], AbstractContextManager[States]],
) -> Iterator[tuple[States, list[Extent]]]:
    """Freeze a machine by ``frozen`` for the block, just after its guest told what is free.

    Gives what ``frozen`` gives, and which parts of the file of guest RAM can be left out.
    """
    with frozen() as states:
        found = FreePages(hardware, balloon, states)
    hints = balloon.hints()
    with frozen() as states:
        yield states, found.unused(hints, states)


class FreePages:
    """Which pages a guest does without, found between two moments in which it stands still."""

    def __init__(
        self,
        hardware: Hardware,
        balloon: MachineBalloon,
        states: Mapping[str, TransportState],
    ) -> None:
        """Begin, while the guest stands still and the devices are in these ``states``, by name."""
        self._hardware = hardware
        self._balloon = balloon
        self._before = self._own_work(states)
        hardware.platform.guest_writes()

    def unused(self, hints: Sequence[Range], states: Mapping[str, TransportState]) -> list[Extent]:
        """Return which parts of the file of guest RAM are pages in ``hints`` that nobody wrote to.

        While the guest stands still again, and the devices are in these ``states``.
        """
        if hints and self._own_work(states) != self._before:
            _log.info("balloon: devices were at work: the snapshot has free memory in it")
            return []
        ram = self._hardware.ram
        ranges = unwritten(hints, ram.regions, self._hardware.platform.guest_writes())
        return [(ram.file_offset(address), length) for address, length in ranges]

    def _own_work(self, states: Mapping[str, TransportState]) -> tuple[object, ...]:
        """Return what changes whenever this program writes to guest memory, the balloon apart.

        Rings lie in memory that their driver holds. So do the buffers of a request that was there
        before and still is. What is behind the length that the driver is told means nothing to it.
        """
        devices = [
            (one.name, one.stats.bytes_written, _status_and_requests(states[one.name]))
            for one in self._hardware.transports
            if one.device is not self._balloon.device
        ]
        return devices, self._hardware.platform.emulator_writes


def _status_and_requests(state: TransportState) -> tuple[object, ...]:
    """Return a device's status and the requests that it works on."""
    return state.status, [one.queue and one.queue.outstanding for one in state.queues]


def unwritten(
    hints: Iterable[Range], regions: Sequence[Range], written: Sequence[bytes]
) -> Iterator[Range]:
    """Yield what of the hinted ranges was not written, as whole pages, in order.

    ``written`` has a bitmap of the pages of each region, the first page in the lowest bit.

    >>> list(unwritten([(0x1000, 0x7800)], [(0, 0x10000)], [bytes([0b101, 0])]))
    [(4096, 4096), (12288, 20480)]
    """
    merged = _merged(hints)
    for (start, size), bitmap in zip(regions, written, strict=True):
        for address, length in merged:
            first = -(-(max(address, start) - start) // PAGE_BYTES)
            end = (min(address + length, start + size) - start) // PAGE_BYTES
            if first >= end:
                continue
            low = first // 8
            marks = b"".join([_UNWRITTEN[byte] for byte in bitmap[low : -(-end // 8)]])
            for page, count in runs(marks[first - 8 * low : end - 8 * low]):
                yield start + (first + page) * PAGE_BYTES, count * PAGE_BYTES


def _merged(ranges: Iterable[Range]) -> list[Range]:
    """Return ranges in order, each byte once: a driver may name all of memory again and again."""
    found: list[Range] = []
    for address, length in sorted(ranges):
        if found and address <= sum(found[-1]):
            first = found[-1][0]
            found[-1] = first, max(sum(found[-1]), address + length) - first
        else:
            found.append((address, length))
    return found
