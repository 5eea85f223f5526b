"""A window of registers.

| Offset | Register |
|---|---|
| 0 | 32 bits, reads as 0x74726976; writing it changes nothing |
| 4 | 32 bits, keeps what was written; 0 at first |

All else reads as zeros, and writes there are forgotten. The guest reads and writes 1, 2 or 4 bytes
at any offset, also the second half of a register, and the lowest byte comes first.
"""


class Registers:
    def __init__(self):
        self.kept = 0

    def read(self, offset, length):
        """Return ``length`` bytes."""
        return bytes(length)

    def write(self, offset, data):
        """Take the bytes that the guest writes from ``offset`` on."""
