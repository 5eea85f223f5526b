"""The guest's CPUID: KVM's supported list, fitted to each vCPU of a machine.

Leaf and bit names are those of the Intel SDM vol. 2 "CPUID" and the AMD APM vol. 3 appendix E; the
paravirtual leaves are those of Linux ``Documentation/virt/kvm/x86/cpuid.rst``.
"""

from collections.abc import Callable, Iterable

from virtio.named_tuple import NamedTuple

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


class Topology(NamedTuple):
    """vCPU ``cpu`` of ``cpus``, one thread per core, all cores in one package."""

    cpu: int
    cpus: int

    @property
    def id_bits(self) -> int:
        """Bits of the APIC ID that number the CPUs of the package."""
        return (self.cpus - 1).bit_length()


def guest_cpuid(
    supported: Iterable[CpuidEntry],
    cpu: int,
    cpus: int,
    *,
    emulated: bool = False,
    tsc_deadline: bool = False,
) -> list[CpuidEntry]:
    """Return the entries for vCPU ``cpu`` of ``cpus`` from what KVM_GET_SUPPORTED_CPUID gave.

    ``emulated`` says that the host has no hardware virtualization: instructions that its emulator
    lacks, and features that need hypercalls, are hidden. ``tsc_deadline`` is whether
    KVM_CAP_TSC_DEADLINE_TIMER is there; the supported list never shows it.
    """
    entries = list(supported)
    vendor = _vendor(entries)
    topology = Topology(cpu, cpus)
    entries = _with_topology_leaves(entries, topology)
    entries = [_common(entry, topology, tsc_deadline) for entry in entries]
    if vendor == INTEL_VENDOR:
        entries = [_intel(entry, topology) for entry in entries]
    if vendor in AMD_VENDORS:
        extended = max((entry.function for entry in entries), default=0) >= 0x8000_001E
        entries = [_amd(entry, topology, topology_extensions=extended) for entry in entries]
    return [_without_unemulated(entry) for entry in entries] if emulated else entries


def _vendor(entries: list[CpuidEntry]) -> bytes:
    for entry in entries:
        if entry.function == 0:
            words = (entry.ebx, entry.edx, entry.ecx)
            return b"".join(word.to_bytes(4, "little") for word in words)
    return b""


def _with_topology_leaves(entries: list[CpuidEntry], topology: Topology) -> list[CpuidEntry]:
    """Replace leaves 0xb and 0x1f, of which Linux 6.2 and newer give the first subleaf only."""
    present = {entry.function for entry in entries}
    maximum = max((entry.eax for entry in entries if entry.function == 0), default=0)
    leaves = [leaf for leaf in (0xB, 0x1F) if leaf in present or (leaf == 0xB and maximum >= leaf)]
    kept = [entry for entry in entries if entry.function not in leaves]
    return kept + [entry for leaf in leaves for entry in _topology_leaf(leaf, topology)]


def _topology_leaf(leaf: int, topology: Topology) -> list[CpuidEntry]:
    flags, cpu = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, topology.cpu
    return [
        CpuidEntry(leaf, 0, flags, 0, 1, SMT_LEVEL << 8 | 0, cpu),
        CpuidEntry(leaf, 1, flags, topology.id_bits, topology.cpus, CORE_LEVEL << 8 | 1, cpu),
        CpuidEntry(leaf, 2, flags, 0, 0, 2, cpu),
    ]


def _common(entry: CpuidEntry, topology: Topology, tsc_deadline: bool) -> CpuidEntry:
    if entry.function == 1:
        clflush_quadwords, ids = 8, 1 << topology.id_bits
        ebx = entry.ebx & 0xFF | clflush_quadwords << 8 | (ids & 0xFF) << 16 | topology.cpu << 24
        ecx = _set_bit(entry.ecx, 15, False)  # PDCM: no PERF_CAPABILITIES MSR is offered
        ecx = _set_bit(ecx, 24, tsc_deadline)
        ecx = _set_bit(ecx, 31, True)  # hypervisor present
        edx = _set_bit(entry.edx, 28, topology.cpus > 1)  # HTT: EBX[23:16] is valid
        return entry._replace(ebx=ebx, ecx=ecx, edx=edx)
    if entry.function == 0x8000_0006:
        return entry._replace(edx=entry.edx & ~(3 << 16))
    return entry


def _intel(entry: CpuidEntry, topology: Topology) -> CpuidEntry:
    fix = _INTEL_LEAVES.get(entry.function)
    return fix(entry, topology) if fix else entry


def _intel_cache(entry: CpuidEntry, topology: Topology) -> CpuidEntry:
    if entry.eax & 0x1F == 0:  # the end of the list of caches
        return entry
    level = entry.eax >> 5 & 7
    sharing = topology.cpus - 1 if level >= 3 else 0
    cores = min(topology.cpus - 1, 0x3F)
    return entry._replace(eax=entry.eax & 0x3FFF | sharing << 14 | cores << 26)


def _intel_power(entry: CpuidEntry, _: Topology) -> CpuidEntry:
    """Hide turbo and the energy-bias MSR."""
    return entry._replace(eax=entry.eax & ~(1 << 1), ecx=entry.ecx & ~(1 << 3))


def _intel_features(entry: CpuidEntry, _: Topology) -> CpuidEntry:
    """Set the FPU deprecation bits; hide WAITPKG, with which a guest could hold a core."""
    if entry.index != 0:
        return entry
    return entry._replace(ebx=entry.ebx | 1 << 6 | 1 << 13, ecx=entry.ecx & ~(1 << 5))


def _no_performance_counters(entry: CpuidEntry, _: Topology) -> CpuidEntry:
    return entry._replace(eax=0, ebx=0, ecx=0, edx=0)


_INTEL_LEAVES: dict[int, Callable[[CpuidEntry, Topology], CpuidEntry]] = {
    0x4: _intel_cache,
    0x6: _intel_power,
    0x7: _intel_features,
    0xA: _no_performance_counters,
}


def _amd(entry: CpuidEntry, topology: Topology, *, topology_extensions: bool) -> CpuidEntry:
    function, cpu = entry.function, topology.cpu
    if function == 7 and entry.index == 0:
        return entry._replace(edx=entry.edx & ~(1 << 29))  # ARCH_CAPABILITIES is Intel's
    if function == 0x8000_0001:
        return entry._replace(ecx=_set_bit(entry.ecx, 22, topology_extensions))
    if function == 0x8000_0008:
        ecx = entry.ecx & ~0xF0FF | topology.cpus - 1 | 7 << 12
        return entry._replace(ecx=ecx)
    if function == 0x8000_001D and entry.eax & 0x1F:
        sharing = topology.cpus - 1 if entry.eax >> 5 & 7 >= 3 else 0
        return entry._replace(eax=entry.eax & ~(0xFFF << 14) | sharing << 14)
    if function == 0x8000_001E:
        return entry._replace(eax=cpu, ebx=cpu & 0xFF, ecx=0, edx=0)
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
