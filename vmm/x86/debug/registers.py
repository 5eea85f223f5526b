"""The registers of an x86-64 vCPU in GDB's numbering and form, and the description of them.

GDB "x86 Features" of the target descriptions: the features ``core``, ``sse``, ``segments`` and
``avx`` with the registers that GDB wants in each; ``system`` is ours. x87, SSE and AVX come from
the standard form of XSAVE's area (Intel SDM vol. 1 "XSAVE-Managed State").
"""

from functools import cache
from typing import Final

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from vmm.kvm.ioctl import get_bytes, set_bytes
from vmm.x86.kvm.registers import KVM_GET_XSAVE, KVM_SET_XSAVE, Regs, Sregs
from vmm.x86.kvm.vcpu import Vcpu

_GENERAL: Final = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip"),
)
_SEGMENTS: Final = ("cs", "ss", "ds", "es", "fs", "gs")
_BASES: Final = ("fs_base", "gs_base")
_CONTROL: Final = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer")
_MSR_KERNEL_GS_BASE: Final = 0xC000_0102

_XSTATE_BV: Final = 512
_X87, _SSE, _AVX = 1, 2, 4
_ST, _XMM, _YMM_HIGH, _MXCSR = 32, 160, 576, 24
# Where XSAVE's area has the x87 control registers, by GDB's names: offset and bytes.
_X87_CONTROL: Final = {
    "fctrl": (0, 2),
    "fstat": (2, 2),
    "ftag": (4, 1),
    "fiseg": (12, 2),
    "fioff": (8, 4),
    "foseg": (20, 2),
    "fooff": (16, 4),
    "fop": (6, 2),
}
_FLAGS: Final = (
    *(("CF", 0), ("", 1), ("PF", 2), ("AF", 4), ("ZF", 6), ("SF", 7), ("TF", 8), ("IF", 9)),
    *(("DF", 10), ("OF", 11), ("NT", 14), ("RF", 16), ("VM", 17), ("AC", 18), ("VIF", 19)),
    *(("VIP", 20), ("ID", 21)),
)
_FEATURES: Final = "org.gnu.gdb.i386"


class Register(NamedTuple):
    """A register as GDB knows it: its feature, its bytes, and its type there."""

    name: str
    feature: str
    bytes: int
    type: str


class DebugState:
    """The registers of a vCPU that is out of the guest, copied out once; ``store`` writes them."""

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu
        self.regs: Regs = vcpu.regs()
        self.sregs: Sregs = vcpu.sregs()
        self.xsave = bytearray(get_bytes(vcpu.fd, KVM_GET_XSAVE))
        self.kernel_gs_base = vcpu.msr(_MSR_KERNEL_GS_BASE)

    def read(self, register: Register) -> bytes:
        """Return the value of a register, in GDB's form."""
        name = register.name
        if name in _GENERAL:
            value = getattr(self.regs, name)
        elif name == "eflags":
            value = self.regs.rflags
        elif name in _SEGMENTS:
            value = getattr(self.sregs, name).selector
        elif name in _BASES:
            value = getattr(self.sregs, name[:2]).base
        elif name in _CONTROL:
            value = getattr(self.sregs, name)
        elif name == "k_gs_base":
            value = self.kernel_gs_base
        elif name in ("idt_base", "gdt_base"):
            value = getattr(self.sregs, name[:3]).base
        else:
            return self._read_vector(name)
        return int(value & (1 << 8 * register.bytes) - 1).to_bytes(register.bytes, "little")

    def write(self, register: Register, data: bytes) -> None:
        """Change a register; raises ``ConfigurationError`` for one that cannot be."""
        if data == self.read(register):
            return
        name, value = register.name, int.from_bytes(data, "little")
        if name in _GENERAL:
            setattr(self.regs, name, value)
        elif name == "eflags":
            self.regs.rflags = value | 2
        elif name in _BASES:
            getattr(self.sregs, name[:2]).base = value
        elif register.feature == "system" or name in _SEGMENTS:
            raise ConfigurationError(f"register {name}: a debugger can only read it")
        else:
            self._write_vector(name, data)

    def store(self) -> None:
        """Give the vCPU what was written."""
        self._vcpu.set_regs(self.regs)
        self._vcpu.set_sregs(self.sregs)
        set_bytes(self._vcpu.fd, KVM_SET_XSAVE, bytes(self.xsave))

    def _read_vector(self, name: str) -> bytes:
        offset, length, part = _place(name)
        # XSAVE leaves out what is in its initial state: zeros, but for two words.
        if not self._is_saved(part) and name != "mxcsr":
            return _initial(name, length)
        data = bytes(self.xsave[offset : offset + length])
        if name == "ftag":
            return _full_tag(data[0], self._tops()).to_bytes(4, "little")
        return data.ljust(4, b"\0") if name in _X87_CONTROL else data

    def _write_vector(self, name: str, data: bytes) -> None:
        offset, length, part = _place(name)
        if not self._is_saved(part):
            for other in (one for one in debug_registers() if _is_vector(one)):
                start, count, its = _place(other.name)
                if its == part and other.name != "mxcsr":
                    self.xsave[start : start + count] = _initial(other.name, count)[:count]
            if part == _X87:
                self.xsave[_place("ftag")[0]] = 0
            self.xsave[_XSTATE_BV] |= part
        if name == "ftag":
            full = int.from_bytes(data, "little")
            data = bytes([sum((full >> 2 * at & 3 != 3) << at for at in range(8))])
        self.xsave[offset : offset + length] = data[:length]

    def _is_saved(self, part: int) -> bool:
        return bool(self.xsave[_XSTATE_BV] & part)

    def _tops(self) -> list[bytes]:
        """Return the x87 registers by their numbers, not by the stack."""
        top = self.xsave[3] >> 3 & 7
        starts = [_ST + 16 * ((number - top) % 8) for number in range(8)]
        return [bytes(self.xsave[start : start + 10]) for start in starts]


