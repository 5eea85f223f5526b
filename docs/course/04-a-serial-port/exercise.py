"""A serial port that also receives.

| Register | Read | Write |
|---|---|---|
| 0 | the oldest byte received, which is then taken out; 0 when there is none | sends a byte |
| 5 | line status: 0x20, plus 0x01 as long as a byte received waits | nothing |
| 7 | what was written there last; 0 at first | keeps the byte |
| other | 0 | nothing |
"""


class Uart:
    def __init__(self):
        self.sent = b""

    def receive(self, data):
        """Bytes that come from the other end of the line."""

    def read(self, register):
        return 0x20 if register == 5 else 0

    def write(self, register, value):
        if register == 0:
            self.sent += bytes([value])
