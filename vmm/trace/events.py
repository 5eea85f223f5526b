"""The events of a trace: each a type of its own, with when, on which thread, device and queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

Descriptor = tuple[int, int, int]
"""Guest-physical address, length, and whether the device may write it (``VIRTQ_DESC_F_WRITE``)."""

NO_QUEUE = -1


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at ``at`` nanoseconds of ``CLOCK_MONOTONIC``.

    ``thread`` is that of the host on which it did, ``device`` the name of the device and ``queue``
    the number of its queue, where there is one.
    """

    type: ClassVar[str] = "event"

    at: int
    thread: str = ""
    device: str = ""
    queue: int = NO_QUEUE

    @property
    def kind(self) -> str:
        """The word for what happened; of a request what it asks for, where that is known."""
        return self.type

    @property
    def details(self) -> str:
        """The rest of it, as text."""
        return ""

    @property
    def place(self) -> str:
        """Device and queue, as text."""
        return f"{self.device}/{self.queue}" if self.queue != NO_QUEUE else self.device

    @property
    def words(self) -> frozenset[str]:
        """The words by which a filter finds it."""
        return _common_words(self)


def _common_words(event: Event, *more: str) -> frozenset[str]:
    common = event.type, event.kind, event.device, event.place, event.thread
    return frozenset((*common, *more)) - {""}


@dataclass(frozen=True, slots=True)
class Exit(Event):
    """A vCPU left the guest, and was served for ``duration`` nanoseconds."""

    type = "exit"
    reason: str = ""
    duration: int = 0

    @property
    def details(self) -> str:
        return f"{self.reason}, {self.duration / 1000:.1f} us"

    @property
    def words(self) -> frozenset[str]:
        return _common_words(self, self.reason)


@dataclass(frozen=True, slots=True)
class Access(Exit):
    """An access of the guest to ``register``, by MMIO or a port; ``meaning`` is its value's."""

    address: int = 0
    length: int = 0
    value: int = 0
    is_write: bool = False
    register: str = ""
    meaning: str = ""

    @property
    def kind(self) -> str:
        return "port" if self.reason == "io" else "mmio"

    @property
    def details(self) -> str:
        name = self.register or f"{self.address:#x}"
        arrow = "=" if self.is_write else "->"
        return f"{name} {arrow} {self.meaning or f'{self.value:#x}'}"

    @property
    def words(self) -> frozenset[str]:
        return _common_words(self, self.reason, self.register)


@dataclass(frozen=True, slots=True)
class Status(Event):
    """The device status went from ``before`` to ``after``; ``names`` are its bits."""

    type = "status"
    before: int = 0
    after: int = 0
    names: str = ""

    @property
    def details(self) -> str:
        return self.names


@dataclass(frozen=True, slots=True)
class Features(Event):
    """The driver set FEATURES_OK; ``taken`` says whether the device agreed."""

    type = "features"
    offered: int = 0
    accepted: int = 0
    taken: bool = True
    names: str = ""

    @property
    def details(self) -> str:
        return f"{self.names or 'none'}{'' if self.taken else ': refused by the device'}"


@dataclass(frozen=True, slots=True)
class Reset(Event):
    """A device is reset."""

    type = "reset"


@dataclass(frozen=True, slots=True)
class QueueEnabled(Event):
    """A queue was enabled with ``size`` entries, or disabled, with none."""

    type = "queue"
    size: int = 0

    @property
    def details(self) -> str:
        return f"enabled with {self.size} entries" if self.size else "disabled"


@dataclass(frozen=True, slots=True)
class Kick(Event):
    """The device hears that the driver notified it, ``count`` times since the last one."""

    type = "kick"
    count: int = 1

    @property
    def details(self) -> str:
        return f"{self.count} at once" if self.count > 1 else ""


