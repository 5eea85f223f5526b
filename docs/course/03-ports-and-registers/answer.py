"""A window of registers: a solution."""


class Registers:
    def __init__(self):
        self.bytes = bytearray(4096)
        self.bytes[:4] = (0x74726976).to_bytes(4, "little")

    def read(self, offset, length):
        return bytes(self.bytes[offset : offset + length])

    def write(self, offset, data):
        for place, value in enumerate(data, offset):
            if 4 <= place < 8:
                self.bytes[place] = value
