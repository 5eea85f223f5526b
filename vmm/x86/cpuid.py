"""The guest's CPUID: KVM's supported list, fitted to each vCPU of a machine.

Leaf and bit names are those of the Intel SDM vol. 2 "CPUID" and the AMD APM vol. 3 appendix E; the
paravirtual leaves are those of Linux ``Documentation/virt/kvm/x86/cpuid.rst``.
"""

from collections.abc import Callable, Iterable

from virtio.named_tuple import NamedTuple
from vmm.topology import CpuTopology
from vmm.x86.apic_ids import IdBits, apic_id, id_bits

KVM_CPUID_FLAG_SIGNIFCANT_INDEX = 1

KVM_FEATURE_CLOCKSOURCE = 0
KVM_FEATURE_CLOCKSOURCE2 = 3
KVM_FEATURE_CLOCKSOURCE_STABLE_BIT = 24

AMD_VENDORS = (b"AuthenticAMD", b"HygonGenuine")
INTEL_VENDOR = b"GenuineIntel"

SMT_LEVEL = 1
CORE_LEVEL = 2


class CpuidEntry(NamedTuple):
    """One answer of CPUID, with the fields of ``struct kvm_cpuid_entry2``."""

    function: int
    index: int  # type: ignore[assignment]  # the kernel's name, over tuple.index()
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int


class _Place(NamedTuple):
    """A vCPU among the others: its APIC ID, the fields of that, and how the machine is made up."""

    apic_id: int
    bits: IdBits
    topology: CpuTopology

    @property
    def in_package(self) -> int:
        """How many processors a package has."""
        return self.topology.cores * self.topology.threads

    @property
    def ids_in_package(self) -> int:
        """How many APIC IDs a package takes up, those that no processor has among them."""
        return 1 << self.bits.package

    def sharers(self, cache_level: int) -> int:
        """Return how many IDs share a cache: those of a core, or of a package from level 3 on."""
        return self.ids_in_package if cache_level >= 3 else 1 << self.bits.thread


def guest_cpuid(
    supported: Iterable[CpuidEntry],
    cpu: int,
    topology: CpuTopology,
    *,
    emulated: bool = False,
    tsc_deadline: bool = False,
) -> list[CpuidEntry]:
    """Return the entries for vCPU ``cpu`` from what KVM_GET_SUPPORTED_CPUID gave.

    ``emulated`` says that the host has no hardware virtualization: instructions that its emulator
    lacks, and features that need hypercalls, are hidden. ``tsc_deadline`` is whether
    KVM_CAP_TSC_DEADLINE_TIMER is there; the supported list never shows it.
    """
    entries = list(supported)
    vendor = _vendor(entries)
    place = _Place(apic_id(cpu, topology), id_bits(topology), topology)
    entries = _with_topology_leaves(entries, place)
    entries = [_common(entry, place, tsc_deadline) for entry in entries]
    if vendor == INTEL_VENDOR:
        entries = [_intel(entry, place) for entry in entries]
    if vendor in AMD_VENDORS:
        extended = max((entry.function for entry in entries), default=0) >= 0x8000_001E
        entries = [_amd(entry, place, topology_extensions=extended) for entry in entries]
    return [_without_unemulated(entry) for entry in entries] if emulated else entries


def _vendor(entries: list[CpuidEntry]) -> bytes:
    for entry in entries:
        if entry.function == 0:
            words = (entry.ebx, entry.edx, entry.ecx)
            return b"".join(word.to_bytes(4, "little") for word in words)
    return b""


def _with_topology_leaves(entries: list[CpuidEntry], place: _Place) -> list[CpuidEntry]:
    """Replace leaves 0xb and 0x1f, of which Linux 6.2 and newer give the first subleaf only."""
    present = {entry.function for entry in entries}
    maximum = max((entry.eax for entry in entries if entry.function == 0), default=0)
    leaves = [leaf for leaf in (0xB, 0x1F) if leaf in present or (leaf == 0xB and maximum >= leaf)]
    kept = [entry for entry in entries if entry.function not in leaves]
    return kept + [entry for leaf in leaves for entry in _topology_leaf(leaf, place)]


def _topology_leaf(leaf: int, place: _Place) -> list[CpuidEntry]:
    levels = [
        (place.bits.thread, place.topology.threads, SMT_LEVEL << 8 | 0),
        (place.bits.package, place.in_package, CORE_LEVEL << 8 | 1),
        (0, 0, 2),
    ]
    return [
        CpuidEntry(leaf, index, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, *level, place.apic_id)
        for index, level in enumerate(levels)
    ]


