"""A real Linux boots from either image by either protocol, and its end is understood."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.guest.shell import BOOT_DEADLINE
from vmm.config import MachineConfig
from vmm.ending.ending import End, Ending
from vmm.image import default_initramfs, default_kernel
from vmm.kvm.vcpu import KVM_EXIT_INTERNAL_ERROR
from vmm.machine import Machine
from vmm.x86 import BootProtocol, is_emulated_host

pytestmark = pytest.mark.timeout(1200)


def run(config: MachineConfig) -> tuple[Ending, str]:
    with Machine(config) as machine:
        machine.boot()
        ending = machine.wait(BOOT_DEADLINE)
        return ending, machine.console.history().decode().replace("\r\n", "\n")


@pytest.fixture(scope="module")
def release() -> str:
    return default_kernel().release


@pytest.mark.parametrize("image", ["vmlinux", "bzimage"])
@pytest.mark.parametrize("boot", ["pvh", "linux64"])
def test_same_kernel_boots_from_both_images_by_both_protocols(
    image: str, boot: BootProtocol, release: str
) -> None:
    kernel: Path = getattr(default_kernel(bzimage=image == "bzimage"), image)
    config = MachineConfig(
        kernel=kernel,
        initrd=default_initramfs(),
        cmdline="quiet",
        boot=boot,
        init_arguments=("uname", "-r"),
    )
    ending, output = run(config)

    assert (ending.end, ending.status) == (End.REPORTED, 0)
    assert output.endswith(f"init: ready\n{release}\n")


def test_exit_status_of_the_guests_command_is_ours() -> None:
    ending, _ = run(MachineConfig(init_arguments=("sh", "-c", "exit 7")))

    assert (ending.end, ending.status) == (End.REPORTED, 7)


@pytest.mark.skipif(not is_emulated_host(), reason="hardware leaves no instruction to us")
def test_system_calls_and_smap_instructions_are_emulated_without_python() -> None:
    pytest.importorskip("vmm.x86._run", reason="the run loop in C was not built")
    with Machine(MachineConfig(init_arguments=("true",))) as machine:
        machine.boot()
        ending = machine.wait(BOOT_DEADLINE)
        emulated = machine.statistics.emulated
        by_python = machine.threads[0]._exits[KVM_EXIT_INTERNAL_ERROR]

    assert ending.status == 0
    assert emulated["syscall"] > 20
    by_c = sum(emulated[name] for name in ("clac", "stac", "syscall"))
    assert by_python <= sum(emulated.values()) - by_c + 10


@pytest.mark.alone
@pytest.mark.timeout(2700)  # it builds the kernel for several processors where there is none yet
def test_second_processor_comes_up_and_memory_beyond_the_hole_is_there() -> None:
    command = "echo processors: $(nproc); grep -m1 MemTotal /proc/meminfo"
    config = MachineConfig(cpus=2, memory_bytes=192 << 20, init_arguments=("sh", "-c", command))
    ending, output = run(config)

    assert ending.status == 0
    assert "processors: 2\n" in output


def test_kernel_panic_is_told_with_its_reason() -> None:
    config = MachineConfig(cmdline="rdinit=/nonexistent root=/dev/none", rng=False)
    ending, _ = run(config)

    assert (ending.end, ending.status) == (End.PANIC, 121)
    assert "No working init found" in ending.message
    assert any("Kernel panic - not syncing: No working" in line for line in ending.report)


def test_kernel_that_stays_after_its_panic_has_ended() -> None:
    config = MachineConfig(cmdline="rdinit=/nonexistent root=/dev/none panic=0", rng=False)
    ending, _ = run(config)

    assert (ending.end, ending.status) == (End.PANIC, 121)
    assert ending.rests_on == ("the kernel's log", "a kernel that stands still")


def test_program_that_prints_the_words_of_a_panic_ends_nothing() -> None:
    words = "Kernel panic - not syncing: old news"
    command = f"echo '{words}'; echo '---[ end {words} ]---'; sleep 15; exit 5"
    ending, _ = run(MachineConfig(rng=False, init_arguments=("sh", "-c", command)))

    assert (ending.end, ending.status) == (End.REPORTED, 5)


def test_reboot_is_told_from_a_power_off() -> None:
    ending, _ = run(MachineConfig(rng=False, init_arguments=("reboot",)))

    assert (ending.end, ending.status) == (End.REBOOT, 120)


def test_custom_initrd_bytes_and_file_are_the_same(tmp_path: Path) -> None:
    initrd = default_initramfs()
    config = MachineConfig(initrd=initrd.read_bytes(), rng=False, init_arguments=("true",))
    ending, _ = run(replace(config, memory_bytes=64 << 20))

    assert ending.status == 0
