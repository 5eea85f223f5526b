"""CPUID fix-ups, by leaf and bit numbers typed from the Intel SDM and the AMD APM."""

import struct

import pytest

from vmm.topology import CpuTopology
from vmm.x86.cpuid import CpuidEntry, guest_cpuid

ONES = 0xFFFFFFFF


def vendor_leaf(name: bytes, maximum: int) -> CpuidEntry:
    ebx, edx, ecx = struct.unpack("<III", name)
    return CpuidEntry(0, 0, 0, maximum, ebx, ecx, edx)


def entry(function: int, index: int = 0, *, value: int = 0, **registers: int) -> CpuidEntry:
    words = dict.fromkeys(("eax", "ebx", "ecx", "edx"), value) | registers
    return CpuidEntry(function, index, 0, **words)


INTEL = vendor_leaf(b"GenuineIntel", 0x1F)
AMD = vendor_leaf(b"AuthenticAMD", 0x10)
OTHER = vendor_leaf(b"Some one.org", 0x10)


def answer(
    supported: list[CpuidEntry],
    function: int,
    index: int = 0,
    *,
    cpu: int = 0,
    cpus: int = 1,
    topology: CpuTopology | None = None,
    emulated: bool = False,
    tsc_deadline: bool = False,
) -> CpuidEntry:
    topology = topology or CpuTopology(cores=cpus)
    fitted = guest_cpuid(supported, cpu, topology, emulated=emulated, tsc_deadline=tsc_deadline)
    (found,) = [e for e in fitted if (e.function, e[1]) == (function, index)]
    return found


@pytest.mark.parametrize(
    ("cpu", "cpus", "ebx"),
    [
        (0, 1, 0x00010844),
        (1, 2, 0x01020844),
        (2, 3, 0x02040844),
        (4, 5, 0x04080844),
        (127, 128, 0x7F800844),
        (253, 254, 0xFDFF0844),
    ],
)
def test_leaf_1_ebx_holds_apic_id_count_and_line_size(cpu: int, cpus: int, ebx: int) -> None:
    supported = [OTHER, entry(1, ebx=0x99887744)]

    assert answer(supported, 1, cpu=cpu, cpus=cpus).ebx == ebx


def test_leaf_1_shows_a_hypervisor_and_hides_pdcm() -> None:
    assert answer([OTHER, entry(1, value=0)], 1).ecx == 1 << 31
    assert answer([OTHER, entry(1, value=ONES)], 1).ecx == ONES & ~(1 << 15 | 1 << 24)


def test_tsc_deadline_timer_is_shown_when_kvm_has_it() -> None:
    assert answer([OTHER, entry(1)], 1, tsc_deadline=True).ecx == 1 << 31 | 1 << 24


@pytest.mark.parametrize(("cpus", "edx"), [(1, 0), (2, 1 << 28)])
def test_htt_is_shown_with_more_than_one_cpu(cpus: int, edx: int) -> None:
    assert answer([OTHER, entry(1)], 1, cpus=cpus).edx == edx


@pytest.mark.parametrize(
    ("cpus", "bits"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (32, 5), (254, 8)]
)
def test_topology_leaf_names_levels_and_x2apic_id(cpus: int, bits: int) -> None:
    supported = [INTEL, entry(0xB, value=ONES)]
    cpu = cpus - 1

    smt = answer(supported, 0xB, 0, cpu=cpu, cpus=cpus)
    core = answer(supported, 0xB, 1, cpu=cpu, cpus=cpus)
    end = answer(supported, 0xB, 2, cpu=cpu, cpus=cpus)

    assert smt == (0xB, 0, 1, 0, 1, 0x100, cpu)
    assert core == (0xB, 1, 1, bits, cpus, 0x201, cpu)
    assert end == (0xB, 2, 1, 0, 0, 2, cpu)


def test_topology_leaf_is_inserted_when_kvm_leaves_it_out() -> None:
    assert answer([INTEL], 0xB, 1, cpus=4).ebx == 4


def test_topology_leaf_is_not_inserted_past_the_last_leaf() -> None:
    old = vendor_leaf(b"GenuineIntel", 0xA)

    assert [found.function for found in guest_cpuid([old], 0, CpuTopology(cores=2))] == [0]


def test_leaf_1f_is_like_leaf_b_where_the_host_has_it() -> None:
    supported = [INTEL, entry(0x1F, 0, value=ONES), entry(0x1F, 5, value=ONES)]

    found = [e[1:] for e in guest_cpuid(supported, 2, CpuTopology(cores=4)) if e.function == 0x1F]

    assert found == [
        e[1:] for e in guest_cpuid(supported, 2, CpuTopology(cores=4)) if e.function == 0xB
    ]


@pytest.mark.parametrize(
    ("eax", "expected"),
    [
        (0x21 | ONES << 14 & ONES, 0x0C000021),  # level 1 data: one core's own
        (0x43 | ONES << 14 & ONES, 0x0C000043),  # level 2
        (0x63 | ONES << 14 & ONES, 0x0C00C063),  # level 3: shared by 4
        (0, 0),
    ],
)
def test_intel_cache_leaf_shares_the_third_level(eax: int, expected: int) -> None:
    assert answer([INTEL, entry(4, eax=eax)], 4, cpus=4).eax == expected


def test_intel_cache_leaf_has_room_for_64_cores_at_most() -> None:
    assert answer([INTEL, entry(4, eax=0x63)], 4, cpus=254).eax == 0xFC000063 | 255 << 14


