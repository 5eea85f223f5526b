"""What is known of one device and its driver: since the machine began, since the last reset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from transport.core import VirtioTransport
from transport.mmio.registers import VirtioMmio
from transport.status import VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK
from virtio.device.configuration import Field
from virtio.features import VIRTIO_F_RING_PACKED, mask
from virtio.named_tuple import NamedTuple
from vmm.driver_check.diagnosis import Diagnosis
from vmm.driver_check.duties import load_duties
from vmm.trace.events import NO_QUEUE

_PACKED: Final = mask(VIRTIO_F_RING_PACKED)


@dataclass(slots=True)
class QueueLife:
    """What a driver did with one queue since the last reset of the device, or of the queue.

    ``kicks``, ``taken`` and ``returned`` count, ``heard`` tells whether one of the kicks came in
    order. ``out`` are the chains that the device has. ``slots`` are the entries of a packed ring
    that were taken, with whether each began a list, and ``place`` is the next one.
    """

    written: set[str] = field(default_factory=set)
    ready: bool = False
    size: int = 0
    kicks: int = 0
    taken: int = 0
    returned: int = 0
    heard: bool = False
    out: set[int] = field(default_factory=set)
    resetting: bool = False
    place: int = 0
    slots: dict[int, bool] = field(default_factory=dict)


@dataclass(slots=True)
class Life:
    """What a driver did since the last reset.

    ``complete`` tells whether all of it was seen: a trace may begin in the midst of it.
    """

    complete: bool
    was_reset: bool = False
    reset_seen: bool = False
    read: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    selected: dict[str, int] = field(default_factory=dict)
    foreign_word: bool = False
    refused: bool = False
    accepted: int = 0
    status_read: bool = True
    interrupts: int = 0
    acknowledged: int = 0
    stopping: int | None = None
    unread_vectors: dict[str, int] = field(default_factory=dict)
    queues: dict[int, QueueLife] = field(default_factory=dict)

    def queue(self, index: int) -> QueueLife:
        """Return what is known of a queue."""
        found = self.queues.get(index)
        if found is None:
            found = self.queues[index] = QueueLife()
        return found


class Suspect(NamedTuple):
    """A chain that seems to have been made available twice: when, and in which batch of events."""

    at: int
    batch: int


@dataclass(slots=True)
class Tally:
    """How often the driver of a device kept each duty, and broke it."""

    name: str
    kept: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Count what another device of that name, before or after it, counted."""
        self.kept += other.kept
        self.broken += other.broken


class Case:
    """One device: the ``status`` that it shows, and the ``life`` of its driver.

    ``report`` gets each diagnosis, the first of its kind at each queue.
    """

    def __init__(self, transport: VirtioTransport, report: Callable[[Diagnosis], object]) -> None:
        self.transport = transport
        self.name = transport.name
        self.kind: Literal["mmio", "pci"] = "mmio" if isinstance(transport, VirtioMmio) else "pci"
        self.status = transport.status
        self.from_birth = not transport.reached
        self.life = Life(complete=self.from_birth)
        self.life.accepted = transport.features
        for index, one in enumerate(transport.queues):
            if one.queue is not None:
                queue = self.life.queue(index)
                queue.ready, queue.size = True, one.queue.size
                queue.taken = 1  # as far as anybody knows
        self.identified: set[str] = set()
        self.space_read = False
        self.command: int | None = None
        self.last = 0
        self.batch = 0
        self.lossy = not self.from_birth
        self.suspects: dict[tuple[int, int], Suspect] = {}
        self.tally = Tally(self.name)
        self.fields = _fields(transport)
        self._told: set[tuple[str, int, str]] = set()
        self._report = report

    def keeps(self, duty: str) -> None:
        """Note that the driver kept a duty."""
        self.tally.kept[duty] += 1

    def finds(self, mistake: str, queue: int = NO_QUEUE, *, each: str = "", **values: Any) -> None:
        """Note a mistake, and report it unless it was; ``values`` fill the places of its texts.

        ``each`` is what else it is reported anew for, such as the name of one of a few registers.
        """
        kind = load_duties().mistakes[mistake]
        if not kind.hint:
            self.tally.broken[kind.duty.id] += 1
        if (mistake, queue, each) in self._told:
            return
        self._told.add((mistake, queue, each))
        values |= {"queue": queue, **self.words}
        did, expected, then = (
            text.format_map(values) for text in (kind.did, kind.expected, kind.next)
        )
        self._report(Diagnosis(kind, self.name, queue, did, expected, then, self.last))

    def begin_life(self) -> None:
        """Forget what was before a reset."""
        self.life = Life(complete=True, was_reset=True)

    def reached(self, bit: int) -> bool:
        """Whether the device shows a bit of the status."""
        return bool(self.status & bit)

    @property
    def is_live(self) -> bool:
        """Whether the driver set DRIVER_OK."""
        return self.reached(VIRTIO_CONFIG_S_DRIVER_OK)

    @property
    def has_features(self) -> bool:
        """Whether features are settled."""
        return self.reached(VIRTIO_CONFIG_S_FEATURES_OK)

    @property
    def is_packed(self) -> bool:
        """Whether the driver accepted packed rings."""
        return bool(self.life.accepted & _PACKED)

    @property
    def queue_count(self) -> int:
        """How many queues there are under the features of now."""
        return sum(one.max_size > 0 for one in self.transport.queue_registers)

    def max_size(self, queue: int) -> int:
        """Return the largest size of a queue, 0 for one that does not exist."""
        registers = self.transport.queue_registers
        return registers[queue].max_size if 0 <= queue < len(registers) else 0

    @property
    def words(self) -> dict[str, str]:
        """How registers that texts speak of are called on this transport."""
        if self.kind == "mmio":
            return {"enable": "QueueReady", "select": "QueueSel", "transport": "mmio"}
        return {"enable": "queue_enable", "select": "queue_select", "transport": "pci"}

    def called(self, register: str) -> str:
        """Return what a register is called on this transport, by its name on MMIO."""
        return _PCI_NAMES.get(register, register) if self.kind == "pci" else register


_PCI_NAMES: Final = {
    "Status": "device_status",
    "DeviceFeatures": "device_feature",
    "DriverFeatures": "driver_feature",
    "DeviceFeaturesSel": "device_feature_select",
    "DriverFeaturesSel": "driver_feature_select",
    "QueueSizeMax": "queue_size",
    "QueueReset": "queue_reset",
    "QueueNotify": "the notification address",
}


def _fields(transport: VirtioTransport) -> dict[str, Field[Any]]:
    """Return the fields of the device's configuration, by the names that the trace has for them."""
    return {
        f"config.{name}": one
        for kind in reversed(type(transport.device).__mro__)
        for name, one in vars(kind).items()
        if isinstance(one, Field)
    }
