"""The steps by which a driver brings a device up, the same on every transport.

VIRTIO 1.4 "Driver Requirements: Device Initialization".
"""

from abc import ABC, abstractmethod

from virtio.testing import QueueDriver


class InitializingDriver(ABC):
    """A driver that has registers for these steps; status bits are typed from the specification."""

    @property
    @abstractmethod
    def status(self) -> int:
        """The device status."""

    @status.setter
    @abstractmethod
    def status(self, value: int) -> None: ...

    @abstractmethod
    def accept_features(self, features: int) -> None:
        """Write the accepted set, all four words of it."""

    @abstractmethod
    def set_up_queue(
        self, index: int, size: int, descriptor_area: int, driver_area: int, device_area: int
    ) -> bool:
        """Configure and enable a queue; whether it is enabled then."""

    def negotiate(self, features: int = 1 << 32) -> bool:
        """Reset, introduce the driver and settle the features; whether the device took them."""
        self.status = 0
        self.status = 0x01
        self.status = 0x03
        self.accept_features(features)
        self.status = 0x0B
        return self.status == 0x0B

    def go_live(self) -> None:
        """Set DRIVER_OK, the last step of the initialization."""
        self.status = 0x0F

    def start(self, *queues: QueueDriver, features: int = 1 << 32) -> None:
        """Initialize the device with the queues given, from index 0 on, up to DRIVER_OK.

        Raises :class:`AssertionError` when the device refuses features or queues.
        """
        assert self.negotiate(features), f"the device refuses features {features:#x}"
        for index, queue in enumerate(queues):
            assert self.set_up_queue(index, *queue.layout), f"the device refuses queue {index}"
        self.go_live()
