"""The tap of a vCPU: it leaves a debugger's handlers where they are, over or under its own."""

from types import SimpleNamespace
from typing import Any, cast

from vmm.exits import Bus, InstructionEmulator
from vmm.trace.decoder import Decoder
from vmm.trace.recorder import Recorder
from vmm.trace.taps import watch_vcpu
from vmm.vcpu import VcpuThread
from vmm.x86 import Vcpu

INTERRUPTED = 10


def vcpu_thread() -> VcpuThread:
    nothing: Any = SimpleNamespace()
    vcpu = SimpleNamespace(index=0, run_area=memoryview(bytearray(64)))
    return VcpuThread(
        cast(Vcpu, vcpu),
        cast(Bus, nothing),
        cast(Bus, nothing),
        cast(InstructionEmulator, nothing),
        lambda *_: None,
    )


def recorder() -> Recorder:
    hardware: Any = SimpleNamespace(transports=[])
    return Recorder(Decoder(hardware))


def test_a_debugger_below_the_trace_gets_its_exits_during_it_and_after() -> None:
    thread, notes = vcpu_thread(), recorder()
    thread.handlers[INTERRUPTED] = lambda: False
    theirs = thread.handlers[INTERRUPTED]
    watch_vcpu(notes, thread)
    assert thread.handlers[INTERRUPTED]() is False
    thread.watch(None)
    assert thread.handlers[INTERRUPTED] is theirs
    assert [one.kind for one in notes.read(last=True)] == ["exit"]


def test_a_debugger_above_the_trace_stays_when_that_ends() -> None:
    thread, notes = vcpu_thread(), recorder()
    watch_vcpu(notes, thread)
    thread.handlers[INTERRUPTED] = lambda: False
    theirs = thread.handlers[INTERRUPTED]
    thread.watch(None)
    assert thread.handlers[INTERRUPTED] is theirs


def test_setting_the_tap_twice_notes_an_exit_once_and_nothing_after_its_end() -> None:
    thread, notes = vcpu_thread(), recorder()
    thread.handlers[INTERRUPTED] = lambda: True
    watch_vcpu(notes, thread)
    watch_vcpu(notes, thread)
    thread.handlers[INTERRUPTED]()
    assert len(notes.read(last=True)) == 1
    kept = thread.handlers[INTERRUPTED]
    notes.close()
    kept()
    assert [one.kind for one in notes.read(last=True)] == ["lost"]
