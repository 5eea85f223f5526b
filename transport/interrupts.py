"""How a transport tells the driver of used buffers and of a changed configuration.

A device and the transport's core say what happened, and to which queue. Whether this becomes a bit
of a status register and one line for all, or a message of its own for each queue, is the choice of
the object behind the protocol. VIRTIO 1.4 "Notifications", "Device Configuration Space".
"""

from typing import Any, Protocol


class Interrupts(Protocol):
    """The interrupts of one device.

    ``used`` and ``config`` may be called from any thread, with any lock of the transport held: they
    return at once, and do nothing before :meth:`enable` (``COM-02``). ``used_count`` and
    ``config_count`` count the events that were not dropped.
    """

    used_count: int
    config_count: int

    def used(self, queue: int) -> None:
        """Tell the driver that the device gave back buffers of a queue."""

    def config(self) -> None:
        """Tell the driver that the configuration or the device status changed."""

    def enable(self) -> None:
        """Let events through, from DRIVER_OK on."""

    def disable(self) -> None:
        """Drop all further events; the driver still sees those that are pending."""

    def reset(self) -> None:
        """Drop what is pending and all further events, and forget what the driver set up."""

    def forget_queue(self, queue: int) -> None:
        """Forget what the driver set up for a queue that was reset; others go on."""

    def describe(self) -> str:
        """Return what is pending, for a person to read."""

    def state(self) -> dict[str, Any]:
        """Return what is pending, and what the driver set up, as plain values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned, and signal what is pending.

        Raises :class:`ConfigurationError` for values that no such state has.
        """
