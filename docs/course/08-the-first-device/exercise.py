"""A calculator.

A request is a byte, the operation '+' or '*', and two numbers of 32 bits, little-endian. The answer
is a status byte and a number of 64 bits: 0 and the result; or 1 and 0, for another operation or a
request that is too short. If there is less room, as much as fits is written. The configuration
field ``answered``, 32 bits at offset 0, counts the answers with status 0.
"""

from virtio import Device, field, queue


class Calculator(Device):
    device_id = 42
    answered = field("u32", offset=0)

    @queue(size=64)
    def requestq(self, chain):
        return 0
