"""A filter of events: the words that all of it must have, as ``'block0 status'``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from virtio.errors import ConfigurationError
from vmm.kvm.vcpu import EXIT_NAMES
from vmm.trace.events import TYPES, Event
from vmm.trace.names import REQUESTS
from vmm.trace.registers import MMIO, PCI_COMMON


class Filter:
    """Lets those events through that fit one of several alternatives, ``|`` between them.

    An alternative is words, all of which must fit: a device (``block0``), a queue (``block0/1``), a
    kind of event (``status``), what a request asks for (``write``), a thread (``vcpu-0``), a
    register (``QueueNotify``) or an exit's reason (``mmio``). With ``!`` before it, a word must not
    fit. ``devices`` are the names there are; without them every name of that form is taken.

    Raises :class:`ConfigurationError` for a word that no event has.

    >>> from vmm.trace.events import Kick
    >>> [one.queue for one in Filter("block0 kick").of([Kick(0, "", "block0", 1), Kick(0)])]
    [1]
    """

    def __init__(self, text: str = "", devices: Sequence[str] | None = None) -> None:
        self.text = text
        self._alternatives = [
            (
                frozenset(word for word in words if not word.startswith("!")),
                frozenset(word[1:] for word in words if word.startswith("!")),
            )
            for words in (part.split() for part in text.split("|"))
        ]
        if text and not all(wanted or unwanted for wanted, unwanted in self._alternatives):
            raise ConfigurationError(f"--filter {text!r}: there is no word in one of its parts")
        if devices is not None:
            self.check(devices)

    def check(self, devices: Sequence[str]) -> None:
        """Raise :class:`ConfigurationError` for a word that no event of such a machine has."""
        known = known_words(devices)
        for wanted, unwanted in self._alternatives:
            for word in sorted(wanted | unwanted):
                if word not in known and not _is_place(word, devices):
                    near = _nearest(word, known)
                    raise ConfigurationError(
                        f"--filter: no event has the word {word!r}; nearest are {', '.join(near)}"
                    )

    def fits(self, event: Event) -> bool:
        """Whether the event goes through."""
        if not self.text:
            return True
        words = event.words
        return any(
            wanted <= words and not unwanted & words for wanted, unwanted in self._alternatives
        )

    def of(self, events: Iterable[Event]) -> list[Event]:
        """Return the events that go through."""
        return [one for one in events if self.fits(one)]


def known_words(devices: Iterable[str]) -> set[str]:
    """Return the words of a machine with such devices."""
    kinds = {one.type for one in TYPES} | {"mmio", "port"}
    names = {*EXIT_NAMES.values(), *MMIO.values(), *PCI_COMMON.values(), *REQUESTS}
    threads = {"event-loop", "serial", "debug-exit", "pvpanic", "vcpu-0", "MainThread"}
    return kinds | names | threads | set(devices)


def _is_place(word: str, devices: Sequence[str]) -> bool:
    device, slash, queue = word.partition("/")
    if slash and device in devices and queue.isdecimal():
        return True
    return word.startswith("vcpu-") and word[5:].isdecimal()


def _nearest(word: str, known: set[str]) -> list[str]:
    from difflib import get_close_matches

    by_lower = {one.lower(): one for one in sorted(known)}
    near = get_close_matches(word.lower(), by_lower, n=3, cutoff=0.3)
    return [by_lower[one] for one in near] or sorted(known)[:3]
