"""Message signalled interrupts on their way out of a function: where they may go, and who sends.

PCI Local Bus 3.0 "MSI Capability Structure"; Intel SDM volume 3 "Message Address Register Format".
"""

from typing import Final, Protocol

MESSAGE_ADDRESSES: Final = range(0xFEE0_0000, 0xFEF0_0000)
"""What a message may be written to; anything else would be a write to RAM, or to nothing."""


class MessageSink(Protocol):
    """Sends the messages of one function, by vector.

    ``send`` is called with the lock of the function's interrupts held: it returns soon and calls
    nothing back. ``address`` is in ``MESSAGE_ADDRESSES``.
    """

    def send(self, vector: int, address: int, data: int) -> None:
        """Write ``data``, 32 bits, to ``address``."""

    def close(self) -> None:
        """Give back what the vectors hold of the host; nothing is sent any more."""


def is_message_address(address: int) -> bool:
    """Whether a message may go there (``PCI-55``).

    >>> is_message_address(0xFEE01000), is_message_address(0x1000)
    (True, False)
    """
    return address in MESSAGE_ADDRESSES
