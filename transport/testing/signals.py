"""Where the interrupts of a device under test end: they remember."""


class RecordingLine:
    """An interrupt line that remembers: ``level``, and how often it was raised and lowered."""

    def __init__(self) -> None:
        self.level = False
        self.edges = 0
        self.falls = 0

    def raise_(self) -> None:
        """Signal the guest."""
        self.level = True
        self.edges += 1

    def lower(self) -> None:
        """Take the signal back."""
        self.falls += self.level
        self.level = False


class RecordingMessages:
    """A sink of messages that remembers: ``sent`` has vector, address and data of each."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int, int]] = []
        self.closed = False

    def send(self, vector: int, address: int, data: int) -> None:
        """Take a message."""
        self.sent.append((vector, address, data))

    def close(self) -> None:
        """Note the end."""
        self.closed = True

    @property
    def vectors(self) -> list[int]:
        """The vectors of all messages."""
        return [vector for vector, _, _ in self.sent]
