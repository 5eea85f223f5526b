"""A view of a running machine: rates, latencies, exits, and where the time of each vCPU goes.

Counts are those of :mod:`vmm.stats`, latencies and the time of exits come from the trace.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vmm.console.text import printable
from vmm.stats import Statistics
from vmm.trace.events import Event, Exit, Lost
from vmm.trace.requests import Requests

if TYPE_CHECKING:
    from vmm.machine import Machine

SAMPLES: Final = 10_000
"""Of the latencies of a queue; of more in one interval the last ones count."""

_PERCENTILES: Final = (50, 90, 99)


@dataclass(slots=True)
class _Times:
    """What the trace has told since the last view."""

    latencies: dict[str, deque[int]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=SAMPLES))
    )
    requests: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    lost: int = 0


class Top:
    """Makes views of a machine that is traced: each tells of the time since the one before.

    ``clock`` and ``cpu_clock`` return nanoseconds: of the world, and of the processor time of a
    vCPU's thread, which does not run while the guest is halted.
    """

    def __init__(
        self,
        machine: Machine,
        clock: Callable[[], int] = time.monotonic_ns,
        cpu_clock: Callable[[int], int] = time.clock_gettime_ns,
    ) -> None:
        self._machine = machine
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._requests = Requests()
        self._times = _Times()
        self._used: dict[str, int] = {}
        self._before = machine.statistics
        self._at = self._start = clock()
        self._used = self._used_now()

    def feed(self, events: Sequence[Event]) -> None:
        """Take the events of the trace."""
        times = self._times
        for event in events:
            if isinstance(event, Exit):
                times.served[event.thread] += event.duration
            elif isinstance(event, Lost):
                times.lost += event.count
            else:
                for one in self._requests.see(event):
                    place = one.taken.place
                    times.requests[place] += 1
                    times.latencies[place].append(one.end - one.begin)

    def view(self) -> list[str]:
        """Return the lines of a view, of the time since the last one."""
        now, stats, used = self._clock(), self._machine.statistics, self._used_now()
        times, self._times = self._times, _Times()
        seconds = max((now - self._at) / 1e9, 1e-9)
        lines = [f"vmm top: up {(now - self._start) / 1e9:.0f} s, of the last {seconds:.1f} s:", ""]
        lines += _devices(self._before, stats, seconds)
        lines += _queues(times, seconds)
        lines += _exits(self._before, stats, seconds)
        lines += self._vcpus(times, used, seconds)
        if times.lost:
            lines += ["", f"lost: {times.lost} records, the latencies are of the others"]
        self._before, self._at, self._used = stats, now, used
        return [printable(line) for line in lines]

    def _used_now(self) -> dict[str, int]:
        """Return the processor time of each vCPU's thread, that of an ended one as it was."""
        used = {}
        for number, thread in enumerate(self._machine.threads):
            name = f"vcpu-{number}"
            try:
                used[name] = self._cpu_clock(thread.cpu_clock) if thread.cpu_clock else 0
            except OSError:
                used[name] = self._used.get(name, 0)
        return used

    def _vcpus(self, times: _Times, used: dict[str, int], seconds: float) -> Iterator[str]:
        yield ""
        yield f"{'vCPU':<14}{'running':>10}{'exits':>10}{'idle':>10}"
        for name, now in used.items():
            busy = min((now - self._used.get(name, 0)) / 1e9 / seconds, 1.0)
            served = min(times.served[name] / 1e9 / seconds, 1.0)
            running = max(busy - served, 0.0)
            idle = max(1.0 - running - served, 0.0)
            yield f"{name:<14}{running:>10.0%}{served:>10.0%}{idle:>10.0%}"


def _devices(before: Statistics, stats: Statistics, seconds: float) -> Iterator[str]:
    heads = ("kicks/s", "done/s", "irqs/s", "read/s", "written/s")
    yield f"{'device':<14}" + "".join(f"{head:>11}" for head in heads)
    for name, now in stats.devices.items():
        old = before.devices.get(name)
        zero = (0,) * len(now)
        kicks, interrupts, done, read, written, _ = (
            max(new - past, 0) / seconds for new, past in zip(now, old or zero, strict=True)
        )
        cells = (
            *(f"{rate:.0f}" for rate in (kicks, done, interrupts)),
            *(_size(rate) for rate in (read, written)),
        )
        yield f"{name:<14}" + "".join(f"{cell:>11}" for cell in cells)


def _queues(times: _Times, seconds: float) -> Iterator[str]:
    yield ""
    heads = ("requests/s", *(f"p{one} us" for one in _PERCENTILES), "max us")
    yield f"{'queue':<14}" + "".join(f"{head:>11}" for head in heads)
    for place, latencies in sorted(times.latencies.items()):
        ordered = sorted(latencies)
        shown = [percentile(ordered, one) / 1000 for one in _PERCENTILES] + [ordered[-1] / 1000]
        rate = f"{times.requests[place] / seconds:>11.0f}"
        yield f"{place:<14}{rate}" + "".join(f"{one:>11.1f}" for one in shown)


def _exits(before: Statistics, stats: Statistics, seconds: float) -> Iterator[str]:
    yield ""
    rates = {
        name: (count - before.exits.get(name, 0)) / seconds for name, count in stats.exits.items()
    }
    shown = [f"{name} {rate:.0f}" for name, rate in rates.items() if rate > 0]
    yield f"exits/s: {', '.join(shown) or 'none'}"


def percentile(ordered: Sequence[int], percent: int) -> int:
    """Return the smallest value that so many percent of some ordered values do not exceed.

    >>> percentile([1, 2, 3, 4], 50), percentile([1, 2, 3, 4], 99)
    (2, 4)
    """
    return ordered[max(-(-len(ordered) * percent // 100) - 1, 0)]


def _size(value: float) -> str:
    """Return a number of bytes with a unit.

    >>> _size(0), _size(4096), _size(3 << 20)
    ('0', '4.0K', '3.0M')
    """
    units = ["", "K", "M", "G", "T"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        del units[0]
    return f"{value:.1f}{units[0]}" if units[0] else f"{value:.0f}"
