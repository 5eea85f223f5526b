"""How the processors of a machine are put together, as the command line says it."""

import pytest

from virtio.errors import ConfigurationError
from vmm.config import MachineConfig
from vmm.topology import CpuTopology, parse_cpus
from vmm.x86.apic_ids import apic_ids


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("4,sockets=1,cores=2,threads=2", (1, 2, 2)),
        ("4,threads=1", (1, 4, 1)),
        ("8,sockets=2", (2, 4, 1)),
        ("8,cores=4", (2, 4, 1)),
        ("8,sockets=2,cores=2", (2, 2, 2)),
        ("12,threads=2,sockets=3", (3, 2, 2)),
    ],
)
def test_what_is_left_out_is_made_to_fit(text: str, parts: tuple[int, int, int]) -> None:
    cpus, topology = parse_cpus(text)

    assert topology == CpuTopology(*parts)
    assert topology.cpus == cpus


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("many", "'many': must be N"),
        ("", "must be N"),
        ("-1", "must be N"),
        ("4,", "must be N"),
        ("4,dies=2", "must be N"),
        ("4,cores", "must be N"),
        ("4,cores=2,cores=2", "must be N"),
        ("4,cores=\u0662", "must be N"),
        ("4,threads=3", "4 is no multiple of 3"),
        ("4,cores=0", "4 is no multiple of 0"),
        ("4,sockets=2,cores=2,threads=2", "4 processors: .* makes 8"),
        ("0,sockets=2", "0 cores: must be 1 or more"),
    ],
)
def test_what_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_cpus(text)


def test_a_machine_has_as_many_processors_as_its_topology() -> None:
    with pytest.raises(ConfigurationError, match=r"3 processors: .*cores=2.* makes 2"):
        MachineConfig(cpus=3, cpu_topology=CpuTopology(cores=2))


def test_a_machine_has_one_socket_of_cores_unless_it_is_told() -> None:
    assert MachineConfig(cpus=6).topology == CpuTopology(1, 6, 1)


@pytest.mark.parametrize(
    ("topology", "ids"),
    [
        (CpuTopology(cores=4), [0, 1, 2, 3]),
        (CpuTopology(2, 2, 2), [0, 1, 2, 3, 4, 5, 6, 7]),
        (CpuTopology(2, 3, 1), [0, 1, 2, 4, 5, 6]),
        (CpuTopology(1, 2, 3), [0, 1, 2, 4, 5, 6]),
        (CpuTopology(2, 3, 2), [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]),
    ],
)
def test_an_apic_id_has_a_field_for_each_level(topology: CpuTopology, ids: list[int]) -> None:
    assert apic_ids(topology) == ids
