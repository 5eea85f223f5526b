"""The queues of a device class: how a method is declared to serve one, and how it is called.

VIRTIO 1.4 "Virtqueues".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from virtio import engine
from virtio.device.configuration import Feature
from virtio.errors import InternalError
from virtio.virtqueue.batch import ChainBatch

if TYPE_CHECKING:
    from virtio.device.declaration import Device
    from virtio.native.ring import DataPath
    from virtio.virtqueue.queue import Queue

Method = TypeVar("Method", bound=Callable[..., Any])

NATIVE_BURST: Final = 256


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
    header: Struct | None = None
    native: str | None = None

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
    header: Struct | None = None,
    native: str | None = None,
) -> Callable[[Method], Method]:
    """Declare that a method serves a queue of at most ``size`` descriptors, a power of two.

    The method takes one chain and returns how many bytes it wrote to it, or ``None`` when it will
    call ``chain.complete`` later. With ``batch`` it takes a :class:`ChainBatch`, a
    sequence of up to ``burst`` chains, and returns one of those answers for each, in order; that
    pays where one call to the host can do for many chains, and where the lengths of the chains are
    all it needs. With ``header`` it takes a :class:`Request` whose header is of that
    layout, and answers as for a chain. With ``manual`` it takes the queue itself, pops, completes
    and re-arms notifications, and returns whether more is left to do at once.

    ``count``, a number or the name of the attribute that holds it, makes several queues of the
    kind; the method then gets the number among them, from 0, as second argument. They exist only
    with ``feature`` accepted; without ``multiqueue`` accepted there is one. ``burst`` is how many
    chains are served before other devices have their turn (``SPL-23``).

    ``native`` names the method that returns a :class:`DataPath` for the moment, or
    ``None``: it serves the ordinary chains, and the method here gets what it leaves.
    """

    def declare(method: Method) -> Method:
        kind = QueueKind(
            *(method.__name__, size, count, feature, multiqueue),
            *(batch, manual, burst, header, native),
        )
        method.virtqueue = kind  # type: ignore[attr-defined]
        return method

    return declare


class QueueSlot(NamedTuple):
    """A queue of a live device: its kind, its number within it, and what serves it."""

    kind: QueueKind
    number: int
    handler: Callable[[Any], Any]
    native: Callable[[], DataPath | None] | None = None

    @classmethod
    def of(cls, device: Device, kind: QueueKind, number: int) -> QueueSlot:
        """Return the slot of the ``number``-th queue of a kind."""
        method: Callable[..., Any] = getattr(device, kind.name)
        native = getattr(device, kind.native) if kind.native else None
        if kind.count is None:
            return cls(kind, number, method, native)
        return cls(kind, number, lambda work: method(work, number), native)

    def serve(self, queue: Queue) -> bool:
        """Serve one burst, tell the driver once, and re-arm; returns whether more may be left."""
        if self.kind.manual:
            return bool(self.handler(queue))
        patience = queue.patience()
        queue.disable_notification()
        path = None if self.native is None else self.native()
        if path is not None:
            end = self._serve_natively(queue, path, patience)
            if end != engine.LEFT:
                return end == engine.MORE or queue.enable_notification()
        left, wait_ns = self.kind.burst, 0
        header_bytes = 0 if self.kind.header is None else self.kind.header.size
        batch = ChainBatch(queue)
        lengths: Sequence[int | None] = ()
        while batch := queue.exchange(
            batch, lengths, left, wait_ns=wait_ns, header_bytes=header_bytes
        ):
            lengths = self._answers(batch)
            left -= len(lengths)
            wait_ns = patience if left > 0 else 0
        return left <= 0 or queue.enable_notification()

    def _serve_natively(self, queue: Queue, path: DataPath, patience: int) -> int:
        """Have native code serve up to ``NATIVE_BURST`` chains; returns why that ended."""
        left, end = NATIVE_BURST, engine.TELL
        while left > 0 and end == engine.TELL:
            served, end = queue.serve_natively(path, left, patience)
            left -= served or 1
            queue.notify()
        return engine.MORE if end == engine.TELL else end

    def _answers(self, batch: ChainBatch) -> Sequence[int | None]:
        """Call the handler; what it answered is used even when it fails on a later chain."""
        handler, layout = self.handler, self.kind.header
        answers: list[int | None] = []
        try:
            if self.kind.batch:
                given: Sequence[int | None] = handler(batch)
                if len(given) != len(batch):
                    message = f"{len(batch)} chains were handed over, {len(given)} answered"
                    raise InternalError(message)
                return given
            for one in batch.make_chains() if layout is None else batch.frames(layout):
                answers.append(handler(one))
        except Exception as error:
            error.add_note(f"in {self.kind.name}, at {batch[len(answers)]!r}")
            batch.complete(answers + [None] * (len(batch) - len(answers)))
            raise
        return answers
