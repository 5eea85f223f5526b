"""Moving data between the guest's memory and the medium: in place, in steps, or by a thread.

What the host has in its memory is read in place, into the guest's own. A write is one to the
host's page cache for the media that native code knows, and is done in place too: it waits only
where the host makes a writer wait that is ahead of its disks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from virtio.block.backend import SECTOR_BYTES, BlockBackend
from virtio.block.request import Refused
from virtio.device.calls import WaitingCalls, Work
from virtio.scatter import cut
from virtio.virtqueue.request import Request

if TYPE_CHECKING:
    from virtio.device.lifecycle import EventLoop, TimerHandle

STEP_BYTES: Final = 8 << 20

THREAD_STEP_BYTES: Final = 2 << 20
"""What a thread moves in one call; eight of them use up to 16 MiB."""

Check = Callable[[int, int], None]
"""Raises :class:`Refused` when so many bytes from a sector on are not all on the disk."""


class Transfer:
    """The data of a read or write, on its way: ``left`` bytes still to be moved.

    ``sector`` is where it goes on on the medium, ``writes`` the direction.
    """

    __slots__ = ("left", "request", "sector", "views", "writes")

    def __init__(self, request: Request, sector: int, *, writes: bool) -> None:
        self.request = request
        self.sector = sector
        self.writes = writes
        self.views: Sequence[memoryview] = request.data_out if writes else request.data_in
        self.left = request.data_out_bytes if writes else request.data_in_bytes

    def next_part(self, most: int) -> Sequence[memoryview]:
        """Return the next bytes, ``most`` of them or what is left."""
        return cut(self.views, most)[0]

    def advance(self, count: int) -> bool:
        """Go on behind so many bytes; returns whether they were the last."""
        self.views = cut(self.views, count)[1]
        self.left -= count
        self.sector += count // SECTOR_BYTES
        return not self.left


class Transfers:
    """Moves data that is not moved in place at once. ``ended`` gets each transfer, and its error.

    In one turn of the loop about ``STEP_BYTES`` are moved, then others have theirs (``SPL-23``).
    """

    def __init__(
        self,
        backend: BlockBackend,
        calls: WaitingCalls,
        check: Check,
        ended: Callable[[Transfer, Exception | None], None],
    ) -> None:
        self._backend = backend
        self._calls = calls
        self._check = check
        self._ended = ended
        self._loop: EventLoop | None = None
        self._timer: TimerHandle | None = None
        self._pending: deque[Transfer] = deque()

    def connect(self, loop: EventLoop | None) -> None:
        """Serve the requests of an activation, and let go of those of the one before."""
        self._loop = loop
        self._pending.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def forget(self, queue: int) -> None:
        """Let go of the requests of one queue."""
        self._pending = deque(one for one in self._pending if one.request.queue_index != queue)

    def put_off(self, request: Request, sector: int, *, writes: bool) -> None:
        """Move the data of a request in steps, the first at once if no other is before it."""
        transfer = Transfer(request, sector, writes=writes)
        if self._pending or transfer.left <= STEP_BYTES or not self._step(transfer):
            self._pending.append(transfer)
        self._go_on_soon()

    def wait(self, request: Request, sector: int, *, writes: bool) -> None:
        """Have the data of a request moved by a thread, as that has to wait."""
        self._have_moved(Transfer(request, sector, writes=writes))

    def _step(self, transfer: Transfer) -> bool:
        """Move one step in place, or have a thread do that; whether the latter.

        The range is checked against the capacity of this moment (``BLK-38``).
        """
        self._check(transfer.sector, transfer.left)
        part = transfer.next_part(STEP_BYTES)
        offset, backend = transfer.sector * SECTOR_BYTES, self._backend
        if transfer.writes:
            done = not self._calls.changing and backend.try_writev(part, offset)
        else:
            done = backend.try_readv(part, offset)
        if done:
            transfer.advance(min(transfer.left, STEP_BYTES))
        else:
            self._have_moved(transfer)
        return not done

    def _go_on_soon(self) -> None:
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(0, self._go_on)

    def _go_on(self) -> None:
        """Move what waits, as much as fits into one turn."""
        self._timer = None
        left = STEP_BYTES
        while self._pending and left > 0:
            transfer = self._pending.popleft()
            left -= transfer.left
            try:
                if self._step(transfer):
                    continue
            except (Refused, OSError) as error:
                self._ended(transfer, error)
                continue
            if transfer.left:
                self._pending.append(transfer)
            else:
                self._ended(transfer, None)
        if self._pending:
            self._go_on_soon()

    # By a thread

    def _have_moved(self, transfer: Transfer) -> None:
        """Have a thread move the next part, by way of memory of our own."""
        length = min(transfer.left, THREAD_STEP_BYTES)
        bounce = bytearray()
        self._calls.make(
            partial(self._bounced, transfer, bounce, length),
            partial(self._moved, transfer, bounce, length),
            queue=transfer.request.queue_index,
            changes=transfer.writes,
        )

    def _bounced(self, transfer: Transfer, bounce: bytearray, length: int) -> Work:
        """Return the call to be made; nothing in it refers to the guest's memory.

        The capacity may be another since the request waits for a thread (``BLK-38``).
        """
        self._check(transfer.sector, transfer.left)
        offset = transfer.sector * SECTOR_BYTES
        if transfer.writes:
            for view in transfer.next_part(length):
                bounce += view
            return partial(self._backend.writev, [memoryview(bounce)], offset)
        bounce += bytes(length)
        return partial(self._backend.readv, [memoryview(bounce)], offset)

    def _moved(
        self, transfer: Transfer, bounce: bytearray, length: int, error: Exception | None
    ) -> None:
        if error is not None:
            self._ended(transfer, error)
            return
        if not transfer.writes:
            start = 0
            with memoryview(bounce) as data:
                for view in transfer.next_part(length):
                    view[:] = data[start : start + len(view)]
                    start += len(view)
        if transfer.advance(length):
            self._ended(transfer, None)
        else:
            self._pending.append(transfer)
            self._go_on_soon()
