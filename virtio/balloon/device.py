"""The memory balloon: pages from the guest for the host, and back.

VIRTIO 1.4 "Traditional Memory Balloon Device". Four ways lead a page to the host. The guest puts it
into the balloon, which is as large as the host asks; it reports it while it is free; it hints that
it was free a moment ago. The first two are given back to the host at once.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Iterator
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, Protocol

from virtio.balloon.hints import DONE, FIRST_ID, Hints
from virtio.balloon.pages import PAGE_BYTES, Range, ranges_of, whole_pages
from virtio.balloon.statistics import ENTRY, MAX_ENTRIES, BalloonStatistics
from virtio.device.declaration import DEFAULT_RING_FEATURES, Device, feature, field, queue
from virtio.device.doorbell import Doorbell
from virtio.device.handlers import TURN_NS
from virtio.errors import ConfigurationError
from virtio.saved import U32, checked
from virtio.virtqueue.chain import VIRTQ_DESC_F_WRITE

if TYPE_CHECKING:
    from virtio.device.lifecycle import Activation
    from virtio.virtqueue.chain import DescriptorChain
    from virtio.virtqueue.queue import Queue

QUEUE_SIZE: Final = 128
"""Linux reports nothing unless it can name 32 ranges at once."""

NUMBER: Final = Struct("<I")
NUMBERS_BYTES: Final = 256 * NUMBER.size
"""Of how many page numbers, in bytes, one step takes care: as many as Linux sends at once."""

POLL, ASK, END = range(3)  # what the host may want of a live device


class Discard(Protocol):
    """Gives pages of RAM back to the host; they then hold anything, or zeros if ``zeroed``.

    It may leave some as they are, which must be all of them where it cannot keep that promise.
    """

    def __call__(self, address: int, length: int, *, zeroed: bool) -> object:
        """Give back ``length`` bytes at a guest-physical address, whole pages inside RAM."""


class Balloon(Device):
    """Gives what the guest can do without to ``discard``, in pieces that are bounded.

    ``num_pages`` is how large the host wants the balloon, in pages of 4096 bytes; ``actual`` how
    large the driver says that it is, which proves nothing (``BAL-03``). ``on_actual(pages)`` hears
    of that, ``on_statistics(statistics)`` of the guest's counts, which :meth:`poll` asks for,
    and ``on_hinted()`` of the end of what :meth:`ask_for_hints` began: on the device's thread, and
    ``on_actual`` on that of a vCPU. ``host_page_bytes`` is the size of the host's pages.
    """

    device_id = 5
    in_order = True

    VIRTIO_BALLOON_F_MUST_TELL_HOST = feature(0)
    VIRTIO_BALLOON_F_STATS_VQ = feature(1)
    VIRTIO_BALLOON_F_DEFLATE_ON_OOM = feature(2, when=lambda device: device.deflates_on_oom)
    VIRTIO_BALLOON_F_FREE_PAGE_HINT = feature(3)
    VIRTIO_BALLOON_F_PAGE_POISON = feature(4)
    VIRTIO_BALLOON_F_REPORTING = feature(5)

    num_pages = field("u32", 0x00)
    actual = field("u32", 0x04, writable=True)
    free_page_hint_cmd_id = field("u32", 0x08, feature=VIRTIO_BALLOON_F_FREE_PAGE_HINT)
    poison_val = field("u32", 0x0C, feature=VIRTIO_BALLOON_F_PAGE_POISON, writable=True)

    def __init__(
        self,
        discard: Discard,
        *,
        deflates_on_oom: bool = True,
        host_page_bytes: int = mmap.PAGESIZE,
        ring_features: int = DEFAULT_RING_FEATURES,
    ) -> None:
        self.deflates_on_oom = deflates_on_oom
        super().__init__(ring_features=ring_features)
        self.on_actual: Callable[[int], object] = bool
        self.on_statistics: Callable[[BalloonStatistics], object] = bool
        self.on_hinted: Callable[[], object] = bool
        self._discard = discard
        self._host_page_bytes = host_page_bytes
        self._work: dict[int, tuple[DescriptorChain, Iterator[None]]] = {}
        self._statistics_buffer: DescriptorChain | None = None
        self._hints = Hints()
        self._bell = Doorbell(self._answer)

    # The host's side

    def poll(self) -> None:
        """Ask the guest for its statistics, unless it has been asked; from any thread."""
        self._bell.ring(POLL)

    @property
    def can_hint(self) -> bool:
        """Whether a driver is there that hints at free pages, which may hold zeros then."""
        return (
            self.activation is not None
            and self.VIRTIO_BALLOON_F_FREE_PAGE_HINT
            and not self._is_poisoned
        )

    @property
    def _is_poisoned(self) -> bool:
        """Whether the guest sees to it that its free pages hold something else than zeros."""
        return self.VIRTIO_BALLOON_F_PAGE_POISON and bool(self.poison_val)

    def ask_for_hints(self) -> None:
        """Ask, anew, which pages are free; from any thread."""
        self._bell.ring(ASK)

    def end_hints(self) -> None:
        """Let the guest have the pages that it hinted at; from any thread."""
        self._bell.ring(END)

    @property
    def hints(self) -> list[Range] | None:
        """What the guest hinted at; None while it has not told all. For a device that is frozen."""
        return self._hints.ranges if self._hints.is_complete else None

    @property
    def hint_count(self) -> int:
        """How many ranges the guest has hinted at so far."""
        return len(self._hints.ranges)

    def _answer(self, rung: set[int]) -> None:
        if POLL in rung and self._statistics_buffer is not None:
            buffer, self._statistics_buffer = self._statistics_buffer, None
            buffer.complete(0)
        if END in rung and self.free_page_hint_cmd_id >= FIRST_ID:
            self._hints.end()
            self.free_page_hint_cmd_id = DONE
        if ASK in rung and self.can_hint:
            self.free_page_hint_cmd_id = self._hints.begin()

    # Queues

    @queue(size=QUEUE_SIZE, manual=True)
    def inflate(self, queue: Queue) -> bool:
        """Give back the pages that the guest puts into the balloon (``BAL-01``, ``BAL-02``)."""
        return self._turn(queue, self._inflated)

    @queue(size=QUEUE_SIZE)
    def deflate(self, chain: DescriptorChain) -> int:
        """Let the guest have pages again, which the host makes anew when they are touched."""
        return 0

    @queue(size=QUEUE_SIZE, feature=VIRTIO_BALLOON_F_STATS_VQ)
    def stats(self, chain: DescriptorChain) -> None:
        """Take statistics, and hold their buffer until more are wanted (``BAL-04``)."""
        older, self._statistics_buffer = self._statistics_buffer, chain
        if older is not None:  # a driver that adds two has not been asked twice
            older.complete(0)
        self.on_statistics(BalloonStatistics.of(chain.read(MAX_ENTRIES * ENTRY.size)))

    @queue(size=QUEUE_SIZE, feature=VIRTIO_BALLOON_F_FREE_PAGE_HINT)
    def hint(self, chain: DescriptorChain) -> int:
        """Note which pages are free, and leave them as they are (``BAL-05``)."""
        command = chain.read(NUMBER.size)
        if len(command) == NUMBER.size and self._hints.hear(*NUMBER.unpack(command)):
            self.on_hinted()
        for part in _writable(chain):
            self._hints.add(part)
        return 0

    @queue(size=QUEUE_SIZE, feature=VIRTIO_BALLOON_F_REPORTING, manual=True)
    def report(self, queue: Queue) -> bool:
        """Give back pages that are free until their buffer goes back (``BAL-06``)."""
        return self._turn(queue, self._reported)

    def _turn(self, queue: Queue, steps_of: Callable[[DescriptorChain], Iterator[None]]) -> bool:
        """Do what chains ask for, step by step, until a turn's time is over.

        A chain may name all of memory, page by page: the next turn goes on with it.
        """
        end_ns = time.monotonic_ns() + TURN_NS
        queue.disable_notification()
        try:
            while time.monotonic_ns() < end_ns:
                if queue.index not in self._work:
                    chain = queue.pop()
                    if chain is None:
                        return queue.enable_notification()
                    self._work[queue.index] = chain, steps_of(chain)
                chain, steps = self._work[queue.index]
                if next(steps, True):
                    del self._work[queue.index]
                    queue.add_used(chain, 0)
        finally:
            queue.notify()
        return True

    def _inflated(self, chain: DescriptorChain) -> Iterator[None]:
        for offset in range(0, chain.readable_length, NUMBERS_BYTES):
            data = chain.read(NUMBERS_BYTES, offset)
            numbers = NUMBER.iter_unpack(data[: len(data) // NUMBER.size * NUMBER.size])
            for part in ranges_of(number for (number,) in numbers):
                yield from self._give_back(part, zeroed=False)
            yield

    def _reported(self, chain: DescriptorChain) -> Iterator[None]:
        """Give back free pages, but for those that must hold something else than zeros."""
        if self._is_poisoned:
            return
        for part in _writable(chain):
            yield from self._give_back(part, zeroed=self.VIRTIO_BALLOON_F_PAGE_POISON)

    def _give_back(self, part: Range, *, zeroed: bool) -> Iterator[None]:
        if self.activation is None:
            return
        regions = self.activation.memory.regions
        for address, length in whole_pages(part, regions, self._host_page_bytes):
            self._discard(address, length, zeroed=zeroed)
            if length > PAGE_BYTES:
                yield

    @actual.written
    def _actual_written(self, pages: int) -> bool:
        self.on_actual(pages)
        return True

    # Life, reset and state

    def activate(self, activation: Activation) -> None:
        """Go live; a driver that was hinting when it was saved is told that this is over."""
        super().activate(activation)
        self._bell.connect(activation.loop)
        self._bell.ring(END)

    def disable_queue(self, index: int) -> None:
        """Let go of the chain that is worked on, or held."""
        self._forget(index)
        super().disable_queue(index)

    def _forget(self, index: int) -> None:
        self._work.pop(index, None)
        held = self._statistics_buffer
        if held is not None and held.owner.index == index:
            self._statistics_buffer = None

    def reset(self) -> None:
        """Let go of all chains and hints; ``num_pages`` stays what the host wants."""
        self._bell.connect(None)
        super().reset()
        self._work.clear()
        self._statistics_buffer = None
        self._hints.forget()
        with self.config_lock:
            self.config_values.pop("free_page_hint_cmd_id", None)

    def state(self) -> dict[str, Any]:
        """Return what a copy of the machine needs to know; it uses no hint of this one's."""
        return super().state() | {"last_hint_id": self._hints.last_id}

    def restore(self, state: dict[str, Any]) -> None:
        """Take it over."""
        last_id = checked(U32, "balloon last_hint_id", state["last_hint_id"])
        if last_id < FIRST_ID - 1:
            raise ConfigurationError(f"saved balloon last_hint_id is {last_id}, must be 1 or more")
        super().restore(state)
        self._hints.last_id = last_id


def _writable(chain: DescriptorChain) -> Iterator[Range]:
    """Yield the buffers that stand for pages."""
    return (
        (address, length)
        for address, length, flags in chain.descriptors
        if flags & VIRTQ_DESC_F_WRITE
    )
