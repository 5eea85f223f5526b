"""The life of a virtio device, as a transport drives it.

:class:`VirtioDevice` is what every device is; :class:`Activation` is what it is given when the
driver goes live; :class:`EventLoop` is how it waits. VIRTIO 1.4 "Basic Facilities of a Virtio
Device".
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from virtio.dataclass import dataclass
from virtio.features import VIRTIO_F_VERSION_1, mask
from virtio.memory import GuestMemory
from virtio.saved import U32, FeatureSet, checked

if TYPE_CHECKING:
    from virtio.virtqueue.queue import Queue


class TimerHandle(Protocol):
    """A call that was put off, until it is made or cancelled."""

    def cancel(self) -> None:
        """Forget the call; harmless when it was made already."""


class EventLoop(Protocol):
    """How a device waits: the names and meanings of ``asyncio``'s loop.

    The loop that a device is given runs every callback under the device's work lock, so that a
    callback never meets a reset, and forgets them all at reset.
    """

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        """Call ``callback`` whenever ``fd`` can be read."""

    def remove_reader(self, fd: int) -> None:
        """Stop that; harmless for an ``fd`` that is not watched."""

    def add_writer(self, fd: int, callback: Callable[[], object]) -> None:
        """Call ``callback`` whenever ``fd`` can be written."""

    def remove_writer(self, fd: int) -> None:
        """Stop that; harmless for an ``fd`` that is not watched."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> TimerHandle:
        """Call ``callback`` once, ``seconds`` from now."""

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> object:
        """Call ``callback`` once, soon; the only call allowed from any thread."""


@dataclass(slots=True)
class Activation:
    """What a device gets at DRIVER_OK: everything it may touch until the next reset.

    ``queues`` holds a queue at its index, or ``None`` where the driver enabled none;
    ``features`` is the accepted set; ``notify_config`` raises the configuration interrupt, from any
    thread, and does nothing once the device is no longer live (``COM-24``).
    """

    memory: GuestMemory
    features: int
    queues: "list[Queue | None]"
    notify_config: Callable[[], None]
    loop: EventLoop


class VirtioDevice(ABC):
    """A virtio device without a transport: type, features, queues, configuration space, state.

    A transport calls it so:

    * ``negotiated(features)`` when FEATURES_OK is accepted, after ``features_acceptable``;
    * ``activate`` at DRIVER_OK, ``reset`` when zero is written to the status, in any state;
    * ``handle_queue``, ``enable_queue``, ``disable_queue`` only between those two;
    * all of these under the device's work lock, one at a time;
    * ``read_config`` and ``config_generation`` inside ``with device.config_lock``, from any thread
      and in any state; it is the innermost lock, nothing else is taken while it is held;
    * ``write_config`` with neither ``config_lock`` nor the transport's register lock held, because
      the device may answer it with ``notify_config``.

    The device changes configuration data and ``config_generation`` together under ``config_lock``,
    and calls ``notify_config`` after it let go of the lock (``COM-27``, ``COM-28``).
    VIRTIO 1.4 "Device Initialization", "Device Reset".
    """

    device_id: ClassVar[int]

    def __init__(self) -> None:
        self.driver_features = 0
        self.config_generation = 0
        self.config_lock = threading.RLock()
        self.activation: Activation | None = None

    @property
    @abstractmethod
    def device_features(self) -> int:
        """The offered feature set: the device type's bits and the transport-independent ones."""

    @property
    @abstractmethod
    def queue_max_sizes(self) -> tuple[int, ...]:
        """The largest size of every queue that the device can have; constant for its life."""

    def queue_max_size(self, index: int) -> int:
        """Return QueueSizeMax: 0 for no queue under the accepted features (``MMIO-08``)."""
        sizes = self.queue_max_sizes
        return sizes[index] if index < len(sizes) else 0

    def features_acceptable(self, features: int) -> bool:
        """Whether FEATURES_OK may be kept for this set (``COM-11``, ``COM-15``)."""
        return not features & ~self.device_features and bool(features & mask(VIRTIO_F_VERSION_1))

    def negotiated(self, features: int) -> None:
        """Take the set that is frozen at FEATURES_OK."""
        self.driver_features = features

    def read_config(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes of configuration space, zeros past its end (``COM-30``)."""
        return bytes(length)

    def write_config(self, offset: int, data: bytes) -> None:  # noqa: B027 - most have none
        """Take a driver's write; what is read-only or past the end is dropped (``COM-29``)."""

    def activate(self, activation: Activation) -> None:
        """Go live. The transport calls :meth:`handle_queue` for each queue after it."""
        self.activation = activation

    def reset(self) -> None:
        """Return to the state at power-on; when it returns the device touches nothing any more.

        A device with work outstanding overrides this to cancel it first (``COM-21``, ``COM-22``).
        """
        self.activation = None
        self.driver_features = 0

    def enable_queue(self, index: int, queue: "Queue") -> None:
        """Take a queue that the driver enabled while the device is live."""
        if self.activation is not None:
            self.activation.queues[index] = queue

    def disable_queue(self, index: int) -> None:
        """Let go of a live queue, and of every chain that came from it (``MMIO-16``)."""
        if self.activation is not None:
            self.activation.queues[index] = None

    @abstractmethod
    def handle_queue(self, index: int) -> bool:
        """Serve what the driver made available, a bounded amount of it.

        Returns whether more may be left, so that the caller should come again. Spurious calls, also
        for a queue that is not enabled, do nothing (``SPL-45``).
        """

    def queue_handler(self, index: int) -> Callable[[], bool]:
        """Return the call that serves a queue of the live device, as :meth:`handle_queue` does.

        The transport asks at activation and calls it for each notification, until the next reset.
        """
        return partial(self.handle_queue, index)

    def state(self) -> dict[str, Any]:
        """Return the device's own state as plain values; queues are saved by the transport."""
        return {
            "driver_features": self.driver_features,
            "config_generation": self.config_generation,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a saved state, after :meth:`negotiated` and before :meth:`activate`, if any.

        The state may come from anybody: raises :class:`ConfigurationError` for one that cannot be.
        """
        features = checked(FeatureSet, "driver_features", state["driver_features"])
        generation = checked(U32, "config_generation", state["config_generation"])
        self.driver_features, self.config_generation = features, generation
