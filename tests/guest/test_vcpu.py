"""vCPU threads on the real KVM: exits reach the buses, and a vCPU can be reached at any moment."""

import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.guest import bare_metal as bare
from virtio.entropy import Entropy
from virtio.errors import HostError
from vmm.config import MachineConfig
from vmm.kvm.vcpu import KVM_EXIT_INTERNAL_ERROR
from vmm.machine import Machine
from vmm.x86 import is_emulated_host, open_kvm
from vmm.x86.chips import create_chips
from vmm.x86.kvm.msr import msr_indices
from vmm.x86.kvm.vcpu import Vcpu
from vmm.x86.vcpu_state import restore_vcpu, save_vcpu

Configure = Callable[[bytes], MachineConfig]

DEADLINE = 120.0


def test_mmio_read_reaches_the_device(bare_metal: Configure) -> None:
    code = bare.load32(0xC000_1000) + bare.say_eax() + bare.load32(0xC000_1008) + bare.say_eax()
    config = replace(bare_metal(code + bare.SPIN), devices=(Entropy,))
    with Machine(config) as machine:
        machine.boot()
        seen = machine.console.wait_for(b"virt\x04\x00\x00\x00", timeout=DEADLINE)

    assert seen == "virt\x04\x00\x00\x00"


def test_absent_port_and_memory_read_as_ones(bare_metal: Configure) -> None:
    in_from_absent_port = bytes.fromhex("66 ba 34 12 ec")  # mov dx, 0x1234; in al, dx
    say_al = bytes.fromhex("66 ba f8 03 ee")
    absent_memory = bare.load32(0xD000_0000) + bare.say_eax()
    code = in_from_absent_port + say_al + absent_memory + bare.out8(0xF4, 0) + bare.SPIN
    with Machine(bare_metal(code)) as machine:
        machine.boot()
        machine.wait(DEADLINE)
        output = machine.console.history()
        unclaimed = machine.statistics.unclaimed

    assert output == b"\xff" * 5
    assert unclaimed == {0x1234: 1}


def test_exits_are_counted_exactly(bare_metal: Configure) -> None:
    with Machine(bare_metal(bare.say("12345") + bare.out8(0xF4, 0) + bare.SPIN)) as machine:
        machine.boot()
        machine.wait(DEADLINE)
        exits = machine.statistics.exits

    assert exits["io"] == 6


def test_call_runs_between_two_entries_of_a_spinning_guest(bare_metal: Configure) -> None:
    with Machine(bare_metal(bare.say("up") + bare.SPIN)) as machine:
        machine.boot()
        machine.console.wait_for("up", timeout=DEADLINE)
        thread = machine.threads[0]
        names = {thread.call(lambda vcpu: threading.current_thread().name) for _ in range(200)}
        position = thread.call(lambda vcpu: vcpu.regs().rip)

    assert names == {"vcpu-0"}
    assert position == 0x100_0000 + len(bare.say("up"))


def test_call_after_the_end_runs_on_the_caller(bare_metal: Configure) -> None:
    with Machine(bare_metal(bare.out8(0xF4, 0) + bare.SPIN)) as machine:
        machine.boot()
        machine.wait(DEADLINE)
        name = machine.threads[0].call(lambda vcpu: threading.current_thread())

    assert name is threading.current_thread()


def test_error_in_a_call_reaches_the_caller_and_not_the_vcpu(bare_metal: Configure) -> None:
    with Machine(bare_metal(bare.say("up") + bare.SPIN)) as machine:
        machine.boot()
        machine.console.wait_for("up", timeout=DEADLINE)
        thread = machine.threads[0]
        with pytest.raises(HostError, match=r"KVM_SET_MSRS.*0x40001234"):
            thread.call(lambda vcpu: vcpu.set_msrs([(0x10, 0), (0x4000_1234, 1)]))
        index = thread.call(lambda vcpu: vcpu.index)

    assert index == 0


def test_stop_during_a_storm_of_kicks_and_calls(bare_metal: Configure) -> None:
    with Machine(bare_metal(bare.SPIN)) as machine:
        machine.boot()
        thread = machine.threads[0]
        callers = [
            threading.Thread(target=lambda: [thread.call(lambda vcpu: 1) for _ in range(100)])
            for _ in range(4)
        ]
        for caller in callers:
            caller.start()
        machine.stop()
        for caller in callers:
            caller.join(DEADLINE)

    assert not any(caller.is_alive() for caller in callers)


@pytest.mark.skipif(not is_emulated_host(), reason="this host can set a time-stamp counter")
def test_state_ahead_of_a_counter_that_cannot_be_set_is_refused() -> None:
    with open_kvm() as kvm, kvm.create_vm() as vm:
        create_chips(vm)
        with vm.create_vcpu(0, Vcpu) as vcpu:
            state = save_vcpu(vcpu, msr_indices(kvm))
            restore_vcpu(vcpu, state)
            ahead = replace(state, msrs=struct.pack("<IIQ", 0x10, 0, 1 << 62))
            with pytest.raises(HostError, match="time-stamp counter cannot be set: save the guest"):
                restore_vcpu(vcpu, ahead)


def test_most_smap_instructions_are_emulated_without_python(bare_metal: Configure) -> None:
    pytest.importorskip("vmm.x86._run", reason="the run loop in C was not built")
    if not is_emulated_host():
        pytest.skip("only a host without hardware virtualization leaves instructions to us")
    stack = b"\xbc" + struct.pack("<I", 0x180_0000)  # mov esp, 0x1800000
    say_flags = b"\x9c\x58" + bare.say_eax()  # pushfd; pop eax
    stac, clac = bytes.fromhex("0f 01 cb"), bytes.fromhex("0f 01 ca")
    loop = b"\xb9" + struct.pack("<I", 500) + stac + clac + b"\x49\x75\xf7"  # dec ecx; jnz
    code = stack + stac + say_flags + clac + say_flags + loop + bare.out8(0xF4, 0) + bare.SPIN
    with Machine(bare_metal(code)) as machine:
        machine.boot()
        machine.wait(DEADLINE)
        with_ac, without_ac = struct.unpack("<II", machine.console.history())
        statistics = machine.statistics
        seen_by_python = machine.threads[0]._exits[KVM_EXIT_INTERNAL_ERROR]

    assert (with_ac >> 18 & 1, without_ac >> 18 & 1) == (1, 0)
    assert statistics.emulated == {"stac": 501, "clac": 501}
    assert statistics.exits["internal-error"] == 1002
    assert seen_by_python == 0


def test_python_alone_emulates_the_same(
    bare_metal: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_emulated_host():
        pytest.skip("only a host without hardware virtualization leaves instructions to us")
    monkeypatch.setitem(sys.modules, "vmm.x86.native_run", None)  # as where it was not built
    stac, clac = bytes.fromhex("0f 01 cb"), bytes.fromhex("0f 01 ca")
    with Machine(bare_metal(stac + clac + bare.out8(0xF4, 0) + bare.SPIN)) as machine:
        machine.boot()
        machine.wait(DEADLINE)
        statistics = machine.statistics

    assert statistics.emulated == {"stac": 1, "clac": 1}
    assert statistics.exits["internal-error"] == 2
