"""Messages into a guest: signalled one by one, and by a route of their own once they settle."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from vmm.kvm.ioctl import ioctl
from vmm.kvm.level_line import LevelLine
from vmm.kvm.routing import GsiRoutes, MsiSink
from vmm.kvm.vm import Vm
from vmm.x86 import Vcpu, layout, open_kvm
from vmm.x86.chips import create_chips
from vmm.x86.kvm.chips import KVM_GET_LAPIC, KVM_SET_LAPIC, LapicState
from vmm.x86.kvm.routing import chip_routes

MESSAGE = 0xFEE0_0000
SPURIOUS, REQUESTS = 0xF0, 0x200


class Processor:
    """A machine with one processor that never runs, whose local APIC takes messages."""

    def __init__(self, resources: ExitStack) -> None:
        kvm = resources.enter_context(open_kvm())
        self.vm = resources.enter_context(kvm.create_vm())
        create_chips(self.vm)
        self.vcpu = resources.enter_context(self.vm.create_vcpu(0, Vcpu))
        self.clear()

    def lapic(self) -> LapicState:
        state = LapicState()
        ioctl(self.vcpu.fd, KVM_GET_LAPIC, state)
        return state

    def clear(self) -> None:
        """Switch the local APIC on, with no interrupt requested."""
        state = self.lapic()
        registers = (ctypes.c_uint32 * 256).from_buffer(state)
        registers[SPURIOUS // 4] |= 0x100
        for word in range(8):
            registers[REQUESTS // 4 + 4 * word] = 0
        ioctl(self.vcpu.fd, KVM_SET_LAPIC, state)

    def requests(self) -> list[int]:
        """Return the interrupts that are requested, and forget them."""
        registers = (ctypes.c_uint32 * 256).from_buffer(self.lapic())
        words = [registers[REQUESTS // 4 + 4 * word] for word in range(8)]
        self.clear()
        return [number for number in range(256) if words[number // 32] >> number % 32 & 1]


@pytest.fixture
def processor() -> Iterator[Processor]:
    with ExitStack() as resources:
        yield Processor(resources)


def routes_of(vm: Vm, *gsis: int) -> GsiRoutes:
    return GsiRoutes(vm, chip_routes(), gsis or range(24, 32))


def test_message_reaches_its_processor(processor: Processor) -> None:
    sink = MsiSink(processor.vm, routes_of(processor.vm))

    sink.send(0, MESSAGE, 0x41)
    first = processor.requests()
    sink.send(1, MESSAGE, 0x55)

    assert (first, processor.requests()) == ([0x41], [0x55])
    assert sink.routed == {}


def test_message_to_nobody_is_lost(processor: Processor) -> None:
    MsiSink(processor.vm, routes_of(processor.vm)).send(0, MESSAGE | 7 << 12, 0x41)

    assert processor.requests() == []


def test_settled_vector_has_a_route_and_goes_on(processor: Processor) -> None:
    sink = MsiSink(processor.vm, routes_of(processor.vm))
    for _ in range(256):
        sink.send(3, MESSAGE, 0x41)
    before = processor.requests()

    sink.send(3, MESSAGE, 0x41)

    assert sink.routed == {3: 24}
    assert (before, processor.requests()) == ([0x41], [0x41])
    sink.close()


def test_another_message_is_sent_at_once_and_settles_again(processor: Processor) -> None:
    sink = MsiSink(processor.vm, routes_of(processor.vm))
    for _ in range(256):
        sink.send(0, MESSAGE, 0x41)
    processor.requests()

    sink.send(0, MESSAGE, 0x42)
    changed, routed = processor.requests(), sink.routed
    for _ in range(256):
        sink.send(0, MESSAGE, 0x42)

    assert (changed, routed) == ([0x42], {})
    assert processor.requests() == [0x42]
    sink.send(0, MESSAGE, 0x42)
    assert (sink.routed, processor.requests()) == ({0: 24}, [0x42])
    sink.close()


def test_routes_of_messages_leave_those_of_the_chips(processor: Processor) -> None:
    routes = routes_of(processor.vm)
    sinks = [MsiSink(processor.vm, routes) for _ in range(2)]
    for number, sink in enumerate(sinks):
        for _ in range(257):
            sink.send(0, MESSAGE, 0x41 + number)
    processor.requests()

    for sink in sinks:
        sink.send(0, MESSAGE, 0x41 + sinks.index(sink))
    LevelLine(processor.vm, layout.PCI_FIRST_IRQ).raise_()
    LevelLine(processor.vm, layout.PCI_FIRST_IRQ).lower()

    assert processor.requests() == [0x41, 0x42]
    assert [sink.routed for sink in sinks] == [{0: 24}, {0: 25}]
    for sink in sinks:
        sink.close()


def test_vector_without_a_gsi_left_goes_on_without_a_route(processor: Processor) -> None:
    routes = routes_of(processor.vm, 24)
    first, second = MsiSink(processor.vm, routes), MsiSink(processor.vm, routes)
    for sink in (first, second):
        for _ in range(300):
            sink.send(0, MESSAGE, 0x41)
    processor.requests()

    second.send(0, MESSAGE, 0x41)

    assert (first.routed, second.routed) == ({0: 24}, {})
    assert processor.requests() == [0x41]
    first.close()


def test_closed_sinks_give_everything_back(processor: Processor) -> None:
    routes = routes_of(processor.vm, 24)
    before = len(os.listdir("/proc/self/fd"))

    for number in range(20):
        sink = MsiSink(processor.vm, routes)
        for _ in range(257):
            sink.send(0, MESSAGE, 0x41 + number)
        assert sink.routed == {0: 24}
        sink.close()

    assert len(os.listdir("/proc/self/fd")) == before


def test_refused_route_is_not_kept(processor: Processor, caplog: pytest.LogCaptureFixture) -> None:
    routes = routes_of(processor.vm, 5000, 24)
    first, second = MsiSink(processor.vm, routes), MsiSink(processor.vm, routes)
    for sink in (first, second):
        for _ in range(257):
            sink.send(0, MESSAGE, 0x41)

    assert (first.routed, second.routed) == ({}, {0: 24})
    assert "KVM_SET_GSI_ROUTING" in caplog.text
    second.close()