def _common(entry: CpuidEntry, place: _Place, tsc_deadline: bool) -> CpuidEntry:
    if entry.function == 1:
        clflush_quadwords, ids = 8, min(place.ids_in_package, 0xFF)
        ebx = entry.ebx & 0xFF | clflush_quadwords << 8 | ids << 16 | place.apic_id << 24
        ecx = _set_bit(entry.ecx, 15, False)  # PDCM: no PERF_CAPABILITIES MSR is offered
        ecx = _set_bit(ecx, 24, tsc_deadline)
        ecx = _set_bit(ecx, 31, True)  # hypervisor present
        edx = _set_bit(entry.edx, 28, place.in_package > 1)  # HTT: EBX[23:16] is valid
        return entry._replace(ebx=ebx, ecx=ecx, edx=edx)
    if entry.function == 0x8000_0006:
        return entry._replace(edx=entry.edx & ~(3 << 16))
    return entry


def _intel(entry: CpuidEntry, place: _Place) -> CpuidEntry:
    fix = _INTEL_LEAVES.get(entry.function)
    return fix(entry, place) if fix else entry


def _intel_cache(entry: CpuidEntry, place: _Place) -> CpuidEntry:
    if entry.eax & 0x1F == 0:  # the end of the list of caches
        return entry
    sharing = place.sharers(entry.eax >> 5 & 7) - 1
    cores = min((1 << place.bits.core) - 1, 0x3F)
    return entry._replace(eax=entry.eax & 0x3FFF | sharing << 14 | cores << 26)


def _intel_power(entry: CpuidEntry, _: _Place) -> CpuidEntry:
    """Hide turbo and the energy-bias MSR."""
    return entry._replace(eax=entry.eax & ~(1 << 1), ecx=entry.ecx & ~(1 << 3))


def _intel_features(entry: CpuidEntry, _: _Place) -> CpuidEntry:
    """Set the FPU deprecation bits; hide WAITPKG, with which a guest could hold a core."""
    if entry.index != 0:
        return entry
    return entry._replace(ebx=entry.ebx | 1 << 6 | 1 << 13, ecx=entry.ecx & ~(1 << 5))


def _no_performance_counters(entry: CpuidEntry, _: _Place) -> CpuidEntry:
    return entry._replace(eax=0, ebx=0, ecx=0, edx=0)


_INTEL_LEAVES: dict[int, Callable[[CpuidEntry, _Place], CpuidEntry]] = {
    0x4: _intel_cache,
    0x6: _intel_power,
    0x7: _intel_features,
    0xA: _no_performance_counters,
}


def _amd(entry: CpuidEntry, place: _Place, *, topology_extensions: bool) -> CpuidEntry:
    function = entry.function
    if function == 7 and entry.index == 0:
        return entry._replace(edx=entry.edx & ~(1 << 29))  # ARCH_CAPABILITIES is Intel's
    if function == 0x8000_0001:
        return entry._replace(ecx=_set_bit(entry.ecx, 22, topology_extensions))
    if function == 0x8000_0008:
        ecx = entry.ecx & ~0xF0FF | place.in_package - 1 | place.bits.package << 12
        return entry._replace(ecx=ecx)
    if function == 0x8000_001D and entry.eax & 0x1F:
        sharing = place.sharers(entry.eax >> 5 & 7) - 1
        return entry._replace(eax=entry.eax & ~(0xFFF << 14) | sharing << 14)
    if function == 0x8000_001E:
        core = place.apic_id >> place.bits.thread & (1 << place.bits.core) - 1
        node = place.apic_id >> place.bits.package
        threads = place.topology.threads - 1
        return entry._replace(eax=place.apic_id, ebx=threads << 8 | core, ecx=node, edx=0)
    return entry


def _without_unemulated(entry: CpuidEntry) -> CpuidEntry:
    """Hide features whose instructions KVM's emulator cannot execute, or would retry for ever.

    SMAP stays: its ``clac`` is what makes system calls of the guest's user mode recognisable.
    """
    if entry.function == 1:
        hidden = 1 << 13 | 1 << 23 | 1 << 30  # CMPXCHG16B, POPCNT, RDRAND
        return entry._replace(ecx=entry.ecx & ~hidden)
    if entry.function == 7 and entry.index == 0:
        return entry._replace(ebx=entry.ebx & ~(1 << 18))  # RDSEED
    if entry.function == 0x4000_0001:
        offered = 1 << KVM_FEATURE_CLOCKSOURCE | 1 << KVM_FEATURE_CLOCKSOURCE2
        return entry._replace(eax=entry.eax & (offered | 1 << KVM_FEATURE_CLOCKSOURCE_STABLE_BIT))
    return entry


def _set_bit(value: int, bit: int, on: bool) -> int:
    return value | 1 << bit if on else value & ~(1 << bit)
