"""Which memory a snapshot leaves out: what the guest hinted at, and nobody wrote to since then."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from virtio.balloon.pages import PAGE_BYTES, Range
from vmm.balloon.free_pages import frozen_with_free_pages, unwritten

HIGH = 1 << 32
REGIONS = [(0, 16 * PAGE_BYTES), (HIGH, 16 * PAGE_BYTES)]


class FakeMachine:
    """A machine of two devices, whose guest answers with ``hints`` and does ``meanwhile``."""

    def __init__(self, hints: list[Range]) -> None:
        self.told = hints
        self.written = [bytes(2), bytes(2)]
        self.written_before = [b"\xff\xff", b"\xff\xff"]
        self.emulator_writes = 0
        self.device = object()
        self.stats = SimpleNamespace(bytes_written=0)
        self.state = SimpleNamespace(status=15, queues=[None])
        self.state.queues = [SimpleNamespace(queue=SimpleNamespace(outstanding=()))]
        self.meanwhile: Callable[[FakeMachine], object] = id

    def hints(self) -> list[Range]:
        self.meanwhile(self)
        return self.told

    def guest_writes(self) -> list[bytes]:
        found, self.written_before = self.written_before, self.written
        return found

    def file_offset(self, address: int) -> int:
        return address if address < HIGH else address - HIGH + 16 * PAGE_BYTES

    @contextmanager
    def frozen(self) -> Iterator[dict[str, Any]]:
        yield {"block0": SimpleNamespace(**vars(self.state)), "balloon": None}

    def unused(self) -> list[Range]:
        """Return what a snapshot of this machine leaves out."""
        hardware: Any = SimpleNamespace(
            platform=self,
            ram=SimpleNamespace(regions=REGIONS, file_offset=self.file_offset),
            transports=[
                SimpleNamespace(name="balloon", device=self.device, stats=SimpleNamespace()),
                SimpleNamespace(name="block0", device=None, stats=self.stats),
            ],
        )
        balloon: Any = self
        with frozen_with_free_pages(hardware, balloon, self.frozen) as (_, unused):
            return unused


def pages(first: int, count: int) -> Range:
    return first * PAGE_BYTES, count * PAGE_BYTES


def test_what_is_hinted_at_is_left_out() -> None:
    machine = FakeMachine([(HIGH, 2 * PAGE_BYTES), pages(3, 4)])

    assert machine.unused() == [pages(3, 4), pages(16, 2)]


def test_page_that_the_guest_wrote_after_the_question_is_kept() -> None:
    machine = FakeMachine([pages(0, 16)])
    machine.written = [b"\x10\x80", bytes(2)]

    assert machine.unused() == [pages(0, 4), pages(5, 10)]


def wrote(machine: FakeMachine) -> None:
    machine.stats.bytes_written += 1


def took_a_request(machine: FakeMachine) -> None:
    machine.state.queues = [SimpleNamespace(queue=SimpleNamespace(outstanding=(7,)))]


def was_reset(machine: FakeMachine) -> None:
    machine.state.status = 0


def emulated(machine: FakeMachine) -> None:
    machine.emulator_writes += 1


@pytest.mark.parametrize("work", [wrote, took_a_request, was_reset, emulated])
def test_all_is_kept_when_the_monitor_may_have_written_to_it(work: Any) -> None:
    machine = FakeMachine([pages(0, 16)])
    machine.meanwhile = work

    assert machine.unused() == []


@pytest.mark.parametrize(
    ("hints", "expected"),
    [
        ([(0, 1 << 40)], [pages(0, 16), (HIGH, 16 * PAGE_BYTES)]),
        ([(1, 2 * PAGE_BYTES)], [pages(1, 1)]),
        ([(1 << 50, PAGE_BYTES), (0, 0), (5, 9)], []),
        ([pages(1, 2), pages(2, 3), pages(1, 1)] * 3, [pages(1, 4)]),
    ],
)
def test_a_lie_about_pages_names_whole_pages_of_ram_and_each_once(
    hints: list[Range], expected: list[Range]
) -> None:
    assert list(unwritten(hints, REGIONS, [bytes(2), bytes(2)])) == expected
