"""The queues of a device class: how a method is declared to serve one, and how it is called.

VIRTIO 1.4 "Virtqueues".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from virtio.configuration import Feature
from virtio.errors import InternalError

if TYPE_CHECKING:
    from virtio.chain import DescriptorChain
    from virtio.declarative import Device
    from virtio.virtqueue import Queue

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class QueueKind:
    """What :func:`queue` says of a method: the queues that it serves, and how."""

    name: str
    size: int
    count: int | str | None
    feature: Feature | None
    multiqueue: Feature | None
    batch: bool
    manual: bool
    burst: int

    def number_under(self, device: Device, features: int) -> int:
        """Return how many queues of this kind exist under a feature set."""
        if self.feature is not None and not features & self.feature.mask:
            return 0
        if self.multiqueue is not None and not features & self.multiqueue.mask:
            return 1
        if self.count is None:
            return 1
        return self.count if isinstance(self.count, int) else int(getattr(device, self.count))


def queue(
    *,
    size: int,
    count: int | str | None = None,
    feature: Feature | None = None,
    multiqueue: Feature | None = None,
    batch: bool = False,
    manual: bool = False,
    burst: int = 64,
) -> Callable[[Method], Method]:
    """Declare that a method serves a queue of at most ``size`` descriptors, a power of two.

    The method takes one chain and returns how many bytes it wrote to it, or ``None`` when it will
    call ``chain.complete`` later. With ``batch`` it takes a list of chains and returns a list of
    those. With ``manual`` it takes the queue itself, pops, completes and re-arms notifications, and
    returns whether more is left to do at once.

    ``count``, a number or the name of the attribute that holds it, makes several queues of the
    kind; the method then gets the number among them, from 0, as second argument. They exist only
    with ``feature`` accepted; without ``multiqueue`` accepted there is one. ``burst`` is how many
    chains are served before other devices have their turn (``SPL-23``).
    """

    def declare(method: Method) -> Method:
        kind = QueueKind(method.__name__, size, count, feature, multiqueue, batch, manual, burst)
        method.virtqueue = kind  # type: ignore[attr-defined]
        return method

    return declare


@dataclass(frozen=True, slots=True)
class QueueSlot:
    """A queue of a live device: its kind, its number within it, and what serves it."""

    kind: QueueKind
    number: int
    handler: Callable[[Any], Any]

    @classmethod
    def of(cls, device: Device, kind: QueueKind, number: int) -> QueueSlot:
        """Return the slot of the ``number``-th queue of a kind."""
        method: Callable[..., Any] = getattr(device, kind.name)
        if kind.count is None:
            return cls(kind, number, method)
        return cls(kind, number, lambda work: method(work, number))

    def serve(self, queue: Queue) -> bool:
        """Serve one burst, tell the driver once, and re-arm; returns whether more may be left."""
        if self.kind.manual:
            return bool(self.handler(queue))
        queue.disable_notification()
        chains = queue.pop_many(self.kind.burst)
        if chains:
            self._hand_over(queue, chains)
        return len(chains) == self.kind.burst or queue.enable_notification()

    def _hand_over(self, queue: Queue, chains: list[DescriptorChain]) -> None:
        """Call the handler; what it completed is used even when it fails on a later chain."""
        lengths: list[int | None] = []
        try:
            self._call(chains, lengths)
        except Exception as error:
            at = chains[min(len(lengths), len(chains) - 1)]
            error.add_note(f"in {self.kind.name}, at {at!r}")
            raise
        finally:
            pairs = zip(chains, lengths, strict=False)
            queue.add_used_many([(chain, done) for chain, done in pairs if done is not None])
            queue.notify()

    def _call(self, chains: list[DescriptorChain], lengths: list[int | None]) -> None:
        handler = self.handler
        if not self.kind.batch:
            for chain in chains:
                lengths.append(handler(chain))
            return
        answers = handler(chains)
        if len(answers) != len(chains):
            raise InternalError(f"{len(chains)} chains were handed over, {len(answers)} answered")
        lengths.extend(answers)
