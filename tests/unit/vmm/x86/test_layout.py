"""Where RAM and the virtio-mmio windows stand, and the memory map that Linux is given."""

import pytest

from virtio.errors import ConfigurationError
from vmm.x86.boot.e820 import memory_map
from vmm.x86.boot.mptable import mp_table
from vmm.x86.layout import ram_regions, virtio_mmio_window


@pytest.mark.parametrize(
    ("size", "regions"),
    [
        (0x200000, [(0, 0x200000)]),
        (0xC0000000, [(0, 0xC0000000)]),
        (0xC0001000, [(0, 0xC0000000), (0x100000000, 0x1000)]),
        (0x100000000, [(0, 0xC0000000), (0x100000000, 0x40000000)]),
        (0x3FC0000000, [(0, 0xC0000000), (0x100000000, 0x3F00000000)]),
    ],
)
def test_ram_leaves_out_the_32_bit_hole(size: int, regions: list[tuple[int, int]]) -> None:
    assert ram_regions(size) == regions


@pytest.mark.parametrize(
    ("index", "window"), [(0, (0xC0001000, 5)), (1, (0xC0002000, 6)), (18, (0xC0013000, 23))]
)
def test_virtio_mmio_windows_follow_each_other(index: int, window: tuple[int, int]) -> None:
    assert virtio_mmio_window(index) == window


@pytest.mark.parametrize("index", [-1, 19])
def test_a_twentieth_virtio_mmio_device_is_refused(index: int) -> None:
    with pytest.raises(ConfigurationError, match="at most 19"):
        virtio_mmio_window(index)


def test_memory_map_of_a_small_machine() -> None:
    assert memory_map([(0, 0x8000000)]) == [
        (0, 0x9FC00, 1),
        (0x9FC00, 0x40400, 2),
        (0x100000, 0x7F00000, 1),
        (0xEEC00000, 0x10000000, 2),
    ]


def test_memory_map_of_a_machine_with_ram_above_4_gib() -> None:
    assert memory_map([(0, 0xC0000000), (0x100000000, 0x40000000)]) == [
        (0, 0x9FC00, 1),
        (0x9FC00, 0x40400, 2),
        (0x100000, 0xBFF00000, 1),
        (0xEEC00000, 0x10000000, 2),
        (0x100000000, 0x40000000, 1),
    ]


def test_the_longest_mp_table_ends_before_the_acpi_tables() -> None:
    assert 0x9FC00 + len(mp_table(range(254), 0x9FC00, range(32))) <= 0xA2000
