"""The queues of a device class: how a method is declared to handle one, and how it is called.

A queue either *answers* (the driver asks, the device completes) or is *filled* (the device has data
and wants buffers). VIRTIO 1.4 "Virtqueues".
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from struct import Struct
from types import CodeType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from virtio.dataclass import dataclass
from virtio.device.configuration import Feature
from virtio.errors import InternalError
from virtio.virtqueue.batch import ChainBatch
from virtio.virtqueue.ring import LEFT, MORE, TELL

if TYPE_CHECKING:
    from virtio.device.declaration import Device
    from virtio.native.data_path import DataPath
    from virtio.virtqueue.queue import Queue

Method = TypeVar("Method", bound=Callable[..., Any])

NATIVE_BURST: Final = 256
TURN_NS: Final = 2_000_000
"""After that much time in a turn others have theirs, whatever is left of the burst."""

CO_VARARGS, CO_VARKEYWORDS = 4, 8  # of code objects; the module inspect is not for a start


@dataclass(frozen=True, slots=True)
class QueueKind:
    """The declaration that :func:`queue` makes of a method: the queues it handles, and how."""

    name: str
    size: int
    count: int | str | None
    feature: Feature | None
    multiqueue: Feature | None
    batch: bool
    manual: bool
    burst: int
    header: Struct | None
    native: str | None
    fill: str | None

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
    fill: str | None = None,
) -> Callable[[Method], Method]:
    """Declare that a method handles a queue of at most ``size`` descriptors, a power of two.

    The method takes one chain and returns how many bytes it wrote to it, or ``None`` when it will
    call ``chain.complete`` later. With ``batch`` it takes a :class:`ChainBatch`, a sequence of up
    to ``burst`` chains, and returns one of those answers for each, in order; that pays where one
    call to the host can do for many chains, and where the lengths of the chains are all it needs.
    With ``header`` it takes a :class:`Request` whose header is of that layout, and answers as for a
    chain. With ``manual`` it takes the queue itself, pops, completes and re-arms notifications, and
    returns whether more is left to do at once.

    ``fill`` names the method that tells how many buffers the device could fill at this moment. The
    method here gets that many chains at most, as they come, and returns ``None`` for one that it
    has nothing for after all: that buffer stays for the next time. :meth:`Device.fill` has it
    called when there is data; when data waits that needs more buffers than were left over so, it is
    called again as soon as the driver has added some.

    ``count``, a number or the name of the attribute that holds it, makes several queues of the
    kind; a method with a parameter more gets the number among them, from 0. The queues exist only
    with ``feature`` accepted; without ``multiqueue`` accepted there is one. ``burst`` is how
    many chains are served before other devices have their turn (``SPL-23``).

    ``native`` names the method that returns a :class:`DataPath` for the ordinary chains, or
    ``None``; the method here gets what native code leaves. It is asked when the device goes live
    and after each change of its configuration.
    """

    def declare(method: Method) -> Method:
        kind = QueueKind(
            method.__name__,
            size,
            count,
            feature,
            multiqueue,
            batch,
            manual,
            burst,
            header,
            native,
            fill,
        )
        method.virtqueue = kind  # type: ignore[attr-defined]
        return method

    return declare


class QueueHandler(ABC):
    """Serves one queue of a live device: the ``number``-th of a kind.

    ``queue`` is the live queue, while the driver has it enabled.
    """

    def __init__(self, device: Device, kind: QueueKind, number: int) -> None:
        self.kind = kind
        self.number = number
        self.queue: Queue | None = None
        self._device = device
        self._method = _bound(getattr(device, kind.name), kind, number, work=1)
        self._path: DataPath | None = None
        self._is_stale = False

    def choose(self) -> None:
        """Have it decided anew whether native code serves ordinary chains; from any thread.

        The next turn decides, under the work lock: two threads that did so at once, each by what it
        had read of the device, could leave the older answer.
        """
        self._is_stale = self.kind.native is not None

    def _chosen_path(self) -> DataPath | None:
        if self._is_stale and self.kind.native is not None:
            self._is_stale = False  # before the look: a change after it is looked at again
            choose = getattr(self._device, self.kind.native)
            self._path = _bound(choose, self.kind, self.number, work=0)()
        return self._path

    @abstractmethod
    def serve(self) -> bool:
        """Serve one burst, tell the driver once, and re-arm; returns whether more may be left."""

    def _answers(self, batch: ChainBatch) -> Sequence[int | None]:
        """Call the method; what it answered is used even when it fails on a later chain."""
        answers: list[int | None] = []
        layout = self.kind.header
        try:
            if self.kind.batch:
                given: Sequence[int | None] = self._method(batch)
                if len(given) != batch.size:
                    message = f"{batch.size} chains were handed over, {len(given)} answered"
                    raise InternalError(message)
                return given
            for one in batch.make_chains() if layout is None else batch.requests(layout):
                answers.append(self._method(one))
        except Exception as error:
            error.add_note(f"in {self.kind.name}, at {batch[len(answers)]!r}")
            batch.complete(answers + [None] * (batch.size - len(answers)))
            raise
        return answers

    def _serve_natively(self, queue: Queue, path: DataPath, wait_ns: int) -> int:
        """Have native code serve up to ``NATIVE_BURST`` chains; returns why that ended."""
        left, end = NATIVE_BURST, TELL
        while left > 0 and end == TELL:
            served, end = queue.serve_natively(path, left, wait_ns)
            left -= served or 1
            queue.notify()
        if path.settle is not None:
            path.settle(end)
        return MORE if end == TELL else end


class AnsweringHandler(QueueHandler):
    """Serves a queue in which the driver asks and the device completes."""

    def serve(self) -> bool:
        """Serve one burst, tell the driver once, and re-arm; returns whether more may be left."""
        queue = self.queue
        if queue is None:
            return False
        path = self._chosen_path() if self._is_stale else self._path
        patience = queue.patience()
        queue.disable_notification()
        self._device.turn_bytes = 0
        if path is not None:
            end = self._serve_natively(queue, path, patience)
            if end != LEFT:
                return end == MORE or queue.enable_notification()
        left = self.kind.burst
        header_bytes = 0 if self.kind.header is None else self.kind.header.size
        batch = queue.pop_batch(left, header_bytes=header_bytes)
        while batch.size:
            answers = self._answers(batch)
            left -= len(answers)
            # An answer that comes later comes by the loop, which must not wait here.
            wait_ns = patience if left > 0 and None not in answers else 0
            batch = queue.exchange(batch, answers, left, wait_ns=wait_ns, header_bytes=header_bytes)
        return left <= 0 or queue.enable_notification()


class FillingHandler(QueueHandler):
    """Serves a queue whose buffers the device fills when it has data.

    Without data nothing is taken, so that all buffers are there when data comes; without buffers
    the driver is asked to notify, and the data waits with the device: that is the back-pressure.
    """

    def __init__(self, device: Device, kind: QueueKind, number: int) -> None:
        super().__init__(device, kind, number)
        self._wanted = _bound(getattr(device, kind.fill or ""), kind, number, work=0)

    def serve(self) -> bool:
        """Fill one burst of buffers; returns whether there are more of both data and buffers."""
        queue = self.queue
        if queue is None:
            return False
        path = self._chosen_path() if self._is_stale else self._path
        queue.disable_notification()
        if path is not None and self._wanted():
            end = self._serve_natively(queue, path, 0)
            if end != LEFT:
                return end == MORE or (bool(self._wanted()) and queue.enable_notification())
        left, patience, has_data = self.kind.burst, queue.patience(), True
        end_ns = time.monotonic_ns() + TURN_NS
        try:
            while has_data and (wanted := min(left, self._wanted())) > 0:
                batch = queue.pop_batch(wanted)
                if not batch.size and queue.wait_available(patience):
                    batch = queue.pop_batch(wanted)
                if not batch.size:
                    break
                left -= batch.size
                has_data = self._fill(queue, batch)
                # A buffer that was filled may have let the host come with more, at its own pace.
                left = left if time.monotonic_ns() < end_ns else 0
        finally:  # also when the next chain is a bad one
            queue.notify()
        if not self._wanted():
            return False
        if not has_data:  # what waits needs more buffers than those that were left over
            return queue.enable_notification(beyond_returned=True)
        return left <= 0 or queue.enable_notification()

    def _fill(self, queue: Queue, batch: ChainBatch) -> bool:
        """Fill the buffers of a batch, and put back the others; tells whether all were filled."""
        answers = self._answers(batch)
        queue.add_used_batch(batch, answers)
        if None not in answers:
            return True
        pairs = zip(batch, answers, strict=True)
        queue.put_back([chain for chain, answer in pairs if answer is None])
        return False


class ManualHandler(QueueHandler):
    """Hands the queue itself to the method."""

    def serve(self) -> bool:
        """Call the method; returns whether more is left to do at once."""
        return self.queue is not None and bool(self._method(self.queue))


def handler_of(device: Device, kind: QueueKind, number: int) -> QueueHandler:
    """Return what serves the ``number``-th queue of a kind."""
    if kind.manual:
        return ManualHandler(device, kind, number)
    form = AnsweringHandler if kind.fill is None else FillingHandler
    return form(device, kind, number)


def _bound(
    method: Callable[..., Any], kind: QueueKind, number: int, *, work: int
) -> Callable[..., Any]:
    """Return the method with the number of the queue as last argument, if it takes one.

    Before that come ``self`` and so many arguments of the work itself.

    By name where its parameters are plain ones, as ``partial`` then calls it without a step of
    Python's own.
    """
    if kind.count is None:
        return method
    code: CodeType | None = getattr(method, "__code__", None)
    if code is None or code.co_flags & (CO_VARARGS | CO_VARKEYWORDS):
        return lambda *work: method(*work, number)
    if code.co_argcount == 1 + work:
        return method
    if code.co_posonlyargcount or getattr(method, "__defaults__", None):
        return lambda *work: method(*work, number)
    return partial(method, **{code.co_varnames[code.co_argcount - 1]: number})
