"""Questions to a trace, for tests: what was between, how often, whether at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Final, overload

from vmm.trace.events import Event, Lost, Taken
from vmm.trace.requests import Request, Requests
from vmm.trace.text import TextWriter

if TYPE_CHECKING:
    from vmm.trace.tracer import Tracer

SHOWN: Final = 40
"""How many events are shown where an assertion fails."""

MOST_EVENTS: Final = 1 << 20
_LOOK_SECONDS: Final = 0.05

Where = str | Callable[[Event], bool]
"""The words that an event must have, as for :class:`~vmm.trace.filter.Filter`, or a function."""


class Trace(Sequence[Event]):
    """Events in the order of time; parts of it are traces, too.

        assert trace.between("write", "flush").count(kind="write") == 3
        assert not trace.after("reset").select("taken")
        assert trace.count("interrupt") * 8 <= trace.count("completed")

    Words are those that ``--filter`` takes: ``"block0 status"``. As text it is the story that
    ``vmm trace`` tells, which is what a failed assertion shows.
    """

    def __init__(self, events: Sequence[Event]) -> None:
        self._events = tuple(events)

    def _now(self) -> tuple[Event, ...]:
        return self._events

    def select(self, where: Where = "", **fields: object) -> Trace:
        """Return the events that have all words, and fields of these values."""
        fits = _test(where, fields)
        return Trace([one for one in self._now() if fits(one)])

    def count(self, where: Where = "", **fields: object) -> int:
        """Return how many events :meth:`select` would return."""
        return len(self.select(where, **fields))

    def first(self, where: Where = "", **fields: object) -> Event:
        """Return the first such event; raises :class:`LookupError` when there is none."""
        fits = _test(where, fields)
        for one in self._now():
            if fits(one):
                return one
        raise LookupError(f"no event fits {where!r} {fields or ''}in this trace:\n{self}")

    def last(self, where: Where = "", **fields: object) -> Event:
        """Return the last such event; raises :class:`LookupError` when there is none."""
        return Trace(self._now()[::-1]).first(where, **fields)

    def after(self, where: Where, **fields: object) -> Trace:
        """Return what came after the last such event; raises as :meth:`last`."""
        now = self._now()
        last = Trace(now).last(where, **fields)
        return Trace(now[max(index for index, one in enumerate(now) if one is last) + 1 :])

    def before(self, where: Where, **fields: object) -> Trace:
        """Return what came before the first such event; raises as :meth:`first`."""
        now = self._now()
        first = Trace(now).first(where, **fields)
        return Trace(now[: next(index for index, one in enumerate(now) if one is first)])

    def between(self, begin: Where, end: Where) -> Trace:
        """Return the events from the first of ``begin`` on, it included, up to the next ``end``.

        That one is not included. Raises :class:`LookupError` when there is no such pair.
        """
        now = self._now()
        first = Trace(now).first(begin)
        at = next(index for index, one in enumerate(now) if one is first)
        return Trace([first, *Trace(now[at + 1 :]).before(end)])

    @property
    def requests(self) -> list[Request]:
        """The requests that were completed in this trace, each with its times."""
        requests = Requests()
        found = [done for one in self._now() for done in requests.see(one)]
        return sorted([*found, *requests.rest()], key=lambda one: one.taken.at)

    @property
    def unanswered(self) -> list[Taken]:
        """The chains that were taken in this trace, and not given back."""
        now = Trace(self._now())
        done = {id(one.taken) for one in now.requests}
        taken = (one for one in now if isinstance(one, Taken))
        return [one for one in taken if id(one) not in done]

    def __len__(self) -> int:
        return len(self._now())

    def __iter__(self) -> Iterator[Event]:
        return iter(self._now())

    @overload
    def __getitem__(self, index: int) -> Event: ...

    @overload
    def __getitem__(self, index: slice) -> Trace: ...

    def __getitem__(self, index: int | slice) -> Event | Trace:
        return Trace(self._now()[index]) if isinstance(index, slice) else self._now()[index]

    def __str__(self) -> str:
        writer, now = TextWriter(), self._now()
        lines = [writer.line(one) for one in now[:SHOWN]]
        if len(now) > SHOWN:
            lines.append(f"... and {len(now) - SHOWN} more")
        return "\n".join(lines) or "no events"

    def __repr__(self) -> str:
        return f"<{len(self)} events\n{self}>"


class LiveTrace(Trace):
    """The trace of a machine up to now: each question first asks for what came meanwhile.

    Of more than ``MOST_EVENTS`` the first are forgotten, and a :class:`Lost` stands for them.
    """

    def __init__(self, tracer: Tracer) -> None:
        super().__init__(())
        self._tracer = tracer
        self._came: list[Event] = []
        self._changed = threading.Condition()
        tracer.on_events(self._take)

    def wait_for(self, where: Where, timeout: float, **fields: object) -> Event:
        """Return the first such event, waiting for it; raises :class:`TimeoutError`."""
        fits = _test(where, fields)
        deadline = time.monotonic() + timeout
        while (found := next(filter(fits, self._now()), None)) is None:
            # Not with the lock held: whoever hands on events has another one, and wants this.
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError(f"no event fits {where!r} in {timeout:g} s:\n{self}")
            with self._changed:
                self._changed.wait(min(left, _LOOK_SECONDS))
        return found

    def clear(self) -> None:
        """Forget the events until now."""
        self._tracer.flush()
        with self._changed:
            self._came.clear()

    def _take(self, events: Sequence[Event]) -> None:
        with self._changed:
            self._came += events
            if len(self._came) > MOST_EVENTS:
                lost = len(self._came) - MOST_EVENTS // 2
                at = self._came[lost].at
                self._came[:lost] = [Lost(at, count=lost)]
            self._changed.notify_all()

    def _now(self) -> tuple[Event, ...]:
        self._tracer.flush()
        with self._changed:
            self._came.sort(key=attrgetter("at"))
            return tuple(self._came)


def _test(where: Where, fields: dict[str, object]) -> Callable[[Event], bool]:
    if callable(where):
        by_words = where
    else:
        from vmm.trace.filter import Filter

        by_words = Filter(where).fits

    def fits(event: Event) -> bool:
        return by_words(event) and all(
            getattr(event, name, _NOTHING) == value for name, value in fields.items()
        )

    return fits


_NOTHING = object()
