"""Emulating instructions: bytes as an assembler makes them, results as the Intel SDM defines them.

Guest-virtual pages 0x5000 and 0x6000 lie in physical pages 3 and 1, so that an access across them
is right only if each page is translated.
"""

import subprocess
import sys

import pytest

from virtio.memory import FlatMemory
from vmm.x86.emulation import Emulator
from vmm.x86.kvm.registers import Regs, Sregs

CODE = 0xFFFFFFFF81000000  # physical page 0
KERNEL_FLAGS = 0x246  # IF, ZF, PF and the bit that is always set
ALL_STATUS_FLAGS = 0xAD7  # OF SF ZF AF PF CF, IF and the bit that is always set
NO_STATUS_FLAGS = 0x202


class FakeCpu:
    """A stopped vCPU in 64-bit kernel code at CODE; ``memory`` is its RAM of four pages."""

    def __init__(self) -> None:
        self.ram = bytearray(0x4000)
        self.memory = FlatMemory([(0, self.ram)])
        self.pages = {CODE >> 12: 0, 0x5: 3, 0x6: 1}
        self.msrs: dict[int, int] = {0xC0000082: 0xFFFFFFFF81E00000}
        self.injected: list[tuple[int, int | None]] = []
        self.state = Regs(rip=CODE, rsp=0x5F00, rflags=KERNEL_FLAGS)
        self.system = Sregs(efer=0xD01, cr0=0x80050033, cr4=0x2006B0)
        self.system.cs.selector, self.system.cs.l = 0x10, 1

    def regs(self) -> Regs:
        return Regs.from_buffer_copy(self.state)

    def set_regs(self, regs: Regs, /) -> None:
        self.state = Regs.from_buffer_copy(regs)
        self.injected.clear()

    def sregs(self) -> Sregs:
        return Sregs.from_buffer_copy(self.system)

    def msr(self, index: int, /) -> int:
        return self.msrs[index]

    def translate(self, virtual: int, /) -> int | None:
        page = self.pages.get(virtual >> 12)
        return None if page is None else page << 12 | virtual & 0xFFF

    def inject_exception(self, vector: int, error_code: int | None = None, /) -> None:
        self.injected.append((vector, error_code))

    def registers(self) -> dict[str, int]:
        return {field[0]: getattr(self.state, field[0]) for field in Regs._fields_}


@pytest.fixture
def cpu() -> FakeCpu:
    return FakeCpu()


def given(cpu: FakeCpu, **registers: int) -> None:
    for name, value in registers.items():
        setattr(cpu.state, name, value)


def run(cpu: FakeCpu, code: str) -> bool:
    """Emulate the instruction with these bytes (hexadecimal), followed by more as KVM does it."""
    return Emulator(cpu.memory).emulate(cpu, bytes.fromhex(code).ljust(15, b"\xf4"))