@cache
def debug_registers() -> tuple[Register, ...]:
    """Return all registers, in the order of their numbers."""
    return (
        *(Register(one, "core", 8, "int64") for one in _GENERAL[:7]),
        Register("rsp", "core", 8, "data_ptr"),
        *(Register(one, "core", 8, "int64") for one in _GENERAL[8:16]),
        Register("rip", "core", 8, "code_ptr"),
        Register("eflags", "core", 4, "i386_eflags"),
        *(Register(one, "core", 4, "int32") for one in _SEGMENTS),
        *(Register(f"st{number}", "core", 10, "i387_ext") for number in range(8)),
        *(Register(one, "core", 4, "int") for one in _X87_CONTROL),
        *(Register(f"xmm{number}", "sse", 16, "vec128") for number in range(16)),
        Register("mxcsr", "sse", 4, "int"),
        *(Register(one, "segments", 8, "int") for one in _BASES),
        *(Register(f"ymm{number}h", "avx", 16, "uint128") for number in range(16)),
        *(Register(one, "system", 8, "int64") for one in _CONTROL),
        *(Register(one, "system", 8, "int64") for one in ("k_gs_base", "idt_base", "gdt_base")),
    )


@cache
def target_description() -> bytes:
    """Return the target description, as GDB reads it."""
    features: dict[str, list[Register]] = {}
    for one in debug_registers():
        features.setdefault(one.feature, []).append(one)
    return "\n".join(
        (
            '<?xml version="1.0"?>',
            '<!DOCTYPE target SYSTEM "gdb-target.dtd">',
            "<target>",
            "<architecture>i386:x86-64</architecture>",
            *(_described(name, its) for name, its in features.items()),
            "</target>\n",
        )
    ).encode()


def _described(feature: str, its: list[Register]) -> str:
    name = "org.pyvmm.x86.system" if feature == "system" else f"{_FEATURES}.{feature}"
    types = {"core": _FLAGS_TYPE, "sse": _VECTOR_TYPE}.get(feature, "")
    lines = [f'<reg name="{one.name}" bitsize="{8 * one.bytes}" type="{one.type}"/>' for one in its]
    return "\n".join((f'<feature name="{name}">', types, *lines, "</feature>"))


_FLAGS_TYPE: Final = "\n".join(
    (
        '<flags id="i386_eflags" size="4">',
        *(f'<field name="{name}" start="{bit}" end="{bit}"/>' for name, bit in _FLAGS),
        "</flags>",
    )
)
_VECTOR_TYPE: Final = """<vector id="v4f" type="ieee_single" count="4"/>
<vector id="v2d" type="ieee_double" count="2"/>
<vector id="v16i8" type="int8" count="16"/>
<vector id="v8i16" type="int16" count="8"/>
<vector id="v4i32" type="int32" count="4"/>
<vector id="v2i64" type="int64" count="2"/>
<union id="vec128">
<field name="v4_float" type="v4f"/>
<field name="v2_double" type="v2d"/>
<field name="v16_int8" type="v16i8"/>
<field name="v8_int16" type="v8i16"/>
<field name="v4_int32" type="v4i32"/>
<field name="v2_int64" type="v2i64"/>
<field name="uint128" type="uint128"/>
</union>"""


def _is_vector(register: Register) -> bool:
    name = register.name
    return register.feature in ("sse", "avx") or name in _X87_CONTROL or name.startswith("st")


def _place(name: str) -> tuple[int, int, int]:
    """Return where XSAVE's area has a register: offset, bytes, and the part that it belongs to."""
    if name in _X87_CONTROL:
        return *_X87_CONTROL[name], _X87
    if name == "mxcsr":
        return _MXCSR, 4, _SSE
    if name.startswith("st"):
        return _ST + 16 * int(name[2:]), 10, _X87
    if name.startswith("xmm"):
        return _XMM + 16 * int(name[3:]), 16, _SSE
    return _YMM_HIGH + 16 * int(name[3:-1]), 16, _AVX


def _initial(name: str, length: int) -> bytes:
    words = {"fctrl": 0x37F, "ftag": 0xFFFF}
    size = 4 if name in _X87_CONTROL else length
    return words.get(name, 0).to_bytes(size, "little")


def _full_tag(abridged: int, values: list[bytes]) -> int:
    """Return the x87 tag word: two bits for each register, of which XSAVE keeps "not empty"."""
    tags = [_class_of(one) if abridged >> at & 1 else 3 for at, one in enumerate(values)]
    return sum(tag << 2 * at for at, tag in enumerate(tags))


def _class_of(value: bytes) -> int:
    exponent = int.from_bytes(value[8:10], "little") & 0x7FFF
    mantissa = int.from_bytes(value[:8], "little")
    if not exponent and not mantissa:
        return 1
    return 0 if 0 < exponent < 0x7FFF and mantissa >> 63 else 2
