"""A port with which the guest ends the machine and says how it went.

The counterpart of QEMU's isa-debug-exit, except that the status is passed on as it is.
"""

from collections.abc import Callable

DEBUG_EXIT_PORT = 0xF4
PORT_COUNT = 4


class DebugExit:
    """Calls ``on_exit(status)`` with the byte (0-255) that the guest writes to the first port.

    Of a wider write the low byte counts. The call is made on the vCPU's thread. The ports read as
    ones.
    """

    def __init__(self, on_exit: Callable[[int], object]) -> None:
        self._on_exit = on_exit

    def read(self, offset: int, length: int) -> bytes:
        """Return ones: there is nothing to read."""
        return b"\xff" * length

    def write(self, offset: int, data: bytes) -> None:
        """End the machine with the status ``data[0]``; other ports than the first are ignored."""
        if offset == 0 and data:
            self._on_exit(data[0])
