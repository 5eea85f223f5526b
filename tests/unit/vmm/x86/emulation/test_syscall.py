"""Finishing SYSCALL: the state that a host without hardware virtualization leaves, and near misses.

The values are those of a Linux guest: its SFMASK, selectors and a #PF handler with and without
ENDBR64. What the handler's CLAC finds was recorded on such a host.
"""

import logging
import struct

import pytest

from virtio.memory import FlatMemory
from vmm.x86.emulation import Emulator
from vmm.x86.kvm.registers import Regs, Sregs

HANDLER = 0xFFFFFFFF81C00B40  # in physical page 0
LSTAR = 0xFFFFFFFF81E00000
STACK = 0xFFFFFE0000002FA8  # in physical page 1, where the frame begins
IDT = 0xFFFFFE0000000000  # physical page 2
SFMASK = 0x257FD5
STAR = 0x0023_0010_0000_0000
USER_FLAGS = 0x246  # R11: IF, ZF, PF
CLAC = bytes.fromhex("0f01ca")
ENDBR64_CLAC = bytes.fromhex("f30f1efa0f01ca")


class FakeCpu:
    """A vCPU at the CLAC of the #PF handler, entered from a half-done SYSCALL."""

    by_c = False

    def __init__(self, handler: bytes = CLAC) -> None:
        self.ram = bytearray(0x3000)
        self.memory = FlatMemory([(0, self.ram)])
        self.pages = {HANDLER >> 12: 0, STACK >> 12: 1, IDT >> 12: 2}
        self.msrs = {0xC0000081: STAR, 0xC0000082: LSTAR, 0xC0000084: SFMASK}
        self.injected: list[int] = []
        self.ram[0xB40 : 0xB40 + len(handler)] = handler
        clac = HANDLER + handler.index(CLAC)
        self.state = Regs(rip=clac, rsp=STACK, rflags=2, rcx=0x401002, r11=USER_FLAGS, rax=60)
        self.system = Sregs(efer=0xD01, cr0=0x80050033, cr4=0x2006B0, cr2=LSTAR)
        self.system.cs.selector, self.system.cs.l = 0x10, 1
        self.system.idt.base, self.system.idt.limit = IDT, 0xFFF
        self.ram[0x20E0:0x20F0] = bytes.fromhex("400b1000008ec081ffffffff00000000")
        self.frame(0x15, LSTAR, 0x33, 0x10002, 0x7FFD12345678, 0x2B)

    def frame(self, *words: int) -> None:
        """Store error code, RIP, CS, RFLAGS, RSP and SS on the stack."""
        struct.pack_into("<6Q", self.ram, 0x1FA8, *words)

    def regs(self) -> Regs:
        return Regs.from_buffer_copy(self.state)

    def set_regs(self, regs: Regs, /) -> None:
        self.state = Regs.from_buffer_copy(regs)

    def sregs(self) -> Sregs:
        return Sregs.from_buffer_copy(self.system)

    def msr(self, index: int, /) -> int:
        return self.msrs[index]

    def translate(self, virtual: int, /) -> int | None:
        page = self.pages.get(virtual >> 12)
        return None if page is None else page << 12 | virtual & 0xFFF

    def inject_exception(self, vector: int, error_code: int | None = None, /) -> None:
        self.injected.append(vector)


