"""Feature negotiation: the device's offer and the driver's choice, in words of 32 bits.

VIRTIO 1.4 "Feature Bits", "MMIO Device Register Layout".
"""

from typing import Final

from virtio.errors import ConfigurationError
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
from virtio.named_tuple import NamedTuple
from virtio.saved import U32, FeatureSet

FEATURE_WORDS: Final = 4
WORD: Final = 0xFFFF_FFFF

DEVICE_TYPE_FEATURES: Final = mask(*range(24), *range(50, 128))
SHARED_FEATURES: Final = mask(
    VIRTIO_RING_F_INDIRECT_DESC,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_F_VERSION_1,
    VIRTIO_F_RING_PACKED,
    VIRTIO_F_IN_ORDER,
    VIRTIO_F_NOTIFICATION_DATA,
    VIRTIO_F_RING_RESET,
)


class NegotiationState(NamedTuple):
    """Selectors and accepted features, as :class:`FeatureNegotiation` has them."""

    device_select: U32
    driver_select: U32
    accepted: FeatureSet
    accepted_unknown: bool
    frozen: bool


class FeatureNegotiation:
    """The feature registers, from a reset to FEATURES_OK and beyond.

    ``offered`` and ``accepted`` are feature sets; the selectors name a 32-bit word of them. With
    ``frozen`` set the driver cannot change its mind. Raises :class:`ConfigurationError` for an
    offer that no device may make (``COM-13``).

    >>> negotiation = FeatureNegotiation(1 << 32 | 1 << 5)
    >>> negotiation.select_driver_word(1)
    >>> negotiation.accept(1)  # bit 32, VERSION_1
    >>> negotiation.valid, negotiation.accepted == 1 << 32
    (True, True)
    """

    def __init__(self, device_features: int) -> None:
        wrong = device_features & ~(DEVICE_TYPE_FEATURES | SHARED_FEATURES)
        if wrong:
            bits = [bit for bit in range(wrong.bit_length()) if wrong >> bit & 1]
            raise ConfigurationError(
                f"the device offers the feature bits {bits}, which are reserved or need more than"
                f" this transport has; must be among 0-23, 50-127 and {_bits(SHARED_FEATURES)}"
            )
        self.offered = device_features | mask(VIRTIO_F_VERSION_1)
        self.reset()

    def reset(self) -> None:
        """Forget what the driver selected and accepted."""
        self.device_select = 0
        self.driver_select = 0
        self.accepted = 0
        self.accepted_unknown = False
        self.frozen = False

    def select_device_word(self, index: int) -> None:
        """Choose the word that :meth:`read_offered` reads."""
        self.device_select = index

    def select_driver_word(self, index: int) -> None:
        """Choose the word that :meth:`accept` writes."""
        self.driver_select = index

    def read_offered(self) -> int:
        """Return the selected word of the offer, 0 for one that is not used (``MMIO-05``)."""
        if self.device_select >= FEATURE_WORDS:
            return 0
        return self.offered >> 32 * self.device_select & WORD

    def read_accepted(self) -> int:
        """Return the selected word of what was accepted, 0 for one that is not used."""
        if self.driver_select >= FEATURE_WORDS:
            return 0
        return self.accepted >> 32 * self.driver_select & WORD

    def accept(self, word: int) -> None:
        """Store the driver's selected word, until FEATURES_OK freezes the set (``COM-16``).

        Remembers a bit past the last word as one that was not offered, until a reset (``MMIO-06``).
        """
        if self.frozen:
            return
        if self.driver_select >= FEATURE_WORDS:
            self.accepted_unknown |= word != 0
            return
        shift = 32 * self.driver_select
        self.accepted = self.accepted & ~(WORD << shift) | word << shift

    @property
    def valid(self) -> bool:
        """Whether VERSION_1 was accepted, and only what was offered (``COM-11``, ``COM-15``)."""
        foreign = self.accepted & ~self.offered or self.accepted_unknown
        return not foreign and bool(self.accepted & mask(VIRTIO_F_VERSION_1))

    def state(self) -> "NegotiationState":
        """Return selectors and accepted features as a plain value."""
        return NegotiationState(
            self.device_select,
            self.driver_select,
            self.accepted,
            self.accepted_unknown,
            self.frozen,
        )

    def restore(self, state: "NegotiationState") -> None:
        """Restore what :meth:`state` returned.

        Raises :class:`ConfigurationError` for features that this offer does not have.
        """
        if state.frozen and state.accepted & ~self.offered:
            raise ConfigurationError(
                f"the saved driver uses features {state.accepted:#x}, the device offers"
                f" {self.offered:#x}; restore it to the device that was saved"
            )
        self.device_select = state.device_select
        self.driver_select = state.driver_select
        self.accepted = state.accepted
        self.accepted_unknown = state.accepted_unknown
        self.frozen = state.frozen


def _bits(features: int) -> str:
    return ", ".join(str(bit) for bit in range(128) if features >> bit & 1)
