"""Every way for a guest to end is told from the others, with bare-metal guests."""

import os
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.guest import bare_metal as bare
from virtio.errors import ConfigurationError
from vmm.config import MachineConfig
from vmm.console.log import ConsoleClosedError
from vmm.ending.ending import End, Ending, OnPanic
from vmm.machine import Machine
from vmm.x86 import is_emulated_host

Configure = Callable[[bytes], MachineConfig]

DEADLINE = 120.0


def run(config: MachineConfig, timeout: float = DEADLINE) -> Ending:
    with Machine(config) as machine:
        machine.boot()
        return machine.wait(timeout)


PANIC = "Kernel panic - not syncing: Attempted to kill init!\n"


@pytest.mark.parametrize(
    ("code", "end", "status"),
    [
        pytest.param(
            bare.say("[    1.234567] reboot: Power down\n") + bare.HALT_FOR_EVER,
            *(End.POWER_OFF, 0),
            id="power-off",
        ),
        pytest.param(bare.out8(0xF4, 0), End.REPORTED, 0, id="reports 0"),
        pytest.param(bare.out8(0xF4, 77), End.REPORTED, 77, id="reports 77"),
        pytest.param(bare.out8(0x64, 0xFE), End.REBOOT, 120, id="reboot by i8042"),
        pytest.param(
            bare.say("reboot: machine restart\n") + bare.UNDEFINED,
            *(End.REBOOT, 120),
            id="reboot by triple fault",
        ),
        pytest.param(
            bare.say(PANIC) + bare.out8(0x64, 0xFE), End.PANIC, 121, id="panic then reset"
        ),
        pytest.param(
            bare.say(PANIC) + bare.UNDEFINED, End.PANIC, 121, id="panic then triple fault"
        ),
        pytest.param(
            bare.say(PANIC + "---[ end " + PANIC) + bare.SPIN, *(End.PANIC, 121), id="panic, stays"
        ),
        pytest.param(
            bare.say("$ [    1.5] " + PANIC + "[    1.6] reboot: Restarting system\n")
            + bare.out8(0x64, 0xFE),
            *(End.REBOOT, 120),
            id="words of a panic, then an orderly reboot",
        ),
        pytest.param(bare.say(PANIC) + bare.HALT_FOR_EVER, End.PANIC, 121, id="panic then halt"),
        pytest.param(bare.out8(0x505, 1), End.PANIC, 121, id="panic by pvpanic"),
        pytest.param(
            bare.out8(0x505, 2) + bare.say("dumping\n") + bare.out8(0xF4, 0),
            *(End.PANIC, 121),
            id="panic by pvpanic, then a crash kernel",
        ),
        pytest.param(bare.UNDEFINED, End.TRIPLE_FAULT, 122, id="triple fault"),
        pytest.param(bare.HALT_FOR_EVER, End.HALTED, 126, id="halts for ever"),
    ],
)
def test_ending_has_its_own_status(
    bare_metal: Configure, code: bytes, end: End, status: int
) -> None:
    ending = run(bare_metal(code + bare.SPIN))

    assert (ending.end, ending.status) == (end, status)


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (bare.out8(0xF4, 7), "the guest reported status 7"),
        (bare.out8(0x64, 0xFE), "the guest asked for a reboot"),
        (bare.out8(0x505, 1), "the guest's kernel panicked: it gave no reason"),
        (bare.UNDEFINED, "vCPU 0: triple fault"),
        (bare.HALT_FOR_EVER, "every vCPU halted for ever"),
    ],
)
def test_who_waits_for_text_is_told_how_the_guest_ended(
    bare_metal: Configure, code: bytes, how: str
) -> None:
    with Machine(bare_metal(bare.say("up\n") + code + bare.SPIN)) as machine:
        machine.boot()
        with pytest.raises(ConsoleClosedError) as caught:
            machine.console.wait_for("never", timeout=DEADLINE)

    message, *lines = str(caught.value).splitlines()
    assert message.startswith(f"console: 'never' not seen: {how}")
    assert message.endswith("s of 120 s); the last lines were:")
    assert lines == ["    up"]


