"""The form that many devices give their requests: a header, data either way, a status byte.

VIRTIO 1.4 "Message Framing"; ``struct virtio_blk_req`` and ``struct virtio_scsi_req_cmd`` are such.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any

from virtio.scatter import cut

if TYPE_CHECKING:
    from virtio.virtqueue.batch import ChainBatch
    from virtio.virtqueue.chain import DescriptorChain


class Request:
    """One chain, seen as a request; how the driver cut it into segments means nothing (``SPL-19``).

    ``header`` has the fields of the structure that the readable part begins with, copied out once;
    ``None`` when that part is too short, or when there is not even room for a status byte.
    ``data_out`` are views of what the driver sends after it, ``data_in`` of what the device may
    write before the status byte, ``data_out_bytes`` and ``data_in_bytes`` how many bytes that is.
    The status byte is in the view ``status``, at ``status_at``. ``batch`` and ``index`` tell which
    chain this is.
    """

    __slots__ = (
        "batch",
        "data_in",
        "data_in_bytes",
        "data_out",
        "data_out_bytes",
        "header",
        "index",
        "status",
        "status_at",
    )

    batch: ChainBatch
    index: int
    header: tuple[Any, ...] | None
    data_out: Sequence[memoryview]
    data_out_bytes: int
    data_in: Sequence[memoryview]
    data_in_bytes: int
    status: memoryview | None
    status_at: int

    @classmethod
    def of(cls, batch: ChainBatch, index: int, chain: DescriptorChain, layout: Struct) -> Request:
        """Return any chain as a request: ``chain`` is the ``index``-th of the batch."""
        request = cls()
        request.batch, request.index = batch, index
        request.status, request.status_at = chain.split_status(), 0
        request.header = header = None if request.status is None else chain.unpack(layout)
        request.data_out = ()
        if header is not None and chain.readable_length > layout.size:
            _, request.data_out = cut(chain.readable, layout.size)
        request.data_out_bytes = max(chain.readable_length - layout.size, 0)
        request.data_in, request.data_in_bytes = chain.writable, chain.writable_length
        return request

    @property
    def chain(self) -> DescriptorChain:
        """The chain, to be completed by a handler that has returned ``None`` for it."""
        return self.batch[self.index]

    @property
    def queue_index(self) -> int:
        """The number of the queue in its device."""
        return self.batch.queue_index

    def write(self, data: bytes) -> int:
        """Copy ``data`` into ``data_in``; returns how much of it had room."""
        written = 0
        for view in self.data_in:
            part = data[written : written + len(view)]
            view[: len(part)] = part
            written += len(part)
        return written

    def finish(self, status: int, written: int) -> int:
        """Store the status; returns the used length: what is written from the first byte on.

        ``written`` is how many bytes of ``data_in`` are, from its first one on. The status, being
        the last byte, counts only when the data before it is full (``SPL-34``).
        """
        if self.status is None:
            return written
        self.status[self.status_at] = status
        return written + 1 if written == self.data_in_bytes else written
