"""The file system device: a directory of somebody's for the guest, by the FUSE protocol.

VIRTIO 1.4 "File System Device".
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from virtio.device.calls import WaitingCalls, Work
from virtio.device.declaration import DEFAULT_RING_FEATURES, Device, field, queue
from virtio.errors import ConfigurationError, HostError
from virtio.fs.answers import CacheMode, cache_of
from virtio.fs.filesystem import FileSystem
from virtio.fs.lock_waits import LockWaits
from virtio.fs.message import Message
from virtio.fs.protocol import BIG, IN_HEADER_BYTES, LITTLE, OUT_HEADER_BYTES
from virtio.fs.session import UNANSWERED, Session
from virtio.fs.work import InPlace, Interrupt, LockWait, Waiting
from virtio.log import Logger
from virtio.saved import checked, shown

if TYPE_CHECKING:
    from virtio.device.lifecycle import Activation, EventLoop
    from virtio.virtqueue.chain import DescriptorChain

logger = Logger(__name__)

TAG_BYTES: Final = 36
HIPRIO_SIZE: Final = 128
QUEUE_SIZE: Final = 1024
"""A request of 1 MiB has 256 pages and four more pieces: Linux asks for what the queue can hold."""

MAX_QUEUES: Final = 16
BURST: Final = 16
SETTLE_SECONDS: Final = 1.0
"""How long saving the device waits for calls that change the file system."""


class Fs(Device):
    """A directory tree under a ``tag``, which the guest mounts: ``mount -t virtiofs TAG /mnt``.

    ``system`` serves it, ``cache`` is how long the guest keeps what it was told (see
    :class:`virtio.fs.answers.Cache`), ``queues`` the number of request queues. Raises
    :class:`ConfigurationError` for a tag that is empty, or longer than 36 bytes.

    Requests are served in place; what may wait long is done by threads, on memory of our own, so
    that a reset never waits for the host (``BLK-42`` is the same of disks).
    """

    device_id = 26

    tag = field("bytes", 0x00, length=TAG_BYTES)
    num_request_queues = field("u32", 0x24, default=1)

    def __init__(
        self,
        system: FileSystem,
        tag: str,
        *,
        cache: CacheMode = "auto",
        queues: int = 1,
        ring_features: int = DEFAULT_RING_FEATURES,
    ) -> None:
        super().__init__(ring_features=ring_features)
        if not 1 <= queues <= MAX_QUEUES:
            raise ConfigurationError(f"share with {queues} queues: must be 1 to {MAX_QUEUES}")
        self.system = system
        self.tag = checked_tag(tag)
        self.num_request_queues = queues
        self._session = Session(system, cache_of(cache))
        self._calls = WaitingCalls(lambda: None)
        self._locks = LockWaits(self._end)

    @queue(size=HIPRIO_SIZE)
    def hiprio(self, chain: DescriptorChain) -> int | None:
        """Serve FORGET and INTERRUPT, which nothing else may hold up (``FS-03``)."""
        return self._serve(chain)

    @queue(size=QUEUE_SIZE, count="num_request_queues", burst=BURST)
    def requestq(self, chain: DescriptorChain) -> int | None:
        """Serve one request; what takes long goes on beside other work."""
        return self._serve(chain)

    def _serve(self, chain: DescriptorChain) -> int | None:
        if chain.readable_length < IN_HEADER_BYTES:
            return 0  # whom it is from, and so what to answer, cannot be known
        message = self._session.read(chain)
        try:
            answer = self._session.answer(message)
        except OSError as error:
            return self._refuse(message, error)
        if isinstance(answer, bytes):
            return self._finish(message, answer)
        if isinstance(answer, InPlace):
            return self._write_header(message, 0, answer.length)
        if isinstance(answer, Waiting):
            self._make(message, answer)
            return None
        if isinstance(answer, LockWait):
            self._locks.add(message, answer)
            return None
        if isinstance(answer, Interrupt):
            self._locks.interrupt(answer.unique)
        return 0

    def _finish(self, message: Message, payload: bytes) -> int:
        """Write an answer; returns the length used."""
        if len(payload) > message.room:
            error = OSError(errno.EIO, f"{len(payload)} bytes, room for {message.room}")
            return self._refuse(message, error)
        used = self._write_header(message, 0, len(payload))
        if payload:
            message.chain.write(payload, OUT_HEADER_BYTES)
        return used

    def _refuse(self, message: Message, error: OSError) -> int:
        number = error.errno or errno.EIO
        logger.debug("fs: operation %d: %s", message.opcode, str(error))
        return self._write_header(message, -number, 0)

    def _write_header(self, message: Message, error: int, length: int) -> int:
        if message.opcode in UNANSWERED or message.room < 0:
            return 0
        layout = self._session.answers.layouts.out_header
        total = layout.size + length
        message.chain.write(layout.pack(total, error, message.unique))
        return total

    # What comes late

    def _make(self, message: Message, waiting: Waiting) -> None:
        results: list[object] = []

        def begin() -> Work:
            work = waiting.begin()
            return lambda: results.append(work())

        self._calls.make(
            begin,
            partial(self._made, message, waiting, results),
            queue=message.chain.owner.index,
            changes=waiting.changes,
        )

    def _made(
        self, message: Message, waiting: Waiting, results: list[object], error: Exception | None
    ) -> None:
        if error is not None and not isinstance(error, OSError):
            raise error
        self._end(message, error if error is not None else waiting.pack(results[0]))

    def _end(self, message: Message, answer: bytes | OSError) -> None:
        """Complete a request whose answer comes late."""
        if isinstance(answer, OSError):
            used = self._refuse(message, answer)
        else:
            used = self._finish(message, answer)
        message.chain.complete(used)

    # Life

    def activate(self, activation: Activation) -> None:
        """Go live; what an activation before this one began comes to nothing."""
        self._connect(activation.loop)
        super().activate(activation)

    def disable_queue(self, index: int) -> None:
        """Let go of the requests of one queue."""
        self._calls.forget(index)
        self._locks.forget(index)
        super().disable_queue(index)

    def reset(self) -> None:
        """Let go of all requests, nodes and handles, and return to power-on."""
        self._connect(None)
        self._session.end()
        super().reset()

    def _connect(self, loop: EventLoop | None) -> None:
        self._calls.connect(loop)
        self._locks.connect(loop)

    def state(self) -> dict[str, Any]:
        """Return what was agreed on, and the nodes and handles of the session.

        Requests under way are saved with their queues, and are served anew. Raises
        :class:`HostError` when one that changes the file system does not end.
        """
        if not self._calls.settle(SETTLE_SECONDS):
            raise HostError("saving a share", errno.EBUSY, "the host does not end a change of it")
        session = {
            "begun": self._session.begun,
            "big_endian": self._session.answers.layouts is BIG,
            "system": self.system.state(),
        }
        return super().state() | {"session": session}

    def restore(self, state: dict[str, Any]) -> None:
        """Take them over; raises :class:`ConfigurationError` for a share that is not like it."""
        tag, queues = self.tag, self.num_request_queues
        super().restore(state)
        if (self.tag, self.num_request_queues) != (tag, queues):
            raise ConfigurationError(f"saved share: its tag is {shown(self.tag)}, must be {tag!r}")
        session = checked(dict[str, Any], "share", state["session"])
        begun = checked(bool, "share's begin", session["begun"])
        big_endian = checked(bool, "share's byte order", session["big_endian"])
        self.system.restore(checked(dict[str, Any], "shared directory", session["system"]))
        self._session.begun = begun
        self._session.answers.layouts = BIG if big_endian else LITTLE


def checked_tag(tag: str) -> bytes:
    """Return a tag as the configuration space has it: UTF-8, padded (``FS-01``)."""
    data = tag.encode()
    if not 1 <= len(data) <= TAG_BYTES or "\0" in tag:
        raise ConfigurationError(
            f"share's tag {shown(tag)}: must have 1 to {TAG_BYTES} bytes of UTF-8, and no NUL"
        )
    return data.ljust(TAG_BYTES, b"\0")
