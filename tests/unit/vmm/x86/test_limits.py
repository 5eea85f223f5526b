"""Bounds of a machine, with the limits in the message."""

import pytest

from virtio.errors import ConfigurationError
from vmm.x86 import check_cpus, check_memory


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
