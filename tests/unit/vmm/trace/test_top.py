"""The view of ``vmm top``: what it shows of counts, of the trace and of clocks."""

import os
import termios
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.unit.vmm.trace.example import STORY
from transport.stats import TransportStats
from vmm.machine import Machine
from vmm.stats import Statistics
from vmm.trace.events import Exit, Lost
from vmm.trace.screen import TopScreen
from vmm.trace.top import Top
from vmm.trace.tracer import Tracer

SECOND = 1_000_000_000


def statistics(kicks: int, done: int, exits: int) -> Statistics:
    stats = TransportStats(kicks, done // 2, done, 16 * done, 4096 * done, 0)
    return Statistics({"mmio": exits}, {}, {"block0": stats}, {})


class Clocks:
    def __init__(self) -> None:
        self.now = self.used = 0


def top() -> tuple[Top, Any, Clocks]:
    machine = SimpleNamespace(
        statistics=statistics(0, 0, 0), threads=[SimpleNamespace(cpu_clock=5)]
    )
    clocks = Clocks()
    return Top(cast(Machine, machine), lambda: clocks.now, lambda _: clocks.used), machine, clocks


def test_a_view_tells_rates_latencies_exits_and_the_time_of_vcpus() -> None:
    view, machine, clocks = top()
    view.feed([*STORY, Exit(0, "vcpu-0", reason="mmio", duration=SECOND // 2)])
    machine.statistics = statistics(10, 200, 30)
    clocks.now, clocks.used = 2 * SECOND, SECOND * 3 // 2

    assert view.view() == [
        "vmm top: up 2 s, of the last 2.0 s:",
        "",
        "device            kicks/s     done/s     irqs/s     read/s  written/s",
        "block0                  5        100         50       1.6K     400.0K",
        "",
        "queue          requests/s     p50 us     p90 us     p99 us     max us",
        "block0/0                1        5.9        7.0        7.0        7.0",
        "",
        "exits/s: mmio 15",
        "",
        "vCPU             running     exits      idle",
        "vcpu-0               50%       25%       25%",
    ]


def test_the_next_view_tells_of_what_came_since() -> None:
    view, machine, clocks = top()
    view.feed(STORY)
    machine.statistics = statistics(10, 200, 30)
    clocks.now = SECOND
    view.view()
    view.feed([Lost(0, count=7)])
    clocks.now = 2 * SECOND
    lines = view.view()
    assert "block0                  0          0          0          0          0" in lines
    assert "exits/s: none" in lines
    assert "lost: 7 records, the latencies are of the others" in lines
    assert not any(line.startswith("block0/0") for line in lines)


def test_the_view_on_a_pipe_has_no_codes_for_terminals_and_the_last_one_comes_at_the_end() -> None:
    view, _, _ = top()
    tracer = SimpleNamespace(on_events=lambda subscriber: None)
    reader, writer = os.pipe()
    try:
        screen = TopScreen(view, cast(Tracer, tracer), writer, 3600, lambda error: None)
        screen.start()
        screen.close()
        text = os.read(reader, 1 << 16)
    finally:
        os.close(reader)
        os.close(writer)
    assert b"\x1b" not in text
    assert text.startswith(b"vmm top:")


@pytest.mark.parametrize(("rows", "columns"), [(5, 20), (1, 1), (0, 0)])
def test_a_view_has_room_on_its_terminal(rows: int, columns: int) -> None:
    view, machine, _ = top()
    machine.statistics = statistics(10, 200, 30)
    tracer = SimpleNamespace(on_events=lambda subscriber: None)
    ours, theirs = os.openpty()
    try:
        termios.tcsetwinsize(theirs, (rows, columns))
        screen = TopScreen(view, cast(Tracer, tracer), theirs, 0.001, lambda error: None)
        screen.start()
        text = b""
        while text.count(b"\x1b[H\x1b[J") < 2:
            text += os.read(ours, 1 << 16)
        screen._ended.set()
        while b"\x1b[?1049l" not in text:
            text += os.read(ours, 1 << 16)
        screen.close()
    finally:
        os.close(ours)
        os.close(theirs)
    lines = text.replace(b"\r", b"").split(b"\x1b[H\x1b[J")[1].splitlines()
    assert len(lines) < (rows or 24)
    assert max(map(len, lines), default=0) <= (columns or 80)


def test_a_reader_that_goes_away_is_told_once() -> None:
    view, _, _ = top()
    tracer = SimpleNamespace(on_events=lambda subscriber: None)
    reader, writer = os.pipe()
    os.close(reader)
    gone: list[OSError] = []
    try:
        screen = TopScreen(view, cast(Tracer, tracer), writer, 0.001, gone.append)
        screen.start()
        screen.close()
    finally:
        os.close(writer)
    assert [type(error) for error in gone] == [BrokenPipeError]