# Assembler, bytes, registers before, flags before, registers that change, flags after.
CASES = [
    ("clac", "0f01ca", {}, 0x40246, {}, 0x246),
    ("stac", "0f01cb", {}, 0x246, {}, 0x40246),
    ("fwait", "9b", {}, 0x246, {}, 0x246),
    ("popcnt cx, ax", "66f30fb8c8", {"rax": 0xF0F01, "rcx": 0xAAAA_BBBB_CCCC_DDDD}, 0xAD7,
     {"rcx": 0xAAAA_BBBB_CCCC_0005}, 0x202),
    ("popcnt ecx, eax", "f30fb8c8", {"rax": 0xFF_FFFF_FFFF, "rcx": 1 << 63}, 0xAD7,
     {"rcx": 32}, 0x202),
    ("popcnt rcx, rax", "f3480fb8c8", {"rax": 0xFFFF_FFFF_FFFF_FFFF}, 0x202, {"rcx": 64}, 0x202),
    ("popcnt rcx, rax of 0", "f3480fb8c8", {"rax": 0, "rcx": 9}, 0xAD7, {"rcx": 0}, 0x242),
    ("popcnt r8d, r15d", "f3450fb8c7", {"r15": 0x101, "r8": 1 << 40}, 0x202, {"r8": 2}, 0x202),
    ("andn rcx, rbx, rax", "c4e2e0f2c8", {"rbx": 0xFF, "rax": 0x1234}, 0x8C3,
     {"rcx": 0x1200}, 0x002),
    ("andn negative", "c4e2e0f2c8", {"rbx": 0, "rax": 1 << 63}, 0x843, {"rcx": 1 << 63}, 0x082),
    ("andn ecx, ebx, eax of 0", "c4e260f2c8", {"rbx": 1, "rax": 1, "rcx": 1 << 40}, 0x016,
     {"rcx": 0}, 0x056),
    ("bextr rcx, rbx, rax", "c4e2f8f7cb", {"rbx": 0x12345678, "rax": 0x0C08}, 0x8D7,
     {"rcx": 0x456}, 0x096),
    ("bextr start past the end", "c4e2f8f7cb", {"rbx": 0x12345678, "rax": 0x0840, "rcx": 5}, 0x002,
     {"rcx": 0}, 0x042),
    ("blsi rcx, rax", "c4e2f0f3d8", {"rax": 0x58}, 0x842, {"rcx": 8}, 0x003),
    ("blsi of 0", "c4e2f0f3d8", {"rax": 0, "rcx": 7}, 0x083, {"rcx": 0}, 0x042),
    ("blsmsk rcx, rax", "c4e2f0f3d0", {"rax": 0x58}, 0x843, {"rcx": 0xF}, 0x002),
    ("blsmsk of 0", "c4e2f0f3d0", {"rax": 0}, 0x002, {"rcx": 0xFFFF_FFFF_FFFF_FFFF}, 0x083),
    ("blsr rcx, rax", "c4e2f0f3c8", {"rax": 0x58}, 0x843, {"rcx": 0x50}, 0x002),
    ("blsr of 0", "c4e2f0f3c8", {"rax": 0, "rcx": 7}, 0x002, {"rcx": 0}, 0x043),
    ("bzhi rcx, rbx, rax", "c4e2f8f5cb", {"rbx": 0xFFFF, "rax": 0x304}, 0x843,
     {"rcx": 0xF}, 0x002),
    ("bzhi past the end", "c4e2f8f5cb", {"rbx": 1 << 63, "rax": 64}, 0x842,
     {"rcx": 1 << 63}, 0x083),
    ("shlx rcx, rbx, rax", "c4e2f9f7cb", {"rbx": 0x8000000000000001, "rax": 100}, 0xAD7,
     {"rcx": 0x1000000000}, 0xAD7),
    ("shrx rcx, rbx, rax", "c4e2fbf7cb", {"rbx": 0x8000000000000001, "rax": 4}, 0x202,
     {"rcx": 0x0800000000000000}, 0x202),
    ("sarx ecx, ebx, eax", "c4e27af7cb", {"rbx": 0x80000000, "rax": 36}, 0x202,
     {"rcx": 0xF8000000}, 0x202),
    ("rorx rcx, rax, 8", "c4e3fbf0c808", {"rax": 0x1122334455667788}, 0xAD7,
     {"rcx": 0x8811223344556677}, 0xAD7),
    ("rorx ecx, eax, 8", "c4e37bf0c808", {"rax": 0x1122334455667788, "rcx": 1 << 40}, 0x202,
     {"rcx": 0x88556677}, 0x202),
    ("mulx rcx, rbx, rax", "c4e2e3f6c8", {"rdx": 0xFFFFFFFFFFFFFFFF, "rax": 3}, 0xAD7,
     {"rcx": 2, "rbx": 0xFFFFFFFFFFFFFFFD}, 0xAD7),
    ("mulx ecx, ebx, eax", "c4e263f6c8", {"rdx": 0xF_0000_0010, "rax": 0x20000000}, 0x202,
     {"rcx": 2, "rbx": 0}, 0x202),
    ("mulx rcx, rcx, rax", "c4e2f3f6c8", {"rdx": 1 << 63, "rax": 6}, 0x202, {"rcx": 3}, 0x202),
    ("pdep rcx, rbx, rax", "c4e2e3f5c8", {"rbx": 0xB, "rax": 0x8421}, 0xAD7,
     {"rcx": 0x8021}, 0xAD7),
    ("pext rcx, rbx, rax", "c4e2e2f5c8", {"rbx": 0x8021, "rax": 0x8421}, 0x202,
     {"rcx": 0xB}, 0x202),
    ("adcx rcx, rax", "66480f38f6c8", {"rcx": 0xFFFFFFFFFFFFFFFF, "rax": 5}, 0x843,
     {"rcx": 5}, 0x843),
    ("adcx no carry out", "660f38f6c8", {"rcx": 0x1_0000_0001, "rax": 2}, 0x203,
     {"rcx": 4}, 0x202),
    ("adox rcx, rax", "f3480f38f6c8", {"rcx": 0xFFFFFFFFFFFFFFFF, "rax": 1}, 0x043,
     {"rcx": 0}, 0x843),
    ("crc32 ecx, al", "f20f38f0c8", {"rcx": 0xAAAA_FFFF_FFFF, "rax": 0x61}, 0xAD7,
     {"rcx": 0x3E2FBCCF}, 0xAD7),
    ("crc32 ecx, ah", "f20f38f0cc", {"rcx": 0xFFFFFFFF, "rax": 0x6100}, 0x202,
     {"rcx": 0x3E2FBCCF}, 0x202),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "before", "flags_before", "changed", "flags_after"),
    [pytest.param(*case[1:], id=case[0]) for case in CASES],
)
def test_instruction_changes_its_result_and_flags_and_nothing_else(
    cpu: FakeCpu,
    code: str,
    before: dict[str, int],
    flags_before: int,
    changed: dict[str, int],
    flags_after: int,
) -> None:
    given(cpu, **before, rflags=flags_before)
    expected = cpu.registers() | changed
    expected |= {"rip": CODE + len(code) // 2, "rflags": flags_after}

    assert run(cpu, code)

    assert cpu.registers() == expected
    assert cpu.injected == []


@pytest.mark.parametrize(
    ("code", "registers"),
    [
        pytest.param("f3480fb80e", {"rsi": 0x5008}, id="[rsi]"),
        pytest.param("66f30fb844fe10", {"rsi": 0x4FF0, "rdi": 1}, id="[rsi+rdi*8+0x10]"),
        pytest.param("f30fb846f0", {"rsi": 0x5018}, id="[rsi-16]"),
        pytest.param("65f3480fb80c2520000000", {}, id="gs:[0x20]"),
        pytest.param("64f3480fb80e", {"rsi": 0xFFFFFFFFFFFFFFF8}, id="fs:[rsi], wrapping"),
        pytest.param("67f3480fb80e", {"rsi": 0xDEAD00005008}, id="[esi]"),
        pytest.param("67f3480fb80c2508500000", {}, id="[0x5008], 32-bit address"),
        pytest.param("f3480fb80c2508500000", {}, id="[0x5008]"),
    ],
)
def test_memory_operand_is_read_at_its_effective_address(
    cpu: FakeCpu, code: str, registers: dict[str, int]
) -> None:
    given(cpu, **registers)
    cpu.system.gs.base, cpu.system.fs.base = 0x4FE8, 0x5010
    cpu.ram[0x3008] = 0x7F

    assert run(cpu, code)

    assert 7 in (cpu.state.rax, cpu.state.rcx)


def test_rip_relative_operand_counts_from_the_next_instruction(cpu: FakeCpu) -> None:
    cpu.ram[0x109] = 0x3F

    assert run(cpu, "f3480fb80d00010000")

    assert cpu.state.rcx == 6


def test_operand_across_two_pages_is_read_from_both(cpu: FakeCpu) -> None:
    given(cpu, rsi=0x5FFC)
    cpu.ram[0x3FFC:0x4000] = b"\x01\x01\x01\x01"
    cpu.ram[0x1000:0x1004] = b"\x03\x03\x03\x03"

    assert run(cpu, "f3480fb80e")

    assert cpu.state.rcx == 12


@pytest.mark.parametrize(
    "address", [pytest.param(0x9000, id="unmapped"), pytest.param(0x6FFC, id="runs into a hole")]
)
def test_operand_that_is_not_mapped_is_refused_without_any_change(
    cpu: FakeCpu, address: int
) -> None:
    given(cpu, rsi=address)
    before = cpu.registers()
    emulator = Emulator(cpu.memory)

    assert not emulator.emulate(cpu, bytes.fromhex("f3480fb80ef4"))

    assert cpu.registers() == before
    assert emulator.reason.endswith("is not mapped")
    assert emulator.counts == {}


def test_operand_outside_guest_ram_is_refused(cpu: FakeCpu) -> None:
    given(cpu, rsi=0x7000)
    cpu.pages[0x7] = 0xFEE00
    emulator = Emulator(cpu.memory)

    assert not emulator.emulate(cpu, bytes.fromhex("f3480fb80ef4"))

    assert emulator.reason == "virtual address 0x7000, physical 0xfee00000, is not in guest RAM"


def test_crc32_of_the_check_string_is_the_published_value(cpu: FakeCpu) -> None:
    given(cpu, rcx=0xAAAA_FFFF_FFFF, rax=int.from_bytes(b"12345678", "little"))
    assert run(cpu, "f2480f38f1c8")
    given(cpu, rax=ord("9"))

    assert run(cpu, "f20f38f0c8")

    assert cpu.state.rcx ^ 0xFFFFFFFF == 0xE3069283


@pytest.mark.parametrize("code", ["f0480fc70e", "480fc70e"])
def test_cmpxchg16b_stores_when_the_memory_is_as_expected(cpu: FakeCpu, code: str) -> None:
    given(cpu, rsi=0x5010, rdx=2, rax=1, rcx=0x22, rbx=0x11, rflags=0xA97)
    cpu.ram[0x3010:0x3020] = bytes([1, *bytes(7), 2, *bytes(7)])

    assert run(cpu, code)

    assert cpu.ram[0x3010:0x3020] == bytes([0x11, *bytes(7), 0x22, *bytes(7)])
    assert (cpu.state.rdx, cpu.state.rax) == (2, 1)
    assert cpu.state.rflags == 0xAD7


def test_cmpxchg16b_loads_when_the_memory_differs(cpu: FakeCpu) -> None:
    given(cpu, rsi=0x5010, rdx=2, rax=1, rcx=0x22, rbx=0x11, rflags=0xAD7)
    cpu.ram[0x3010:0x3020] = bytes([1, *bytes(7), 3, *bytes(7)])

    assert run(cpu, "f0480fc70e")

    assert cpu.ram[0x3010:0x3020] == bytes([1, *bytes(7), 3, *bytes(7)])
    assert (cpu.state.rdx, cpu.state.rax) == (3, 1)
    assert cpu.state.rflags == 0xA97


def test_cmpxchg16b_of_an_unaligned_address_is_a_general_protection_fault(cpu: FakeCpu) -> None:
    given(cpu, rsi=0x5008)

    assert run(cpu, "f0480fc70e")

    assert cpu.injected == [(13, 0)]
    assert cpu.state.rip == CODE
    assert cpu.state.rflags == KERNEL_FLAGS | 1 << 16


def test_rdrand_fills_the_register_and_sets_carry_alone(
    cpu: FakeCpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.urandom", lambda count: bytes(range(1, count + 1)))
    given(cpu, rflags=ALL_STATUS_FLAGS, rax=0)

    assert run(cpu, "480fc7f0")

    assert cpu.state.rax == 0x0807060504030201
    assert cpu.state.rflags == NO_STATUS_FLAGS | 1


def test_rdrand_of_16_bits_keeps_the_rest_of_the_register(
    cpu: FakeCpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.urandom", lambda count: bytes(range(1, count + 1)))
    given(cpu, rax=0xAAAABBBBCCCCDDDD)

    assert run(cpu, "660fc7f0")

    assert cpu.state.rax == 0xAAAABBBBCCCC0201


def test_rdseed_of_32_bits_clears_the_upper_half(
    cpu: FakeCpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.urandom", lambda count: bytes(range(1, count + 1)))
    given(cpu, rcx=1 << 63)

    assert run(cpu, "0fc7f9")

    assert cpu.state.rcx == 0x04030201


def test_rdtscp_splits_the_counter_and_loads_the_processor_number(cpu: FakeCpu) -> None:
    cpu.msrs |= {0x10: 0x1122334455667788, 0xC0000103: 0x3007}

    assert run(cpu, "0f01f9")

    assert (cpu.state.rdx, cpu.state.rax, cpu.state.rcx) == (0x11223344, 0x55667788, 0x3007)


# A GDT at 0x5000: null, 64-bit code, data, user data of a byte-granular limit, busy TSS (16 bytes),
# execute-only conforming code, read-only data; and one more that the limit leaves out.
GDT = [
    0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x0040F20000000123, 0x00008B0000002087, 0,
    0x00409C0000000FFF, 0x0040900000000010, 0x00CF93000000FFFF,
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "selector", "result", "zero_flag"),
    [
        pytest.param("0f03c8", 0x08, 0xFFFFFFFF, 0x40, id="lsl code, page granular"),
        pytest.param("0f03c8", 0x1B, 0x123, 0x40, id="lsl user data"),
        pytest.param("660f03c8", 0x10, 0x7777_7777_7777_FFFF, 0x40, id="lsl 16 bits"),
        pytest.param("0f03c8", 0x20, 0x2087, 0x40, id="lsl busy TSS"),
        pytest.param("0f03c8", 0x00, 0x7777_7777_7777_7777, 0, id="lsl null"),
        pytest.param("0f03c8", 0x28, 0x7777_7777_7777_7777, 0, id="lsl second half of the TSS"),
        pytest.param("0f03c8", 0x40, 0x7777_7777_7777_7777, 0, id="lsl beyond the table"),
        pytest.param("0f03c8", 0x13, 0x7777_7777_7777_7777, 0, id="lsl with too weak an RPL"),
        pytest.param("0f03c8", 0x33, 0xFFF, 0x40, id="lsl conforming code with any RPL"),
        pytest.param("0f03c8", 0x0C, 0x7777_7777_7777_7777, 0, id="lsl in no LDT"),
        pytest.param("0f02c8", 0x08, 0x00AF9B00, 0x40, id="lar code"),
        pytest.param("0f00e0", 0x08, 0x7777_7777_7777_7777, 0x40, id="verr readable code"),
        pytest.param("0f00e0", 0x30, 0x7777_7777_7777_7777, 0, id="verr execute-only code"),
        pytest.param("0f00e0", 0x38, 0x7777_7777_7777_7777, 0x40, id="verr read-only data"),
        pytest.param("0f00e8", 0x10, 0x7777_7777_7777_7777, 0x40, id="verw data"),
        pytest.param("0f00e8", 0x38, 0x7777_7777_7777_7777, 0, id="verw read-only data"),
        pytest.param("0f00e8", 0x08, 0x7777_7777_7777_7777, 0, id="verw code"),
        pytest.param("0f00e8", 0x20, 0x7777_7777_7777_7777, 0, id="verw TSS"),
    ],
)
def test_descriptor_instruction_reports_what_the_selector_gives(
    cpu: FakeCpu, code: str, selector: int, result: int, zero_flag: int
) -> None:
    cpu.ram[0x3000:0x3048] = b"".join(entry.to_bytes(8, "little") for entry in GDT)
    cpu.system.gdt.base, cpu.system.gdt.limit = 0x5000, 0x3F
    given(cpu, rax=selector, rcx=0x7777_7777_7777_7777, rflags=0x297)

    assert run(cpu, code)

    assert cpu.state.rcx == result
    assert cpu.state.rflags == 0x297 | zero_flag


def test_int3_delivers_a_breakpoint_behind_the_instruction(cpu: FakeCpu) -> None:
    assert run(cpu, "cc")

    assert cpu.state.rip == CODE + 1
    assert cpu.injected == [(3, None)]


@pytest.mark.parametrize("code", ["0f01ca", "0f01cb"])
def test_clac_and_stac_of_a_user_program_are_invalid_opcodes(cpu: FakeCpu, code: str) -> None:
    cpu.system.cs.selector, cpu.system.ss.dpl = 0x33, 3

    assert run(cpu, code)

    assert cpu.injected == [(6, None)]
    assert cpu.state.rip == CODE
    assert cpu.state.rflags == KERNEL_FLAGS | 1 << 16


def test_fwait_with_the_fpu_switched_away_is_device_not_available(cpu: FakeCpu) -> None:
    cpu.system.cr0 |= 1 << 3

    assert run(cpu, "9b")

    assert cpu.injected == [(7, None)]
    assert cpu.state.rip == CODE


def test_emulated_instruction_clears_the_resume_flag(cpu: FakeCpu) -> None:
    given(cpu, rflags=0x10246)

    assert run(cpu, "0f01cb")

    assert cpu.state.rflags == 0x40246


@pytest.mark.parametrize("code", ["0f01cb", "f3480fb8c8"])
def test_single_stepping_traps_behind_the_instruction(cpu: FakeCpu, code: str) -> None:
    given(cpu, rflags=0x302, rax=1)

    assert run(cpu, code)

    assert cpu.injected == [(1, None)]
    assert cpu.state.rip == CODE + len(code) // 2


@pytest.mark.parametrize("handed_over", ["", "f3", "f3480f"])
def test_missing_instruction_bytes_are_read_from_the_guest(cpu: FakeCpu, handed_over: str) -> None:
    cpu.ram[0:5] = bytes.fromhex("f3480fb8c8")
    given(cpu, rax=0xF)

    assert Emulator(cpu.memory).emulate(cpu, bytes.fromhex(handed_over))

    assert cpu.state.rcx == 4


def test_instruction_across_two_pages_is_read_from_both(cpu: FakeCpu) -> None:
    given(cpu, rip=0x5FFE, rax=0xF)
    cpu.ram[0x3FFE:0x4000] = bytes.fromhex("f348")
    cpu.ram[0x1000:0x1003] = bytes.fromhex("0fb8c8")

    assert Emulator(cpu.memory).emulate(cpu, b"\xf3\x48")

    assert (cpu.state.rcx, cpu.state.rip) == (4, 0x6003)


def test_instruction_at_the_end_of_mapped_memory_is_emulated(cpu: FakeCpu) -> None:
    given(cpu, rip=0x6FFF)
    cpu.ram[0x1FFF] = 0x9B

    assert Emulator(cpu.memory).emulate(cpu, b"")

    assert cpu.state.rip == 0x7000


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        pytest.param("c5edfed9", "it is not among the instructions emulated here", id="vpaddd"),
        pytest.param("f00f01ca", "the bytes are not an instruction", id="lock clac"),
    ],
)
def test_instruction_that_is_not_known_is_refused_with_the_reason(
    cpu: FakeCpu, code: str, reason: str
) -> None:
    before = cpu.registers()
    emulator = Emulator(cpu.memory)

    assert not emulator.emulate(cpu, bytes.fromhex(code).ljust(15, b"\xf4"))

    assert emulator.reason.startswith(reason)
    assert cpu.registers() == before


def test_user_code_is_not_emulated_because_its_rights_are_not_checked(cpu: FakeCpu) -> None:
    cpu.system.cs.selector, cpu.system.ss.dpl = 0x33, 3
    emulator = Emulator(cpu.memory)

    assert not emulator.emulate(cpu, bytes.fromhex("f3480fb80ef4"))

    assert emulator.reason == "the code runs at CPL 3, not 0"


def test_32_bit_code_is_not_decoded_as_64_bit(cpu: FakeCpu) -> None:
    cpu.system.cs.l, cpu.system.cs.db = 0, 1
    emulator = Emulator(cpu.memory)

    assert not emulator.emulate(cpu, bytes.fromhex("f30fb8c8f4"))

    assert emulator.reason == "the code is not 64-bit"


def test_counts_say_how_often_each_instruction_was_emulated(cpu: FakeCpu) -> None:
    emulator = Emulator(cpu.memory)

    for code in ("0f01ca", "0f01cb", "0f01ca", "f3480fb8c8", "cc"):
        emulator.emulate(cpu, bytes.fromhex(code))

    assert emulator.counts == {"clac": 2, "stac": 1, "popcnt": 1, "int3": 1}
    assert emulator.writes == 1  # popcnt, for all that is known


def test_decoder_is_not_imported_before_an_instruction_needs_it() -> None:
    program = "import sys, vmm.x86.emulation; sys.exit('iced_x86._iced_x86_py' in sys.modules)"

    subprocess.run([sys.executable, "-c", program], check=True)


def test_report_tells_instruction_bytes_place_reason_and_registers(cpu: FakeCpu) -> None:
    given(cpu, rip=CODE + 0x40, r13=0xFEEDFACECAFEBEEF)
    emulator = Emulator(cpu.memory)
    code = bytes.fromhex("c5edfed9f4f4")
    emulator.emulate(cpu, code)

    report = emulator.describe_failure(cpu, code)

    assert "vpaddd %ymm1,%ymm2,%ymm3" in report
    assert "c5 ed fe d9\n" in report
    assert "RIP 0xffffffff81000040, CS 0x10, CPL 0, 64-bit code" in report
    assert "because      it is not among the instructions emulated here" in report
    assert "computes with vector registers" in report
    assert "r13 feedfacecafebeef" in report


@pytest.mark.parametrize(
    ("code", "hint"),
    [("0fae36", "noxsave clearcpuid=xsave"), ("660f388206", "nopcid"), ("0f01c9", "idle=halt")],
)
def test_report_says_which_boot_option_avoids_the_instruction(
    cpu: FakeCpu, code: str, hint: str
) -> None:
    report = Emulator(cpu.memory).describe_failure(cpu, bytes.fromhex(code).ljust(15, b"\xf4"))

    assert hint in report


def test_report_of_unreadable_code_says_so(cpu: FakeCpu) -> None:
    given(cpu, rip=0x9000)

    report = Emulator(cpu.memory).describe_failure(cpu, b"")

    assert "instruction  (not decodable)" in report
    assert "bytes        (not readable)" in report