def test_signal_handler_may_end_the_wait_of_the_thread_it_interrupts(
    bare_metal: Configure,
) -> None:
    with Machine(bare_metal(bare.say("up\n") + bare.SPIN)) as machine:
        machine.boot()
        machine.console.wait_for("up", timeout=DEADLINE)
        before = signal.signal(signal.SIGUSR1, lambda *_: machine.end(End.INTERRUPTED, "enough"))
        machine.loop.call_later(0.1, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        try:
            with pytest.raises(ConsoleClosedError, match="'never' not seen: enough"):
                machine.console.wait_for("never", timeout=DEADLINE)
        finally:
            signal.signal(signal.SIGUSR1, before)


def test_guest_that_makes_no_end_is_stopped_with_its_position(bare_metal: Configure) -> None:
    ending = run(bare_metal(bare.say("on my way\n") + bare.SPIN), timeout=0.5)

    assert (ending.end, ending.status) == (End.TIMEOUT, 124)
    assert ending.message == "the guest made no end within its time of 0.5 s"
    assert "  on my way" in ending.report
    assert any(line.startswith("vCPU 0: rip 0x10000") for line in ending.report)


@pytest.mark.skipif(not is_emulated_host(), reason="needs a host without virtualization")
def test_instruction_that_cannot_be_completed_is_disassembled(bare_metal: Configure) -> None:
    xsave = bytes.fromhex("0f ae 20")  # xsave [eax]

    ending = run(bare_metal(xsave))

    assert (ending.end, ending.status) == (End.VCPU_FAILED, 123)
    assert "xsave" in "\n".join(ending.report)


def test_panic_message_is_in_the_ending(bare_metal: Configure) -> None:
    ending = run(bare_metal(bare.say(PANIC) + bare.out8(0x64, 0xFE) + bare.SPIN))

    assert ending.message == (
        "the guest's kernel panicked: Attempted to kill init! (the kernel's log, and a reset)"
    )
    assert "  " + PANIC.strip() in ending.report


@pytest.mark.parametrize(("on_panic", "dumped"), [("auto", True), ("wait", True), ("end", False)])
def test_guest_with_a_crash_kernel_dumps_itself_unless_that_is_not_wanted(
    bare_metal: Configure, on_panic: OnPanic, dumped: bool
) -> None:
    dump = bare.say("dumping\n") + bare.out8(0x64, 0xFE)
    config = replace(bare_metal(bare.out8(0x505, 2) + dump + bare.SPIN), on_panic=on_panic)
    with Machine(config) as machine:
        machine.boot()
        ending = machine.wait(DEADLINE)

    assert ending.end is End.PANIC
    assert ("a reset" in ending.rests_on) == dumped


def test_stop_ends_a_running_guest(bare_metal: Configure) -> None:
    with Machine(bare_metal(bare.say("up\n") + bare.SPIN)) as machine:
        machine.boot()
        machine.console.wait_for("up", timeout=DEADLINE)
        ending = machine.stop()

    assert (ending.end, ending.status) == (End.STOPPED, 0)


def test_first_ending_counts(bare_metal: Configure) -> None:
    with Machine(bare_metal(bare.out8(0xF4, 3) + bare.SPIN)) as machine:
        machine.boot()
        machine.wait(DEADLINE)
        ending = machine.stop()

    assert ending.status == 3


def test_machine_that_never_booted_is_left_in_good_order(bare_metal: Configure) -> None:
    with Machine(bare_metal(bare.SPIN)) as machine:
        assert machine.threads == []


@pytest.mark.usefixtures("nothing_to_collect")
def test_nothing_is_left_behind(bare_metal: Configure) -> None:
    config = bare_metal(bare.say("up\n") + bare.out8(0xF4, 0) + bare.SPIN)
    run(config)
    descriptors, threads = set(os.listdir("/proc/self/fd")), threading.active_count()

    run(config)

    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert threading.active_count() == threads


def test_kernel_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "script").write_bytes(b"#!/bin/sh\n" + b"\n" * 4096)
    with (
        Machine(MachineConfig(kernel=tmp_path / "script", rng=False)) as machine,
        pytest.raises(ConfigurationError, match="script"),
    ):
        machine.boot()


@pytest.mark.parametrize("end", [bare.out8(0x505, 1), bare.UNDEFINED])
def test_report_of_a_crash_shows_the_registers_at_that_moment(
    bare_metal: Configure, end: bytes
) -> None:
    load = b"\xbe" + (0x1234ABCD).to_bytes(4, "little")  # mov esi, 0x1234abcd
    spoil = b"\xbe" + bytes(4)

    ending = run(bare_metal(load + end + spoil + bare.SPIN))

    told = "\n".join(ending.report)
    # On AMD's processors no KVM has those of a triple fault.
    assert re.search("registers of vCPU 0(: lost| when the guest ended:)", told)
    assert "rsi 0x000000001234abcd" in told or "KVM has reset it at its triple fault" in told