def test_intel_leaves_hide_turbo_energy_bias_waitpkg_and_counters() -> None:
    supported = [INTEL, *(entry(leaf, value=ONES) for leaf in (6, 7, 0xA))]

    assert answer(supported, 6) == (6, 0, 0, ONES & ~2, ONES, ONES & ~8, ONES)
    assert answer(supported, 7) == (7, 0, 0, ONES, ONES, ONES & ~0x20, ONES)
    assert answer(supported, 0xA) == (0xA, 0, 0, 0, 0, 0, 0)


def test_intel_leaf_7_sets_the_fpu_deprecation_bits_of_subleaf_0_only() -> None:
    supported = [INTEL, entry(7, 0), entry(7, 1)]

    assert answer(supported, 7, 0).ebx == 1 << 6 | 1 << 13
    assert answer(supported, 7, 1).ebx == 0


def test_amd_leaves_describe_cores_of_one_node() -> None:
    leaves = (7, 0x80000001, 0x80000008, 0x8000001E)
    supported = [AMD, *(entry(leaf, value=ONES) for leaf in leaves)]

    assert answer(supported, 7).edx == ONES & ~(1 << 29)
    assert answer(supported, 0x80000001).ecx == ONES
    assert answer(supported, 0x80000008, cpus=6).ecx == 0xFFFF3F05
    assert answer(supported, 0x8000001E, cpu=5, cpus=6)[3:] == (5, 5, 0, 0)


def test_amd_topology_extensions_are_hidden_without_their_leaf() -> None:
    assert answer([AMD, entry(0x80000001, value=ONES)], 0x80000001).ecx == ONES & ~(1 << 22)


@pytest.mark.parametrize(("eax", "expected"), [(0x3FFC121, 0x121), (0x163, 0xC163), (0, 0)])
def test_amd_cache_leaf_shares_the_third_level(eax: int, expected: int) -> None:
    supported = [AMD, entry(0x8000001D, eax=eax)]

    assert answer(supported, 0x8000001D, cpus=4).eax == expected


def test_reserved_bits_of_the_level_2_cache_leaf_are_clear() -> None:
    assert answer([AMD, entry(0x80000006, value=ONES)], 0x80000006).edx == 0xFFFCFFFF


def test_other_leaves_are_kept_as_kvm_gave_them() -> None:
    supported = [entry(leaf, value=ONES) for leaf in (2, 0xD, 0x40000000, 0x40000001, 0x80000002)]

    fitted = guest_cpuid([INTEL, *supported], 0, CpuTopology(), emulated=False)

    assert set(supported) < set(fitted)


def test_host_without_hardware_virtualization_hides_what_it_cannot_emulate() -> None:
    supported = [OTHER, *(entry(leaf, value=ONES) for leaf in (1, 7, 0x40000001))]

    hidden = 1 << 13 | 1 << 15 | 1 << 23 | 1 << 24 | 1 << 30
    assert answer(supported, 1, emulated=True).ecx == ONES & ~hidden
    assert answer(supported, 0x40000001, emulated=True).eax == 0x01000009


def test_host_without_hardware_virtualization_hides_rdseed_and_keeps_smap() -> None:
    supported = [OTHER, entry(7, value=ONES)]

    found = answer(supported, 7, emulated=True)

    assert found.ebx == ONES & ~(1 << 18)
    assert found.ebx & 1 << 20


# Their IDs are 0 to 5 and 8 to 13: one bit for the thread, two for the core.
UNEVEN = CpuTopology(sockets=2, cores=3, threads=2)


def test_leaf_1_counts_the_ids_of_a_socket_with_their_gaps() -> None:
    found = answer([OTHER, entry(1)], 1, cpu=11, topology=UNEVEN)

    assert (found.ebx, found.edx) == (0x0D080800, 1 << 28)


def test_sockets_of_one_processor_each_have_no_htt() -> None:
    assert answer([OTHER, entry(1)], 1, cpu=3, topology=CpuTopology(sockets=4)).edx == 0


@pytest.mark.parametrize("leaf", [0xB, 0x1F])
def test_topology_leaf_shifts_to_the_core_and_to_the_socket(leaf: int) -> None:
    supported = [INTEL, entry(leaf)]

    levels = [answer(supported, leaf, index, cpu=11, topology=UNEVEN) for index in range(3)]

    assert levels == [
        (leaf, 0, 1, 1, 2, 0x100, 13),
        (leaf, 1, 1, 3, 6, 0x201, 13),
        (leaf, 2, 1, 0, 0, 2, 13),
    ]


@pytest.mark.parametrize(("level", "sharers"), [(1, 2), (2, 2), (3, 8)])
def test_threads_share_the_caches_of_their_core_and_cores_the_third_level(
    level: int, sharers: int
) -> None:
    kind = level << 5 | 1

    intel = answer([INTEL, entry(4, eax=kind)], 4, topology=UNEVEN)
    amd = answer([AMD, entry(0x8000001D, eax=kind)], 0x8000001D, topology=UNEVEN)

    assert intel.eax == 3 << 26 | sharers - 1 << 14 | kind
    assert amd.eax == sharers - 1 << 14 | kind


def test_amd_leaves_tell_core_threads_and_node() -> None:
    supported = [AMD, entry(0x80000008), entry(0x8000001E)]

    assert answer(supported, 0x80000008, cpu=11, topology=UNEVEN).ecx == 0x3005
    assert answer(supported, 0x8000001E, cpu=11, topology=UNEVEN)[3:] == (13, 0x102, 1, 0)


def test_x2apic_is_passed_on_where_kvm_offers_it() -> None:
    assert answer([OTHER, entry(1, ecx=1 << 21)], 1, cpus=4).ecx >> 21 & 1 == 1
    assert answer([OTHER, entry(1, ecx=1 << 21)], 1, cpus=4, emulated=True).ecx >> 21 & 1 == 1


def test_empty_list_stays_empty() -> None:
    assert guest_cpuid([], 0, CpuTopology(), emulated=True) == []
