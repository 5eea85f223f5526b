"""The small form in which authors write a device: a class that declares what it is.

Feature bits and configuration fields are class attributes, a queue is a decorated method, and the
order of declaration is the order of the queues::

    class Entropy(Device):
        device_id = 4

        @queue(size=256)
        def requestq(self, chain: DescriptorChain) -> int | None:
            return chain.write(os.urandom(min(chain.writable_length, 65536)))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from virtio.device.configuration import Feature, Field, feature, field
from virtio.device.doorbell import Doorbell
from virtio.device.handlers import QueueHandler, QueueKind, handler_of, queue
from virtio.device.lifecycle import Activation, EventLoop, VirtioDevice
from virtio.errors import ConfigurationError, InternalError
from virtio.features import (
    VIRTIO_F_IN_ORDER,
    VIRTIO_F_NOTIFICATION_DATA,
    VIRTIO_F_RING_PACKED,
    VIRTIO_F_RING_RESET,
    VIRTIO_F_VERSION_1,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
    mask,
)
from virtio.saved import shown

if TYPE_CHECKING:
    from virtio.virtqueue.queue import Queue

__all__ = ["DEFAULT_RING_FEATURES", "Device", "QueueKind", "feature", "field", "queue"]

DEFAULT_RING_FEATURES: Final = mask(
    VIRTIO_RING_F_INDIRECT_DESC,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_F_VERSION_1,
    VIRTIO_F_RING_RESET,
)
POSSIBLE_RING_FEATURES: Final = DEFAULT_RING_FEATURES | mask(
    VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER, VIRTIO_F_NOTIFICATION_DATA
)


class Device(VirtioDevice):
    """A device made of declarations; see the module for the form.

    ``in_order`` promises that chains are completed in the order they came (``COM-20``).
    ``ring_features`` is the set of transport-independent features to offer; VERSION_1 is always
    among them, IN_ORDER only with the promise. ``turn_bytes`` is 0 when a turn of a queue begins: a
    handler that bounds its turns by bytes counts there what it moved. The ``__init__`` of a
    subclass calls this one first.
    """

    in_order: ClassVar[bool] = False
    queue_kinds: ClassVar[dict[str, QueueKind]] = {}
    features: ClassVar[tuple[Feature, ...]] = ()
    fields: ClassVar[tuple[Field[Any], ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        members = _members(cls).values()
        cls.features = tuple(one for one in members if isinstance(one, Feature))
        fields = (one for one in members if isinstance(one, Field))
        cls.fields = tuple(sorted(fields, key=lambda one: one.offset))
        for before, after in zip(cls.fields, cls.fields[1:], strict=False):
            if before.end > after.offset:
                raise TypeError(f"{cls.__name__}: {before.name} and {after.name} overlap")
        cls.queue_kinds = _declared_kinds(cls)

    def __init__(self, *, ring_features: int = DEFAULT_RING_FEATURES) -> None:
        super().__init__()
        self.config_values: dict[str, Any] = {}
        self.ring_features = ring_features
        self._handlers: list[QueueHandler] = []
        self.turn_bytes = 0
        self._bell = Doorbell(self._serve_rung)

    # Features

    @property
    def ring_features(self) -> int:
        """The transport-independent features that the device offers."""
        return self._ring_features

    @ring_features.setter
    def ring_features(self, features: int) -> None:
        if features & ~POSSIBLE_RING_FEATURES:
            raise ValueError(f"ring features {features:#x}: {POSSIBLE_RING_FEATURES:#x} at most")
        possible = ~0 if self.in_order else ~mask(VIRTIO_F_IN_ORDER)
        self._ring_features = (features | mask(VIRTIO_F_VERSION_1)) & possible

    @property
    def device_features(self) -> int:
        """The offered set (``COM-12``); a feature comes after its prerequisites by declaration."""
        offered = self._ring_features
        for one in self.features:
            if one.fits(offered) and (one.when is None or one.when(self)):
                offered |= one.mask
        return offered

    def features_acceptable(self, features: int) -> bool:
        """Whether the set is offered and holds the prerequisites of all its members."""
        complete = all(one.fits(features) for one in self.features if features & one.mask)
        return complete and super().features_acceptable(features)

    # Configuration space

    def assign(self, name: str, value: int | bytes) -> None:
        """Change a configuration field, its generation with it, and tell a live driver."""
        self.assign_all({name: value})

    def assign_all(self, values: Mapping[str, int | bytes]) -> None:
        """Change several configuration fields at once, as one change to the driver."""
        with self.config_lock:
            if all(getattr(self, name) == value for name, value in values.items()):
                return
            self.config_values |= values
            self.config_generation = (self.config_generation + 1) & 0xFFFF_FFFF
        self._choose()
        activation = self.activation
        if activation is not None:
            activation.notify_config()

    def read_config(self, offset: int, length: int) -> bytes:
        """Return bytes of the declared fields; 0 between and past them and where not offered."""
        image = bytearray(length)
        offered = self.device_features
        with self.config_lock:
            for one in self.fields:
                low, high = max(offset, one.offset), min(offset + length, one.end)
                if low < high and (one.feature is None or offered & one.feature.mask):
                    data = one.encode(getattr(self, one.name))
                    image[low - offset : high - offset] = data[low - one.offset : high - one.offset]
        return bytes(image)

    def write_config(self, offset: int, data: bytes) -> None:
        """Take a driver's write field by field, neighbours untouched (``MMIO-30``)."""
        for one in self.fields:
            low, high = max(offset, one.offset), min(offset + len(data), one.end)
            if low < high and self._may_write(one):
                self._write_field(one, low - one.offset, data[low - offset : high - offset])

    def _may_write(self, one: Field[Any]) -> bool:
        features = self.device_features if one.early else self.driver_features
        present = features if one.feature is None else features & one.feature.mask
        return one.writable and bool(present)

    def _write_field(self, one: Field[Any], start: int, data: bytes) -> None:
        whole = bytearray(one.encode(getattr(self, one.name)))
        whole[start : start + len(data)] = data
        value = one.decode(bytes(whole))
        if one.hook is None or one.hook(self, value):
            with self.config_lock:
                self.config_values[one.name] = value
            self._choose()

    def _choose(self) -> None:
        """Decide anew what serves each queue: something that this depends on has changed."""
        for handler in self._handlers:
            handler.choose()

    # Queues

    def queue_layout(self, features: int) -> list[tuple[QueueKind, int]]:
        """Return the queues under a feature set: at each index the kind, and the number within it.

        Kinds follow each other in order of declaration; a device whose queues interleave, as the
        network device's pairs do, overrides this.
        """
        return [
            (kind, number)
            for kind in self.queue_kinds.values()
            for number in range(kind.number_under(self, features))
        ]

    @property
    def queue_max_sizes(self) -> tuple[int, ...]:
        """The largest size of every queue that exists when all offered features are accepted."""
        return tuple(kind.size for kind, _ in self.queue_layout(self.device_features))

    def queue_max_size(self, index: int) -> int:
        """Return QueueSizeMax: 0 for no queue under the accepted features (``MMIO-08``)."""
        layout = self.queue_layout(self.driver_features)
        return layout[index][0].size if index < len(layout) else 0

    @property
    def queues(self) -> list[Queue | None]:
        """The live queues at their indices; empty while the device is not live."""
        return self.activation.queues if self.activation is not None else []

    def queue_of(self, kind: str, number: int = 0) -> Queue | None:
        """Return the live queue that the method named ``kind`` serves, if the driver enabled it."""
        for handler in self._handlers:
            if handler.kind.name == kind and handler.number == number:
                return handler.queue
        return None

    def fill(self, kind: str, number: int = 0) -> None:
        """Have a queue served soon, as there is data for it; from any thread, in any state."""
        for index, handler in enumerate(self._handlers):
            if handler.kind.name == kind and handler.number == number:
                self._bell.ring(index)

    def _serve_rung(self, indices: set[int]) -> None:
        for index in indices:
            if self.handle_queue(index):
                self._bell.ring(index)

    @property
    def loop(self) -> EventLoop:
        """The event loop of a live device."""
        if self.activation is None:
            raise InternalError(f"{type(self).__name__} is not live: it has no event loop")
        return self.activation.loop

    def activate(self, activation: Activation) -> None:
        """Go live with the queues that the accepted features make."""
        layout = self.queue_layout(activation.features)
        self._handlers = [handler_of(self, kind, number) for kind, number in layout]
        for handler, live in zip(self._handlers, activation.queues, strict=False):
            handler.queue = live
        super().activate(activation)
        self._bell.connect(activation.loop)
        self._choose()

    def enable_queue(self, index: int, queue: Queue) -> None:
        """Take a queue that the driver enabled while the device is live."""
        super().enable_queue(index, queue)
        if index < len(self._handlers):
            self._handlers[index].queue = queue

    def disable_queue(self, index: int) -> None:
        """Let go of a live queue, and of every chain that came from it (``MMIO-16``)."""
        super().disable_queue(index)
        if index < len(self._handlers):
            self._handlers[index].queue = None

    def queue_handler(self, index: int) -> Callable[[], bool]:
        """Return the call that serves a queue of the live device, an overridden one included."""
        overridden = type(self).handle_queue is not Device.handle_queue
        if overridden or index >= len(self._handlers):
            return super().queue_handler(index)
        return self._handlers[index].serve

    def handle_queue(self, index: int) -> bool:
        """Serve one burst of chains; returns whether more may be left."""
        return index < len(self._handlers) and self._handlers[index].serve()

    # Reset and state

    def reset(self) -> None:
        """Drop the queues, the accepted features and what the driver wrote (``COM-21``)."""
        self._bell.connect(None)
        super().reset()
        self._handlers = []
        with self.config_lock:
            for one in self.fields:
                if one.writable:
                    self.config_values.pop(one.name, None)

    def state(self) -> dict[str, Any]:
        """Return the accepted features and the values of all configuration fields."""
        config = {one.name: getattr(self, one.name) for one in self.fields}
        return super().state() | {"config": config}

    def restore(self, state: dict[str, Any]) -> None:
        """Take them over; raises :class:`ConfigurationError` for values that no field can have."""
        super().restore(state)
        config = state["config"]
        if config.keys() != {one.name for one in self.fields}:
            fields = shown(", ".join(map(str, config)))
            raise ConfigurationError(f"saved configuration: its fields are {fields}")
        for one in self.fields:
            one.check(config[one.name])
        with self.config_lock:
            self.config_values = dict(config)


def _members(cls: type[Device]) -> dict[str, Any]:
    """Collect what a class and its bases define; a redefinition keeps the first one's place."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        found.update(vars(base))
    return found


def _declared_kinds(cls: type[Device]) -> dict[str, QueueKind]:
    """Collect the queues by name; a method that is overridden stays the handler of its queue."""
    found: dict[str, QueueKind] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            kind = getattr(value, "virtqueue", None)
            if isinstance(kind, QueueKind):
                found[name] = kind
    return found