@dataclass(frozen=True, slots=True)
class Taken(Event):
    """The device took a chain: ``request`` is what it asks for, and ``what`` that in words.

    ``id`` is the name by which it goes back. ``total`` is how many descriptors there are; of very
    long chains ``descriptors`` has the first. ``head`` are its first bytes that can be read.
    """

    type = "taken"
    id: int = 0
    total: int = 0
    head: bytes = b""
    descriptors: tuple[Descriptor, ...] = ()
    request: str = ""
    what: str = ""

    @property
    def kind(self) -> str:
        return self.request or self.type

    @property
    def readable(self) -> int:
        """The bytes that the device may read, as far as descriptors are told."""
        return sum(length for _, length, writes in self.descriptors if not writes)

    @property
    def writable(self) -> int:
        """The bytes that it may write."""
        return sum(length for _, length, writes in self.descriptors if writes)

    @property
    def details(self) -> str:
        parts = " ".join(
            f"{'+' if writes else '-'}{length}" for _, length, writes in self.descriptors[:8]
        )
        more = f" and {self.total - 8} more" if self.total > 8 else ""
        return f"{self.what + ', ' if self.what else ''}chain {self.id} [{parts}{more}]"


@dataclass(frozen=True, slots=True)
class Completed(Event):
    """The device gave a chain back, with ``length`` bytes written."""

    type = "completed"
    id: int = 0
    length: int = 0

    @property
    def details(self) -> str:
        return f"chain {self.id}, {self.length} bytes written"


@dataclass(frozen=True, slots=True)
class Interrupt(Event):
    """The driver was told of used buffers."""

    type = "interrupt"


@dataclass(frozen=True, slots=True)
class Message(Event):
    """A message of MSI-X was sent."""

    type = "msi"
    vector: int = 0
    address: int = 0
    data: int = 0

    @property
    def details(self) -> str:
        return f"vector {self.vector}, {self.data:#x} to {self.address:#x}"


@dataclass(frozen=True, slots=True)
class ConfigurationChange(Event):
    """The driver was told that the configuration, or the device status, changed."""

    type = "config"


@dataclass(frozen=True, slots=True)
class Dropped(Event):
    """The driver did something that had no effect."""

    type = "dropped"
    what: str = ""

    @property
    def details(self) -> str:
        return self.what


@dataclass(frozen=True, slots=True)
class Breach(Event):
    """The driver broke the rule ``item``, or without one the device failed."""

    type = "breach"
    item: str = ""
    message: str = ""

    @property
    def details(self) -> str:
        return f"{self.item}: {self.message}" if self.item else self.message

    @property
    def words(self) -> frozenset[str]:
        return _common_words(self, self.item)


@dataclass(frozen=True, slots=True)
class Command(Event):
    """A request to the agent in the guest begins, or the one of that ``number`` is done."""

    type = "command"
    number: int = 0
    step: str = ""
    what: str = ""

    @property
    def details(self) -> str:
        return f"#{self.number} {self.step} {self.what}".rstrip()


@dataclass(frozen=True, slots=True)
class Snapshot(Event):
    """The machine was saved; it stood still for ``duration`` nanoseconds."""

    type = "snapshot"
    duration: int = 0

    @property
    def details(self) -> str:
        return f"stood still for {self.duration / 1e6:.1f} ms"


@dataclass(frozen=True, slots=True)
class Milestone(Event):
    """The guest came to a point on its way: ``what``."""

    type = "boot"
    what: str = ""

    @property
    def details(self) -> str:
        return self.what


@dataclass(frozen=True, slots=True)
class Lost(Event):
    """So many records were lost before this one, as nobody read them in time."""

    type = "lost"
    count: int = 0

    @property
    def details(self) -> str:
        return f"{self.count} records"


TYPES: tuple[type[Event], ...] = (
    Exit,
    Access,
    Status,
    Features,
    Reset,
    QueueEnabled,
    Kick,
    Taken,
    Completed,
    Interrupt,
    Message,
    ConfigurationChange,
    Dropped,
    Breach,
    Command,
    Snapshot,
    Milestone,
    Lost,
)
