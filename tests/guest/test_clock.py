"""A guest's clock hears of each time in which its vCPU did not run.

The guest sets up kvmclock as Linux does (KVM x86/msr.rst "MSR_KVM_SYSTEM_TIME_NEW") and prints a
word each time that bit 1 of its flags appears, which KVM_KVMCLOCK_CTRL sets.
"""

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.guest import bare_metal as bare
from vmm import Machine, MachineConfig

DEADLINE = 60.0
CLOCK = 0x180_0000
FLAGS = CLOCK + 29

BareMetal = Callable[[bytes], MachineConfig]


def clock_guest() -> bytes:
    """Set up the clock, say ``up``, then ``told`` for each time that the flag is set."""
    # mov ecx, 0x4b564d01; mov eax, CLOCK + 1; xor edx, edx; wrmsr
    set_up = b"\xb9" + struct.pack("<I", 0x4B56_4D01)
    set_up += b"\xb8" + struct.pack("<I", CLOCK | 1) + b"\x31\xd2\x0f\x30"
    # 1: test byte [FLAGS], 2; jz 1b; and byte [FLAGS], ~2
    watch = b"\xf6\x05" + struct.pack("<I", FLAGS) + b"\x02\x74\xf7"
    watch += b"\x80\x25" + struct.pack("<I", FLAGS) + b"\xfd"
    watch += bare.say("told\n")
    return set_up + bare.say("up\n") + watch + b"\xe9" + struct.pack("<i", -(len(watch) + 5))


def wait_told(machine: Machine) -> int:
    """Return how often the guest has said so, once it does."""
    machine.console.wait_for("told\n", timeout=DEADLINE)
    return machine.console.history().count(b"told")


def test_a_guest_that_was_not_stopped_hears_of_nothing(bare_metal: BareMetal) -> None:
    with Machine(bare_metal(clock_guest() + bare.SPIN)) as machine:
        machine.boot()
        machine.console.wait_for("up\n", timeout=DEADLINE)
        for _ in range(20):
            machine.threads[0].call(lambda vcpu: vcpu.regs().rip)

        assert b"told" not in machine.console.history()


def test_a_pause_is_told_to_the_guests_clock(bare_metal: BareMetal) -> None:
    with Machine(bare_metal(clock_guest())) as machine:
        machine.boot()
        machine.console.wait_for("up\n", timeout=DEADLINE)
        machine.pause()
        machine.resume()

        assert wait_told(machine) == 1


def test_a_snapshot_is_told_to_the_clocks_of_the_guest_and_of_its_clone(
    bare_metal: BareMetal,
) -> None:
    with Machine(bare_metal(clock_guest())) as machine:
        machine.boot()
        machine.console.wait_for("up\n", timeout=DEADLINE)
        with machine.snapshot() as snapshot, Machine.restore(snapshot) as clone:
            clone.resume()

            assert wait_told(clone) == 1
        assert wait_told(machine) == 1


CHILD = """
import sys
from pathlib import Path
from tests.guest.test_clock import wait_told
from vmm import Machine, MachineConfig
with Machine(MachineConfig(kernel=Path(sys.argv[1]))) as machine:
    machine.boot()
    machine.console.wait_for("up\\n", timeout=60)
    print("up", flush=True)
    sys.exit(wait_told(machine) != 1)
"""


@pytest.mark.parametrize("stop", [signal.SIGSTOP, signal.SIGTSTP])
def test_a_stop_of_the_process_is_told_to_the_guests_clock(
    bare_metal: BareMetal, stop: signal.Signals
) -> None:
    kernel = bare_metal(clock_guest()).kernel
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(kernel)], stdout=subprocess.PIPE, process_group=0
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
            child.send_signal(stop)
            _, status = os.waitpid(child.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            child.send_signal(signal.SIGCONT)

            assert child.wait(DEADLINE) == 0
        finally:
            child.kill()