@pytest.fixture(autouse=True, params=["Python", "C"])
def twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each of the two that finish system calls judge all of this, C first where it runs."""
    if request.param == "C":
        pytest.importorskip("vmm.x86._run", reason="the run loop in C was not built")
    monkeypatch.setattr(FakeCpu, "by_c", request.param == "C")


def finished_by_c(cpu: FakeCpu) -> bool:
    """Show C what it would find; returns whether it took that for a system call."""
    from vmm.x86._run import ffi, lib

    def read(address: int, length: int) -> bytes | None:
        physical = cpu.translate(address)
        return None if physical is None else bytes(cpu.ram[physical : physical + length])

    frame, gate, prologue = read(STACK, 48), read(IDT + 14 * 16, 16), read(HANDLER, 4)
    if frame is None or gate is None or prologue is None or not cpu.system.cs.l:
        return False
    entry = ffi.new("struct entry *")
    entry.star, entry.lstar, entry.sfmask = cpu.msrs.values()
    ffi.buffer(ffi.addressof(entry, "frame"))[:] = frame
    ffi.buffer(entry.gate)[:] = gate
    ffi.buffer(entry.prologue)[:] = prologue
    regs, sregs = ffi.from_buffer(cpu.state), ffi.from_buffer(cpu.system)
    return bool(lib.finish_syscall(regs, sregs, entry))


def emulate(cpu: FakeCpu) -> str:
    """Emulate the CLAC and return what it was taken for."""
    if cpu.by_c and finished_by_c(cpu):
        return "syscall"
    emulator = Emulator(cpu.memory)
    emulator.emulate(cpu, CLAC)
    (name,) = emulator.counts
    assert not (cpu.by_c and name == "syscall"), "C left a system call to Python"
    return name


def assert_plain_clac(cpu: FakeCpu) -> None:
    rip, stack, r11 = cpu.state.rip, cpu.state.rsp, cpu.state.r11
    cpu.state.rflags = 0x40002

    assert emulate(cpu) == "clac"

    assert (cpu.state.rip, cpu.state.rsp, cpu.state.r11) == (rip + 3, stack, r11)
    assert cpu.state.rflags == 0x2


@pytest.mark.parametrize("handler", [CLAC, ENDBR64_CLAC], ids=["clac", "endbr64; clac"])
def test_half_done_syscall_is_finished(handler: bytes) -> None:
    cpu = FakeCpu(handler)

    assert emulate(cpu) == "syscall"

    assert cpu.state.rip == LSTAR
    assert cpu.state.rsp == 0x7FFD12345678
    assert cpu.state.rflags == 0x2
    assert cpu.state.r11 == 0x10246
    assert (cpu.state.rcx, cpu.state.rax) == (0x401002, 60)
    assert cpu.injected == []


def test_flags_that_sfmask_leaves_are_those_of_the_program() -> None:
    cpu = FakeCpu()
    cpu.msrs[0xC0000084] = 0x47700
    cpu.state.r11 = 0xAD7
    cpu.frame(0x15, LSTAR, 0x33, 0x108D7, 0x7FFD12345678, 0x2B)

    assert emulate(cpu) == "syscall"

    assert cpu.state.rflags == 0x8D7
    assert cpu.state.r11 == 0x10AD7


def test_resume_flag_of_the_program_does_not_reach_the_kernel() -> None:
    cpu = FakeCpu()
    cpu.msrs[0xC0000084] = 0x47700
    cpu.state.r11 = 0x10202

    assert emulate(cpu) == "syscall"

    assert cpu.state.rflags == 0x2


def test_single_stepped_program_enters_the_kernel_without_a_trap() -> None:
    cpu = FakeCpu()
    cpu.state.r11 = 0x346

    assert emulate(cpu) == "syscall"

    assert cpu.state.rflags == 0x2
    assert cpu.injected == []


@pytest.mark.parametrize(
    "words",
    [
        pytest.param((0x15, LSTAR + 1, 0x33, 0x10002, 0x7FFD12345678, 0x2B), id="other RIP"),
        pytest.param((0x14, LSTAR, 0x33, 0x10002, 0x7FFD12345678, 0x2B), id="page not present"),
        pytest.param((0x05, LSTAR, 0x33, 0x10002, 0x7FFD12345678, 0x2B), id="read, not fetch"),
        pytest.param((0x11, LSTAR, 0x33, 0x10002, 0x7FFD12345678, 0x2B), id="kernel's fetch"),
        pytest.param((0x15, LSTAR, 0x10, 0x10002, 0x7FFD12345678, 0x2B), id="kernel CS"),
        pytest.param((0x15, LSTAR, 0x33, 0x10002, 0x7FFD12345678, 0x18), id="kernel SS"),
        pytest.param((0x15, LSTAR, 0x33, 0x10246, 0x7FFD12345678, 0x2B), id="jump by a program"),
    ],
)
def test_frame_of_any_other_page_fault_leaves_the_clac_a_clac(words: tuple[int, ...]) -> None:
    cpu = FakeCpu()
    cpu.frame(*words)

    assert_plain_clac(cpu)


def test_program_cannot_jump_to_the_entry_with_flags_of_its_choice() -> None:
    cpu = FakeCpu()
    cpu.state.r11 = 0x3246  # IOPL 3
    cpu.frame(0x15, LSTAR, 0x33, 0x10246, 0x7FFD12345678, 0x2B)

    assert_plain_clac(cpu)


def test_guest_whose_sfmask_leaves_interrupts_on_gets_no_syscall() -> None:
    cpu = FakeCpu()
    cpu.msrs[0xC0000084] = 0x3000
    cpu.state.r11 = 0x3246
    cpu.frame(0x15, LSTAR, 0x33, 0x10246, 0x7FFD12345678, 0x2B)

    assert_plain_clac(cpu)


def test_clac_elsewhere_with_such_a_frame_on_the_stack_is_a_clac() -> None:
    cpu = FakeCpu()
    cpu.state.rip = HANDLER + 0x20

    assert_plain_clac(cpu)


def test_clac_four_bytes_behind_an_entry_without_endbr64_is_a_clac() -> None:
    cpu = FakeCpu()
    cpu.state.rip = HANDLER + 4

    assert_plain_clac(cpu)


def test_other_fault_address_leaves_the_clac_a_clac() -> None:
    cpu = FakeCpu()
    cpu.system.cr2 = LSTAR + 0x1000

    assert_plain_clac(cpu)


def test_code_segment_that_syscall_would_not_load_leaves_the_clac_a_clac() -> None:
    cpu = FakeCpu()
    cpu.system.cs.selector = 0x18

    assert_plain_clac(cpu)


@pytest.mark.parametrize("hidden", [STACK, IDT], ids=["stack", "IDT"])
def test_unreadable_stack_or_idt_leaves_the_clac_a_clac(hidden: int) -> None:
    cpu = FakeCpu()
    del cpu.pages[hidden >> 12]

    assert_plain_clac(cpu)


def test_32_bit_handler_leaves_the_clac_a_clac() -> None:
    cpu = FakeCpu()
    cpu.system.cs.l = 0

    assert_plain_clac(cpu)


def test_fault_at_the_entry_that_is_no_syscall_is_logged_with_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cpu = FakeCpu()
    cpu.frame(0x15, LSTAR, 0x33, 0x10246, 0x7FFD12345678, 0x2B)
    caplog.set_level(logging.INFO)

    emulate(cpu)

    assert "RFLAGS 0x10246 is not R11 0x246 masked by 0x257fd5" in caplog.text
