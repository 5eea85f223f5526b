"""Feature bits and configuration fields, as a device class declares them.

Both are descriptors: a :class:`Feature` reads as "the driver accepted it", a :class:`Field` as its
value. VIRTIO 1.4 "Feature Bits", "Device Configuration Space".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, overload

from virtio.errors import ConfigurationError
from virtio.saved import shown

if TYPE_CHECKING:
    from virtio.device.declaration import Device

Value = TypeVar("Value", int, bytes)
IntegerKind = Literal["u8", "u16", "u32", "u64"]

WIDTHS: Final = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
DEVICE_TYPE_BITS: Final = (range(24), range(50, 128))


class Feature:
    """A feature bit of a device type; see :func:`feature`."""

    def __init__(
        self,
        bit: int,
        when: Callable[[Any], bool] | None,
        requires: tuple[Feature, ...],
        requires_any: tuple[Feature, ...],
    ) -> None:
        if not any(bit in bits for bits in DEVICE_TYPE_BITS):
            raise ValueError(f"feature bit {bit}: a device type owns bits 0-23 and 50-127")
        self.bit = bit
        self.mask = 1 << bit
        self.when = when
        self.requires = requires
        self.requires_any = requires_any

    @overload
    def __get__(self, device: None, owner: type) -> Feature: ...
    @overload
    def __get__(self, device: Device, owner: type) -> bool: ...
    def __get__(self, device: Device | None, owner: type) -> Feature | bool:
        return self if device is None else bool(device.driver_features & self.mask)

    def __set__(self, device: Device, value: bool) -> None:
        raise AttributeError(f"feature bit {self.bit} is accepted by the driver, not assigned")

    def fits(self, features: int) -> bool:
        """Whether the set holds every prerequisite of this feature (``COM-12``)."""
        if any(not features & needed.mask for needed in self.requires):
            return False
        return not self.requires_any or any(features & one.mask for one in self.requires_any)


def feature(
    bit: int,
    *,
    when: Callable[[Any], bool] | None = None,
    requires: tuple[Feature, ...] = (),
    requires_any: tuple[Feature, ...] = (),
) -> Feature:
    """Declare a feature bit that the device offers.

    On an instance it reads as whether the driver *accepted* it (``COM-18``). ``when(device)`` says
    whether this instance offers it. ``requires`` names the features that must come with it, and
    ``requires_any`` those of which one must: without them it is neither offered nor accepted.
    """
    return Feature(bit, when, requires, requires_any)


class Field(ABC, Generic[Value]):
    """A field of the configuration space, little-endian; see :func:`field`."""

    def __init__(
        self,
        width: int,
        offset: int,
        default: Value,
        feature: Feature | None,
        *,
        writable: bool,
        early: bool,
    ) -> None:
        self.offset = offset
        self.end = offset + width
        self.width = width
        self.default: Value = default
        self.feature = feature
        self.writable = writable
        self.early = early
        self.hook: Callable[[Any, Value], bool] | None = None
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, device: None, owner: type) -> Field[Value]: ...
    @overload
    def __get__(self, device: Device, owner: type) -> Value: ...
    def __get__(self, device: Device | None, owner: type) -> Field[Value] | Value:
        if device is None:
            return self
        value: Value = device.config_values.get(self.name, self.default)
        return value

    def __set__(self, device: Device, value: Value) -> None:
        self.encode(value)
        device.assign(self.name, value)

    def written(self, hook: Callable[[Any, Value], bool]) -> Callable[[Any, Value], bool]:
        """Make the field writable by the driver; ``hook(device, value)`` says whether it is kept.

        A hook may act on the value, too. It sees whole values: a partial write is merged before.
        """
        self.writable = True
        self.hook = hook
        return hook

    def check(self, value: object) -> None:
        """Raise :class:`ConfigurationError` for a saved value that the field cannot have."""
        if type(value) is not type(self.default):
            wanted = type(self.default).__name__
            raise ConfigurationError(f"saved {self.name} is {shown(value)}, must be {wanted}")
        try:
            self.encode(value)
        except ValueError as error:
            raise ConfigurationError(f"saved {error}") from None

    @abstractmethod
    def encode(self, value: Value) -> bytes:
        """Return the bytes in configuration space; raises :class:`ValueError` for too much."""

    @abstractmethod
    def decode(self, data: bytes) -> Value:
        """Return the value of ``width`` bytes."""


class IntegerField(Field[int]):
    """An unsigned integer."""

    def encode(self, value: int) -> bytes:
        """Return it in little-endian order (``COM-26``)."""
        if not 0 <= value < 1 << 8 * self.width:
            raise ValueError(f"{self.name} = {shown(value)}: a u{8 * self.width} is needed")
        return value.to_bytes(self.width, "little")

    def decode(self, data: bytes) -> int:
        """Return the integer."""
        return int.from_bytes(data, "little")


class BytesField(Field[bytes]):
    """A string of bytes, padded with NUL and not terminated when it is full."""

    def encode(self, value: bytes) -> bytes:
        """Return it padded to the field's width."""
        if len(value) > self.width:
            raise ValueError(f"{self.name}: {len(value)} bytes, at most {self.width} are allowed")
        return value.ljust(self.width, b"\0")

    def decode(self, data: bytes) -> bytes:
        """Return the bytes, padding included."""
        return data


@overload
def field(
    kind: IntegerKind,
    offset: int,
    *,
    feature: Feature | None = None,
    default: int = 0,
    writable: bool = False,
    early: bool = False,
) -> Field[int]: ...
@overload
def field(
    kind: Literal["bytes"],
    offset: int,
    *,
    length: int,
    feature: Feature | None = None,
    default: bytes = b"",
    writable: bool = False,
    early: bool = False,
) -> Field[bytes]: ...
def field(
    kind: str,
    offset: int,
    *,
    length: int = 0,
    feature: Feature | None = None,
    default: int | bytes | None = None,
    writable: bool = False,
    early: bool = False,
) -> Field[int] | Field[bytes]:
    """Declare a configuration field at ``offset``: ``u8`` to ``u64``, or ``length`` ``bytes``.

    It reads 0 unless its ``feature`` is offered (``COM-31``). The driver may write it only when
    ``writable``, after FEATURES_OK, with its feature accepted; ``early`` allows it at any time as
    soon as the feature is offered, as for the console's ``emerg_wr`` (``COM-29``). Assigning it on
    an instance announces the change to a live driver; a reset returns writable fields to
    ``default``.
    """
    if kind == "bytes":
        data = default if isinstance(default, bytes) else b""
        return BytesField(length, offset, data, feature, writable=writable, early=early)
    number = default if isinstance(default, int) else 0
    return IntegerField(WIDTHS[kind], offset, number, feature, writable=writable, early=early)
