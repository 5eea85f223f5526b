"""The packet of the socket device: a header, and the data of those that carry some.

VIRTIO 1.4 "Socket Device: Device Operation"; the spelling is that of Linux ``virtio_vsock.h``.
"""

from struct import Struct
from typing import Final

from virtio.named_tuple import NamedTuple

HOST_CID: Final = 2

STREAM: Final = 1
SEQPACKET: Final = 2

OP_REQUEST: Final = 1
OP_RESPONSE: Final = 2
OP_RST: Final = 3
OP_SHUTDOWN: Final = 4
OP_RW: Final = 5
OP_CREDIT_UPDATE: Final = 6
OP_CREDIT_REQUEST: Final = 7

SHUTDOWN_RECEIVE: Final = 1
SHUTDOWN_SEND: Final = 2
SHUTDOWN_BOTH: Final = SHUTDOWN_RECEIVE | SHUTDOWN_SEND

SEQ_EOM: Final = 1

HEADER: Final = Struct("<QQIIIHHIII")


class Header(NamedTuple):
    """The fields of ``struct virtio_vsock_hdr``, in order; ``kind`` is its ``type``."""

    src_cid: int
    dst_cid: int
    src_port: int
    dst_port: int
    len: int
    kind: int
    op: int
    flags: int = 0
    buf_alloc: int = 0
    fwd_cnt: int = 0
