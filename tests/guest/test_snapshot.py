"""A machine is saved while it runs, and others go on from there, with guests of a few instructions.

The guest counts in its memory and prints each number as four bytes.
"""

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.guest.bare_metal import HALT_FOR_EVER, load32, say_eax
from virtio.errors import ConfigurationError
from vmm import Machine, MachineConfig, Snapshot
from vmm.ending.ending import End

COUNTER = 0x180_0000
DEADLINE = 120.0

BareMetal = Callable[[bytes], MachineConfig]


def counting() -> bytes:
    """1: inc dword [COUNTER]; print it; mov ecx, 2000; 2: dec ecx; jnz 2b; jmp 1b"""
    body = b"\xff\x05" + struct.pack("<I", COUNTER) + load32(COUNTER) + say_eax()
    body += b"\xb9" + struct.pack("<I", 2000) + b"\x49\x75\xfd"
    return body + b"\xe9" + struct.pack("<i", -(len(body) + 5))


def numbers(machine: Machine, count: int) -> tuple[int, ...]:
    """Wait for that many numbers and return the first ones."""
    deadline = time.monotonic() + DEADLINE
    while len(machine.console.history()) < 4 * count + 4:
        assert time.monotonic() < deadline, "the guest prints nothing"
        threading.Event().wait(0.001)
    return struct.unpack(f"<{count}I", machine.console.history()[: 4 * count])


@pytest.fixture
def snapshot(bare_metal: BareMetal) -> Iterator[Snapshot]:
    """A machine saved at its fifth number or somewhat later."""
    with Machine(bare_metal(counting())) as machine:
        machine.boot()
        numbers(machine, 5)
        saved = machine.snapshot()
        assert machine.ending is None
        before = len(machine.console.history())
        numbers(machine, before // 4 + 5)  # it goes on
    with saved:
        yield saved


def first_number(machine: Machine) -> int:
    """Return the first whole number that a restored machine prints: it may be saved within one."""
    machine.resume()
    numbers(machine, 4)
    history = machine.console.history()
    for start in range(4):
        one, two, three = struct.unpack_from("<3I", history, start)
        if (two, three) == (one + 1, one + 2):
            return int(one)
    raise AssertionError(f"no numbers: {history[:20].hex()}")


def test_machines_go_on_where_the_first_one_was(snapshot: Snapshot) -> None:
    with Machine.restore(snapshot) as one, Machine.restore(snapshot) as two:
        found = {first_number(one), first_number(two)}
    with Machine.restore(snapshot) as three:
        found.add(first_number(three))

    assert len(found) == 1
    assert 5 <= found.pop() < 1000


def test_a_machine_writes_to_pages_of_its_own(snapshot: Snapshot) -> None:
    with Machine.restore(snapshot) as machine:
        first_number(machine)

        # The first one is that of the generation ID, which each restored machine has for itself.
        assert machine.hardware.ram.written_pages() == [(0xDFFF0 // 4096, 1), (COUNTER // 4096, 1)]


def test_kvm_tells_which_pages_the_guest_wrote_since_it_was_asked(bare_metal: BareMetal) -> None:
    config = replace(bare_metal(counting()), balloon=0)
    with Machine(config) as machine:
        machine.boot()
        numbers(machine, 5)
        with machine.held():
            machine.hardware.platform.guest_writes()
            (written,) = machine.hardware.platform.guest_writes()
            assert not any(written)
            before = len(machine.console.history())
        numbers(machine, before // 4 + 5)
        with machine.held():
            (written,) = machine.hardware.platform.guest_writes()

    page = COUNTER // 4096
    assert written[page // 8] == 1 << page % 8
    assert not any(written[: page // 8] + written[page // 8 + 1 :])


def test_a_guest_without_a_driver_for_its_balloon_is_saved_as_any(bare_metal: BareMetal) -> None:
    with Machine(replace(bare_metal(counting()), balloon=1 << 20)) as machine:
        machine.boot()
        numbers(machine, 5)
        with machine.snapshot() as saved, Machine.restore(saved) as clone:
            assert first_number(clone) >= 5
            assert clone.balloon.target_bytes == 1 << 20
            assert clone.balloon.actual_bytes == 0


def test_a_guest_that_ends_while_it_is_asked_what_is_free_is_not_saved(
    bare_metal: BareMetal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Machine(bare_metal(counting())) as machine:
        machine.boot()
        asked = property(lambda machine: machine.end(End.STOPPED))
        monkeypatch.setattr(Machine, "_knows_free_pages", asked)

        with pytest.raises(ConfigurationError, match="does not run cannot be saved"):
            machine.snapshot()


def test_a_folder_holds_all_of_it(snapshot: Snapshot, tmp_path: Path) -> None:
    snapshot.save(tmp_path / "saved")
    with Machine.restore(snapshot) as machine:
        expected = first_number(machine)

    with Snapshot.load(tmp_path / "saved") as loaded, Machine.restore(loaded) as machine:
        assert loaded.state == snapshot.state
        assert first_number(machine) == expected
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["memory", "state"]
    assert (tmp_path / "saved" / "memory").stat().st_blocks * 512 < 1 << 20


def test_a_restored_machine_can_be_saved_again(snapshot: Snapshot) -> None:
    with Machine.restore(snapshot) as machine:
        first = first_number(machine)
        numbers(machine, 50)
        with machine.snapshot() as later, Machine.restore(later) as clone:
            assert first + 40 < first_number(clone)


def test_saving_twice_into_one_folder_is_refused(snapshot: Snapshot, tmp_path: Path) -> None:
    snapshot.save(tmp_path / "saved")

    with pytest.raises(ConfigurationError, match="saved: exists; choose a new name"):
        snapshot.save(tmp_path / "saved")


def test_a_paused_machine_stands_still(bare_metal: BareMetal) -> None:
    with Machine(bare_metal(counting())) as machine:
        machine.boot()
        numbers(machine, 5)
        machine.pause()
        before = machine.statistics.exits["io"]
        with machine.snapshot():
            pass
        assert machine.statistics.exits["io"] == before  # saving does not let it go on
        machine.resume()
        numbers(machine, before // 4 + 5)


def test_a_machine_that_has_ended_cannot_be_saved(bare_metal: BareMetal) -> None:
    with Machine(bare_metal(HALT_FOR_EVER)) as machine:
        with pytest.raises(ConfigurationError, match="does not run"):
            machine.snapshot()
        machine.boot()
        assert machine.wait(DEADLINE).end is End.HALTED
        with pytest.raises(ConfigurationError, match="does not run"):
            machine.snapshot()


@pytest.mark.usefixtures("nothing_to_collect")
@pytest.mark.timeout(300)
def test_a_hundred_restores_leave_nothing_behind(snapshot: Snapshot) -> None:
    def present() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = present()
    for _ in range(100):
        with Machine.restore(snapshot) as machine:
            machine.resume()

    assert present() == before


@pytest.mark.timeout(300)
def test_twenty_at_the_same_time(snapshot: Snapshot) -> None:
    with ExitStack() as stack:
        machines = [stack.enter_context(Machine.restore(snapshot)) for _ in range(20)]
        for machine in machines:
            machine.resume()

        assert len({first_number(machine) for machine in machines}) == 1
