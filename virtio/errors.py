"""Errors that say whose fault it is.

One base class and four families: the user's configuration, the host, the guest's driver, ourselves.
Every message is one line: what, where, the value, what is allowed.
"""

import os


class Error(Exception):
    """Base of every error that this project raises on purpose."""


class ConfigurationError(Error):
    """What the user asked for cannot be done; the message says what to change."""


class HostError(Error):
    """The host refused an operation.

    ``operation`` names what was tried (an ioctl by its published name), ``errno`` is the answer.
    """

    def __init__(self, operation: str, errno: int, detail: str = "") -> None:
        self.operation = operation
        self.errno = errno
        tail = f": {detail}" if detail else ""
        super().__init__(f"{operation} failed: {os.strerror(errno)} (errno {errno}){tail}")


class DriverError(Error):
    """The guest's driver broke the virtio specification.

    ``item`` is the conformance item that was breached (such as ``SPL-13``), ``queue`` and ``chain``
    are the queue index and the head index of the descriptor chain concerned, when there is one;
    ``message`` says what was wrong without them.
    """

    def __init__(
        self, item: str, message: str, *, queue: int | None = None, chain: int | None = None
    ) -> None:
        self.item = item
        self.message = message
        self.queue = queue
        self.chain = chain
        where = "" if queue is None else f"queue {queue}: "
        where += "" if chain is None else f"chain {chain}: "
        super().__init__(f"{item}: {where}{message}")


class InternalError(Error):
    """A bug of this project: an invariant of ours does not hold."""
