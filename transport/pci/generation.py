"""The configuration generation in the 8 bits that PCI has for it.

VIRTIO 1.4 "Device Configuration Space", "Common configuration structure layout".
"""

from typing import Annotated

from virtio.named_tuple import NamedTuple
from virtio.saved import U8, Within


class GenerationState(NamedTuple):
    """``oldest_read`` is -1 while nothing was read since the last step."""

    shown: U8
    oldest_read: Annotated[int, Within(-1, 0xFFFF_FFFF)]


class NarrowGeneration:
    """A byte that differs whenever a driver read a mixture of old and new configuration.

    The device counts its changes in 32 bits; their lowest byte would hide 256 changes between two
    looks of the driver. So the byte makes one step for any number of changes, and only after
    configuration was read that has changed since: a step that nobody can have asked for would only
    bring the wrap nearer (``PCI-37``).

    >>> generation = NarrowGeneration()
    >>> before = generation.look(0)
    >>> generation.reads(0)
    >>> generation.look(256) - before
    1
    """

    def __init__(self) -> None:
        self._shown = 0
        self._oldest_read: int | None = None

    def reads(self, changes: int) -> None:
        """Note that the driver reads configuration, which has changed ``changes`` times."""
        if self._oldest_read is None:
            self._oldest_read = changes

    def look(self, changes: int) -> int:
        """Return the byte for a driver that looks at it now."""
        if self._oldest_read is not None and self._oldest_read != changes:
            self._shown = (self._shown + 1) & 0xFF
            self._oldest_read = None
        return self._shown

    def state(self) -> GenerationState:
        """Return the byte, and how old what was read is."""
        return GenerationState(self._shown, -1 if self._oldest_read is None else self._oldest_read)

    def restore(self, state: GenerationState) -> None:
        """Restore what :meth:`state` returned."""
        self._shown = state.shown
        self._oldest_read = None if state.oldest_read < 0 else state.oldest_read
