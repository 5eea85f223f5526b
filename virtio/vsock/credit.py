"""How much each side may send, so that neither fills the other's memory.

Both count the bytes of a connection modulo 2^32. A receiver says how large its buffer is
(``buf_alloc``) and how much it has consumed (``fwd_cnt``); a sender keeps what is under way below
that. VIRTIO 1.4 "Buffer Space Management".
"""

from typing import Final

from virtio.vsock.packet import Header

MASK: Final = 0xFFFF_FFFF


class Credit:
    """The counters of one connection; ``buf_alloc`` is the size of our buffer in bytes.

    >>> credit = Credit(100)
    >>> credit.received(60), credit.received(60)
    (True, False)
    """

    __slots__ = (
        "_peer_buf_alloc",
        "_peer_fwd_cnt",
        "_rx_cnt",
        "_told_fwd_cnt",
        "_tx_cnt",
        "buf_alloc",
        "fwd_cnt",
    )

    def __init__(self, buf_alloc: int) -> None:
        self.buf_alloc = buf_alloc
        self.fwd_cnt = 0
        self._rx_cnt = 0
        self._told_fwd_cnt = 0
        self._tx_cnt = 0
        self._peer_buf_alloc = 0
        self._peer_fwd_cnt = 0

    # To the peer

    def meet(self, header: Header) -> None:
        """Take what the peer says of its buffer, as each of its packets does (``VSK-09``)."""
        self._peer_buf_alloc, self._peer_fwd_cnt = header.buf_alloc, header.fwd_cnt

    @property
    def room(self) -> int:
        """The bytes that may be sent now, 0 when the peer shrank its buffer (``VSK-08``)."""
        return max(0, self._peer_buf_alloc - (self._tx_cnt - self._peer_fwd_cnt & MASK))

    @property
    def peer_buf_alloc(self) -> int:
        """The size of the peer's buffer."""
        return self._peer_buf_alloc

    def sent(self, count: int) -> None:
        """Count bytes that go to the peer."""
        self._tx_cnt = self._tx_cnt + count & MASK

    # From the peer

    def received(self, count: int) -> bool:
        """Count bytes of the peer; returns whether it had the credit for them (``VSK-11``)."""
        if (self._rx_cnt - self.fwd_cnt & MASK) + count > self.buf_alloc:
            return False
        self._rx_cnt = self._rx_cnt + count & MASK
        return True

    def consumed(self, count: int) -> None:
        """Count bytes whose room is free again."""
        self.fwd_cnt = self.fwd_cnt + count & MASK

    def told(self) -> None:
        """Remember that a packet told the peer of ``fwd_cnt``."""
        self._told_fwd_cnt = self.fwd_cnt

    @property
    def update_due(self) -> bool:
        """Whether the peer believes our buffer to be half full and it is not so (``VSK-10``)."""
        if self._told_fwd_cnt == self.fwd_cnt:
            return False
        return (self._rx_cnt - self._told_fwd_cnt & MASK) * 2 >= self.buf_alloc
