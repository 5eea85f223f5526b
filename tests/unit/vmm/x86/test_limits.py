"""Bounds of a machine, with the limits in the message."""

import pytest

from virtio.errors import ConfigurationError
from vmm.topology import CpuTopology
from vmm.x86 import check_cpus, check_memory, check_vcpu_ids


@pytest.mark.parametrize("size_bytes", [0x40_0000, 0x3F_C000_0000])
def test_smallest_and_largest_memory_are_taken(size_bytes: int) -> None:
    check_memory(size_bytes)


@pytest.mark.parametrize("size_bytes", [-1, 0, 0x3F_F000, 0x3F_C000_1000])
def test_memory_out_of_bounds_is_refused(size_bytes: int) -> None:
    with pytest.raises(ConfigurationError, match=f"{size_bytes} bytes: must be 4M to 255G"):
        check_memory(size_bytes)


def test_memory_that_ends_inside_a_page_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="must be a multiple of 4096"):
        check_memory(0x40_0001)


@pytest.mark.parametrize("cpus", [1, 254])
def test_one_to_254_processors_are_taken(cpus: int) -> None:
    check_cpus(cpus)


@pytest.mark.parametrize("cpus", [-1, 0, 255])
def test_another_number_of_processors_is_refused(cpus: int) -> None:
    with pytest.raises(ConfigurationError, match=f"{cpus} processors: must be 1 to 254"):
        check_cpus(cpus)


@pytest.mark.parametrize("topology", [CpuTopology(cores=254), CpuTopology(3, 64), CpuTopology(254)])
def test_ids_up_to_253_are_taken(topology: CpuTopology) -> None:
    check_vcpu_ids(topology)


def test_ids_past_253_are_refused_with_the_last_one() -> None:
    with pytest.raises(ConfigurationError, match=r"sockets=3,cores=65.* up to 320, 253 is"):
        check_vcpu_ids(CpuTopology(3, 65))
