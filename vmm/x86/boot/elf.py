"""ELF kernel images (``vmlinux``): their segments, their entry points, and loading them.

Implements the ELF-64 program headers (System V ABI, "Program Header") and the PVH entry note
(Xen x86/HVM direct boot ABI).
"""

import struct
from itertools import pairwise

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from vmm.x86 import layout
from vmm.x86.boot.image_file import BootMemory, ImageFile, clear, low_ram_end

ELF_MAGIC = b"\x7fELF"
ELFCLASS32 = 1
ELFCLASS64 = 2
ELFDATA2LSB = 1
ET_EXEC = 2
EM_386 = 3
EM_X86_64 = 62
ELF_MACHINE = EM_X86_64
PT_LOAD = 1
PT_INTERP = 3
PT_NOTE = 4
XEN_ELFNOTE_PHYS32_ENTRY = 18

# Linux has five or six program headers; the bound keeps a hostile table from costing time.
PROGRAM_HEADERS_MAX = 64
# Linux has below 1 KiB of notes.
NOTES_MAX = 1 << 16

TYPES = {1: "an object file or kernel module", 3: "a shared library or a PIE program", 4: "a core"}
MACHINES = {3: "i386", 8: "MIPS", 21: "PowerPC", 22: "S/390", 40: "Arm", 183: "Arm64"}
MACHINES |= {243: "RISC-V", 258: "LoongArch"}

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_HEADER_32 = struct.Struct("<16sHHIIIIIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_PROGRAM_HEADER_32 = struct.Struct("<IIIIIIII")
_NOTE = struct.Struct("<III")


class Segment(NamedTuple):
    """One ``PT_LOAD``: ``file_size`` bytes at ``offset`` go to ``address``, zeros up to ``end``.

    ``virtual`` is where the program itself has it.
    """

    offset: int
    file_size: int
    address: int
    memory_size: int
    virtual: int

    @property
    def end(self) -> int:
        """First guest-physical address past the segment."""
        return self.address + self.memory_size


class Elf(NamedTuple):
    """A checked ELF kernel: segments in ascending, disjoint order, and its two entry points.

    ``pvh_entry`` is the 32-bit physical entry of its PVH note, None without such a note.
    """

    entry: int
    pvh_entry: int | None
    segments: tuple[Segment, ...]

    @property
    def start(self) -> int:
        """Lowest address loaded."""
        return self.segments[0].address

    @property
    def end(self) -> int:
        """First address past everything loaded."""
        return self.segments[-1].end

    def physical(self, entry: int) -> int:
        """Return where an entry point stands in memory; it may be told as a virtual address."""
        if any(part.address <= entry < part.end for part in self.segments):
            return entry
        for part in self.segments:
            if part.virtual <= entry < part.virtual + part.memory_size:
                return entry - part.virtual + part.address
        return entry


def is_elf_32(image: ImageFile) -> bool:
    """Whether an ELF file is a 32-bit one."""
    return image.read(4, 1) == bytes([ELFCLASS32])


def read_elf(image: ImageFile, *, any_class: bool = False) -> Elf:
    """Read and check the headers of an ELF kernel; nothing is loaded yet.

    ``any_class`` takes a 32-bit one, too. Raises :class:`ConfigurationError` when the file is no
    x86-64 kernel image, or a damaged one.
    """
    narrow = any_class and is_elf_32(image)
    form = _HEADER_32 if narrow else _HEADER
    image.check_part("its ELF header", 0, form.size)
    fields = form.unpack(image.read(0, form.size))
    ident, kind, machine, _, entry, table, _, _, _, entry_size, count, *_ = fields
    _check_identity(image, ident, kind, machine, narrow=narrow)
    headers = _program_headers(image, table, entry_size, count, narrow=narrow)
    if any(header[0] == PT_INTERP for header in headers):
        raise ConfigurationError(f"{image.name}: is a dynamically linked program, not a kernel")
    segments = _segments(image, headers)
    pvh_entries = [_pvh_entry(image, header) for header in headers if header[0] == PT_NOTE]
    pvh_entry = next((address for address in pvh_entries if address is not None), None)
    return Elf(entry, pvh_entry, segments)


def load_elf(image: ImageFile, elf: Elf, memory: BootMemory) -> None:
    """Read every segment into guest memory and clear the rest of it (``.bss``).

    Raises :class:`ConfigurationError` when RAM ends before the kernel does.
    """
    ram = low_ram_end(memory)
    if elf.end > ram:
        needed = -(-elf.end // layout.MEBIBYTE)
        raise ConfigurationError(
            f"{image.name}: RAM too small: the kernel ends at {elf.end:#x} and needs at least "
            f"{needed} MiB, the machine has {ram // layout.MEBIBYTE} MiB below its 32-bit hole"
        )
    for segment in elf.segments:
        image.load(memory, segment.address, segment.offset, segment.file_size)
        rest = segment.memory_size - segment.file_size
        clear(memory, segment.address + segment.file_size, rest)


def check_entry(image: ImageFile, elf: Elf, entry: int, what: str) -> None:
    """Raise :class:`ConfigurationError` unless ``entry`` lies in the bytes of a loaded segment."""
    if not any(part.address <= entry < part.address + part.file_size for part in elf.segments):
        raise ConfigurationError(f"{image.name}: its {what} {entry:#x} is in no loaded segment")


def _check_identity(
    image: ImageFile, ident: bytes, kind: int, machine: int, *, narrow: bool
) -> None:
    if ident[:4] != ELF_MAGIC:
        raise ConfigurationError(f"{image.name}: is not an ELF file")
    if ident[5] != ELFDATA2LSB:
        raise ConfigurationError(f"{image.name}: is a big-endian ELF file, not an x86-64 kernel")
    if machine != EM_X86_64 and not (machine == EM_386 and (narrow or ident[4] == ELFCLASS32)):
        name = MACHINES.get(machine, f"machine {machine}")
        raise ConfigurationError(f"{image.name}: is an ELF file for {name}, not x86-64")
    if ident[4] != (ELFCLASS32 if narrow else ELFCLASS64):
        raise ConfigurationError(
            f"{image.name}: is a 32-bit ELF file: a 64-bit one, or a Multiboot header, is needed"
        )
    if kind != ET_EXEC:
        name = TYPES.get(kind, f"an ELF file of type {kind}")
        raise ConfigurationError(f"{image.name}: is {name}, not an executable kernel image")


def _program_headers(
    image: ImageFile, table: int, entry_size: int, count: int, *, narrow: bool
) -> list[tuple[int, ...]]:
    """Return the program headers, with their fields in the order of the 64-bit ones."""
    form = _PROGRAM_HEADER_32 if narrow else _PROGRAM_HEADER
    if entry_size != form.size or not 0 < count <= PROGRAM_HEADERS_MAX:
        raise ConfigurationError(
            f"{image.name}: has {count} program headers of {entry_size} bytes, "
            f"must be 1 to {PROGRAM_HEADERS_MAX} of {form.size}"
        )
    image.check_part("its program header table", table, count * entry_size)
    headers = list(form.iter_unpack(image.read(table, count * entry_size)))
    if narrow:  # it has the flags behind the sizes
        return [(one[0], one[6], *one[1:6], one[7]) for one in headers]
    return headers


def _segments(image: ImageFile, headers: list[tuple[int, ...]]) -> tuple[Segment, ...]:
    loads = [header for header in headers if header[0] == PT_LOAD and header[6]]
    segments = [
        Segment(offset, file_size, address, memory_size, virtual)
        for _, _, offset, virtual, address, file_size, memory_size, _ in loads
    ]
    if not segments:
        raise ConfigurationError(f"{image.name}: has nothing to load (no PT_LOAD segment)")
    segments.sort(key=lambda segment: segment.address)
    for segment in segments:
        check_segment(image, segment)
    for lower, upper in pairwise(segments):
        if lower.end > upper.address:
            raise ConfigurationError(f"{image.name}: two segments overlap at {upper.address:#x}")
    return tuple(segments)


def check_segment(image: ImageFile, segment: Segment) -> None:
    """Raise :class:`ConfigurationError` for a segment that fits neither the file nor a machine."""
    where = f"segment at {segment.address:#x} of {segment.memory_size:#x} bytes"
    if segment.file_size > segment.memory_size:
        raise ConfigurationError(
            f"{image.name}: {where} has more bytes in the file ({segment.file_size:#x})"
        )
    image.check_part(f"its {where}", segment.offset, segment.file_size)
    if segment.address < layout.HIGH_MEMORY:
        raise ConfigurationError(
            f"{image.name}: {where} overlaps the boot area, which ends at {layout.HIGH_MEMORY:#x}"
        )
    if segment.end > layout.LOW_RAM_END:
        raise ConfigurationError(
            f"{image.name}: {where} is outside RAM, which ends at {layout.LOW_RAM_END:#x} at most"
        )


def _pvh_entry(image: ImageFile, header: tuple[int, ...]) -> int | None:
    """Walk one ``PT_NOTE``: ``namesz, descsz, type``, name, descriptor, each padded."""
    offset, size, alignment = header[2], header[5], 8 if header[7] == 8 else 4
    image.check_part("its note segment", offset, size)
    notes = image.read(offset, min(size, NOTES_MAX))
    position = 0
    while position + _NOTE.size <= len(notes):
        name_size, size, kind = _NOTE.unpack_from(notes, position)
        name = position + _NOTE.size
        descriptor = _align(name + name_size, alignment)
        if kind == XEN_ELFNOTE_PHYS32_ENTRY and notes[name : name + name_size] == b"Xen\0":
            return _pvh_address(image, notes[descriptor : descriptor + size])
        position = _align(descriptor + size, alignment)
    return None


def _pvh_address(image: ImageFile, descriptor: bytes) -> int:
    if len(descriptor) not in (4, 8):
        raise ConfigurationError(
            f"{image.name}: its PVH entry note has {len(descriptor)} bytes, must be 4 or 8"
        )
    return int.from_bytes(descriptor, "little")


def _align(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment
