"""The slots of a machine: the places on its buses where virtio devices are, or may be later."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Final, Literal, get_args

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from virtio.saved import Length, Within, check_saved, shown

Transport = Literal["mmio", "pci"]

_TRANSPORTS: Final = get_args(Transport)

PCI_SLOTS: Final = 32
"""Of a bus; the host bridge has the first one."""

MAX_SLOTS: Final = 2 * PCI_SLOTS
MAX_NAME_CHARACTERS: Final = 255

_FIRST: Final[dict[Transport, int]] = {"mmio": 0, "pci": 1}


class Slot(NamedTuple):
    """A place for one device, and the name of the device that is there, empty for none.

    ``number`` is that of a virtio-mmio window, from 0 on, or of a slot on the PCI bus.
    """

    transport: Transport
    number: Annotated[int, Within(0, PCI_SLOTS - 1)]
    device: Annotated[str, Length(MAX_NAME_CHARACTERS)] = ""


class Slots:
    """The slots of one machine; a device is taken out by the slot that it was given.

    >>> slots = Slots()
    >>> disk, spare = slots.add("pci", "block0"), slots.add("mmio")
    >>> slots.take("mmio", "entropy0") == spare._replace(device="entropy0")
    True
    >>> slots.give_back(disk)
    >>> slots.names, slots.spare("pci"), slots.spare("mmio")
    ({'entropy0'}, 1, 0)
    """

    def __init__(self) -> None:
        self._slots: list[Slot] = []

    def __iter__(self) -> Iterator[Slot]:
        """Give all slots, those of a bus in ascending order."""
        return iter(tuple(self._slots))

    def add(self, transport: Transport, device: str = "") -> Slot:
        """Make one more slot, with a device in it or without one.

        Raises :class:`ConfigurationError` on a bus that is full.
        """
        number = _FIRST[transport] + len(self._on(transport))
        if transport == "pci" and number >= PCI_SLOTS:
            raise ConfigurationError(
                f"all {PCI_SLOTS} PCI slots are taken, one of them by the host bridge: use fewer"
                " devices and spare slots, or put some on mmio"
            )
        self._slots.append(Slot(transport, number, device))
        return self._slots[-1]

    def take(self, transport: Transport, device: str) -> Slot:
        """Put a device into the lowest spare slot.

        Raises :class:`ConfigurationError` when there is none, and says how many there are.
        """
        of_bus = self._on(transport)
        spare = next((slot for slot in of_bus if not slot.device), None)
        if spare is None:
            raise ConfigurationError(
                f"{device}: none of the {len(of_bus)} {transport} slots of this machine is free:"
                " unplug a device first, or have more spare_slots"
            )
        return self._change(spare, device)

    def give_back(self, slot: Slot) -> None:
        """Let another device have the slot of one that was taken out."""
        self._change(slot, "")

    def spare(self, transport: Transport) -> int:
        """Return how many slots on a bus have no device."""
        return sum(not slot.device for slot in self._on(transport))

    @property
    def names(self) -> set[str]:
        """The names of all devices."""
        return {slot.device for slot in self._slots if slot.device}

    def _on(self, transport: Transport) -> list[Slot]:
        return [slot for slot in self._slots if slot.transport == transport]

    def _change(self, slot: Slot, device: str) -> Slot:
        changed = slot._replace(device=device)
        self._slots[self._slots.index(slot)] = changed
        return changed

    @classmethod
    def saved(cls, slots: Iterable[Slot], *, devices: int) -> "Slots":
        """Return the slots of a saved machine that has so many devices.

        Raises :class:`ConfigurationError` for slots that no such machine has.
        """
        found = cls()
        found._slots = sorted(slots)
        for slot in found:
            check_saved("slot", slot)
            if slot.device and not slot.device.isidentifier():
                raise ConfigurationError(f"saved slot: device is {shown(slot.device)}, no name")
        taken = [slot.device for slot in found if slot.device]
        if len(taken) != devices:
            raise ConfigurationError(
                f"saved machine: {len(taken)} virtio devices, it has {devices}"
            )
        if len(found.names) != devices:
            raise ConfigurationError("saved machine: two of its devices have the same name")
        for transport, first in _FIRST.items():
            numbers = [slot.number for slot in found._on(transport)]
            if numbers != list(range(first, first + len(numbers))):
                raise ConfigurationError(
                    f"saved machine: its {transport} slots have the numbers {numbers}, must be"
                    f" those from {first} on, each once"
                )
        return found


def check_transport(what: str, transport: Transport | None) -> None:
    """Raise :class:`ConfigurationError` for what is no transport; None leaves the choice open."""
    if transport is not None and transport not in _TRANSPORTS:
        allowed = " or ".join(_TRANSPORTS)
        raise ConfigurationError(f"{what}: transport {transport!r}: must be {allowed}")
