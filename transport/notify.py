"""Available buffer notifications: the eventfd through which the driver calls for a queue's service.

VIRTIO 1.4 "Available Buffer Notifications"; eventfd(2).
"""

import os

from virtio.errors import HostError


class NotifyEvent:
    """A counter of notifications that a thread can wait for, and that KVM can add to.

    The device adds to it as well, to be called again; those are told apart by number. Raises
    :class:`HostError` when there is no descriptor left.
    """

    __slots__ = ("_own", "fd")

    def __init__(self) -> None:
        self._own = 0
        try:
            self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as error:
            raise HostError("eventfd", error.errno or 0, "a queue's notification") from error

    def signal(self) -> None:
        """Notify on behalf of the driver; from any thread."""
        os.eventfd_write(self.fd, 1)

    def signal_again(self) -> None:
        """Notify on the device's own behalf; with the device's work lock held."""
        self._own += 1
        os.eventfd_write(self.fd, 1)

    def take(self) -> tuple[bool, int]:
        """Take what is pending: whether anything was, and how much of it came from the driver."""
        if self.fd < 0:
            return False, 0
        try:
            count = os.eventfd_read(self.fd)
        except BlockingIOError:
            return False, 0
        own, self._own = self._own, 0
        return True, count - own

    def close(self) -> None:
        """Close the descriptor; nothing is pending from then on."""
        os.close(self.fd)
        self.fd = -1
