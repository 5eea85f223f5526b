"""What stands behind the ACPI tables, used by bare-metal guests; and that --no-acpi takes it away.

Addresses are typed from what the tables say, which the unit tests hold against the specification.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.guest import bare_metal as bare
from vmm.config import MachineConfig
from vmm.ending.ending import End
from vmm.machine import Machine

Configure = Callable[[bytes], MachineConfig]

DEADLINE = 120.0
GENERATION_ID = 0xDFFF0

POWER_OFF = bare.out8(0x600, 0x34)
# Entry 3 of the IOAPIC: vector 0x23, edge-triggered, not masked.
LISTEN = (
    bare.store32(0xFEC00000, 0x17)
    + bare.store32(0xFEC00010, 0)
    + bare.store32(0xFEC00000, 0x16)
    + bare.store32(0xFEC00010, 0x23)
)
# mov dx, 0x604; 1: in eax, dx; test eax, eax; jz 1b; then say what was read
SAY_NEXT_EVENT = bytes.fromhex("66ba0406 ed 85c0 74fb") + bare.say_eax()


@pytest.mark.parametrize(
    ("code", "end"),
    [
        pytest.param(bare.out8(0x602, 0x42), End.REBOOT, id="reset register"),
        pytest.param(POWER_OFF, End.POWER_OFF, id="sleep control register"),
    ],
)
def test_a_register_ends_the_guest(bare_metal: Configure, code: bytes, end: End) -> None:
    with Machine(bare_metal(code + bare.SPIN)) as machine:
        machine.boot()

        assert machine.wait(DEADLINE).end is end


def test_without_acpi_the_registers_are_not_there(bare_metal: Configure) -> None:
    code = POWER_OFF + bare.out8(0x602, 0x42) + bare.out8(0xF4, 7)
    config = replace(bare_metal(code + bare.SPIN), acpi=False)

    with Machine(config) as machine:
        machine.boot()

        assert machine.wait(DEADLINE).status == 7
        assert bytes(machine.hardware.ram.view(0xE0000, 8)) == bytes(8)
        assert not machine.shutdown()


def test_a_guest_that_listens_hears_the_power_button(bare_metal: Configure) -> None:
    code = LISTEN + bare.say("ready\n") + SAY_NEXT_EVENT + POWER_OFF
    with Machine(bare_metal(code + bare.SPIN)) as machine:
        assert not machine.shutdown()
        machine.boot()
        machine.console.wait_for("ready\n", timeout=DEADLINE)

        assert machine.shutdown()

        assert machine.wait(DEADLINE).end is End.POWER_OFF


def test_a_guest_that_does_not_listen_is_not_asked(bare_metal: Configure) -> None:
    with Machine(bare_metal(bare.say("ready\n") + bare.SPIN)) as machine:
        machine.boot()
        machine.console.wait_for("ready\n", timeout=DEADLINE)

        assert not machine.shutdown()


def test_each_restored_guest_hears_of_a_generation_id_of_its_own(bare_metal: Configure) -> None:
    code = bare.say("ready\n") + SAY_NEXT_EVENT + POWER_OFF
    with Machine(bare_metal(code + bare.SPIN)) as machine:
        machine.boot()
        machine.console.wait_for("ready\n", timeout=DEADLINE)
        seen = [bytes(machine.hardware.ram.view(GENERATION_ID, 16))]
        snapshot = machine.snapshot()
    with snapshot:
        for _ in range(2):
            with Machine.restore(snapshot) as clone:
                seen.append(bytes(clone.hardware.ram.view(GENERATION_ID, 16)))
                clone.resume()
                assert clone.wait(DEADLINE).end is End.POWER_OFF
                assert clone.console.last_lines(1) == ["\\x02\\x00\\x00\\x00"]

    assert len(set(seen)) == 3
    assert bytes(16) not in seen


def test_a_press_that_was_not_read_is_saved(bare_metal: Configure) -> None:
    code = LISTEN + bare.say("ready\n") + bare.SPIN
    with Machine(bare_metal(code)) as machine:
        machine.boot()
        machine.console.wait_for("ready\n", timeout=DEADLINE)
        machine.shutdown()
        with machine.snapshot() as snapshot:
            assert snapshot.state.platform.acpi == (1,)
            with Machine.restore(snapshot) as clone:
                clone.resume()
                with clone.snapshot() as again:
                    assert again.state.platform.acpi == (3,)
