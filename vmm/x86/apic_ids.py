"""The APIC IDs of a machine's processors: what its tables, CPUID and KVM all name them by.

An ID is the numbers of socket, core and thread side by side, each in as many bits as the largest
needs, so the IDs have gaps where a number is no power of 2. Intel SDM vol. 3 "Hierarchical Mapping
of Shared Resources".
"""

from virtio.named_tuple import NamedTuple
from vmm.topology import CpuTopology


class IdBits(NamedTuple):
    """How many bits of an APIC ID number the threads of a core, and the cores of a package."""

    thread: int
    core: int

    @property
    def package(self) -> int:
        """The bits that number the processors of a package."""
        return self.thread + self.core


def id_bits(topology: CpuTopology) -> IdBits:
    """Return the bits of the fields."""
    return IdBits((topology.threads - 1).bit_length(), (topology.cores - 1).bit_length())


def apic_id(cpu: int, topology: CpuTopology) -> int:
    """Return the ID of a processor; these are counted thread by thread, core by core.

    >>> [apic_id(cpu, CpuTopology(sockets=2, cores=3)) for cpu in range(6)]
    [0, 1, 2, 4, 5, 6]
    """
    bits = id_bits(topology)
    core, thread = divmod(cpu, topology.threads)
    package, core = divmod(core, topology.cores)
    return package << bits.package | core << bits.thread | thread


def highest_vcpu_id(topology: CpuTopology) -> int:
    """Return the highest of the IDs, by which KVM gets to know the vCPUs."""
    return apic_id(topology.cpus - 1, topology)


def apic_ids(topology: CpuTopology) -> list[int]:
    """Return the IDs of all processors, the boot processor's first, which is 0."""
    return [apic_id(cpu, topology) for cpu in range(topology.cpus)]
