"""The registers as such: their values, their widths, and what selects what."""

from itertools import pairwise

import pytest

from tests.spec.conftest import RigMaker
from tests.spec.devices import DeviceCase, Gadget
from tests.spec.rig import VERSION_1, Rig
from virtio.errors import ConfigurationError
from virtio.memory import FlatMemory
from virtio.testing import flat_memory
from vmm.x86.boot.cmdline import build_cmdline
from vmm.x86.layout import ram_regions, virtio_mmio_window

READABLE = {
    *(0x000, 0x004, 0x008, 0x00C, 0x010, 0x034, 0x044, 0x060, 0x070),
    *(0x0B0, 0x0B4, 0x0B8, 0x0BC, 0x0C0, 0x0FC),
}
WRITABLE = {
    *(0x014, 0x020, 0x024, 0x030, 0x038, 0x044, 0x050, 0x064, 0x070),
    *(0x080, 0x084, 0x090, 0x094, 0x0A0, 0x0A4, 0x0AC, 0x0C0),
}
MISSING_QUEUES = [3, 4, 0xFF, 0xFFFF, 0x1_0000, 0x8000_0000, 0xFFFF_FFFF]


# Single registers


@pytest.mark.spec("MMIO-01")
def test_identification_registers_have_their_values(
    device_case: DeviceCase, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())

    assert rig.driver.transport.read(0x000, 4) == b"virt"
    assert rig.driver.read(0x004) == 2
    assert rig.driver.read(0x008) == device_case.device_id


@pytest.mark.spec("MMIO-02")
@pytest.mark.parametrize("width", [1, 2, 3, 8, 16])
def test_control_registers_read_zero_at_other_widths(gadget: Rig, width: int) -> None:
    gadget.start()
    gadget.request(0, ((b"x",), (1,)))

    reads = [gadget.driver.transport.read(offset, width) for offset in range(0x100 - width)]

    assert reads == [bytes(width)] * (0x100 - width)


@pytest.mark.spec("MMIO-02")
def test_unaligned_control_reads_are_zero(gadget: Rig) -> None:
    gadget.start()
    unaligned = [offset for offset in range(0xFD) if offset % 4]

    assert [gadget.driver.read(offset) for offset in unaligned] == [0] * len(unaligned)


@pytest.mark.spec("MMIO-02")
@pytest.mark.parametrize("width", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("byte", [b"\x00", b"\x01", b"\xff"], ids=["zeros", "ones", "all"])
def test_control_writes_of_other_widths_are_dropped(gadget: Rig, width: int, byte: bytes) -> None:
    gadget.start()
    before, state = gadget.registers(), gadget.transport.state()

    for offset in range(0x100 - width):
        gadget.driver.transport.write(offset, byte * width)

    assert gadget.transport.state() == state
    assert gadget.registers() == before
    assert gadget.request(0, ((b"on",), (2,))).data == b"on"


@pytest.mark.spec("MMIO-02")
@pytest.mark.parametrize("value", [0, 1, 0xFFFF_FFFF])
def test_unaligned_control_writes_are_dropped(gadget: Rig, value: int) -> None:
    gadget.start()
    state = gadget.transport.state()

    for offset in range(0xFD):
        gadget.driver.transport.write(offset | 1, value.to_bytes(4, "little"))
        gadget.driver.transport.write(offset | 2, value.to_bytes(4, "little"))

    assert gadget.transport.state() == state


@pytest.mark.spec("MMIO-03")
def test_write_only_registers_and_gaps_read_zero(
    device_case: DeviceCase, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())
    rig.start(device_case.offer)
    others = sorted(set(range(0, 0x100, 4)) - READABLE)

    assert [rig.driver.read(offset) for offset in others] == [0] * len(others)


@pytest.mark.spec("MMIO-03")
@pytest.mark.parametrize("value", [0, 1, 0xFFFF_FFFF])
def test_writes_to_read_only_registers_and_gaps_are_dropped(gadget: Rig, value: int) -> None:
    gadget.start()
    gadget.request(0, ((b"x",), (1,)))
    before, state = gadget.registers(), gadget.transport.state()

    for offset in sorted(set(range(0, 0x100, 4)) - WRITABLE):
        gadget.driver.write(offset, value)

    assert gadget.transport.state() == state
    assert gadget.registers() == before


@pytest.mark.spec("MMIO-03")
@pytest.mark.parametrize("status", [0x00, 0x03, 0x0B, 0x0F])
def test_writes_to_read_only_registers_and_gaps_are_dropped_at_every_status(
    gadget: Rig, status: int
) -> None:
    gadget.reach(status)
    state = gadget.transport.state()

    for offset in sorted(set(range(0, 0x100, 4)) - WRITABLE):
        gadget.driver.write(offset, 5)

    assert gadget.transport.state() == state


@pytest.mark.spec("MMIO-05")
@pytest.mark.parametrize("word", [4, 5, 31, 0x8000_0000, 0xFFFF_FFFF])
def test_feature_words_past_the_last_read_zero(gadget: Rig, word: int) -> None:
    gadget.driver.write(0x14, word)

    assert gadget.driver.read(0x10) == 0


@pytest.mark.spec("MMIO-05")
def test_feature_words_show_the_bits_of_their_part_of_the_offer(gadget: Rig) -> None:
    words = []
    for word in range(5):
        gadget.driver.write(0x14, word)
        words.append(gadget.driver.read(0x10))

    assert words == [0x3000_0003, 0x0004_0101, 0, 0x8000_0000, 0]


@pytest.mark.spec("MMIO-06")
@pytest.mark.parametrize("word", [2, 4, 7, 0xFFFF_FFFF])
@pytest.mark.parametrize("value", [1, 0x8000_0000])
def test_bit_in_an_unused_word_counts_as_one_that_is_not_offered(
    gadget: Rig, word: int, value: int
) -> None:
    gadget.driver.status = 0x03
    gadget.driver.accept_features(VERSION_1)
    gadget.driver.write(0x24, word)
    gadget.driver.write(0x20, value)

    gadget.driver.status = 0x0B

    assert gadget.driver.status == 0x03


# Queue registers


@pytest.mark.spec("MMIO-07")
def test_settings_of_two_queues_programmed_in_turns_do_not_mix(gadget: Rig) -> None:
    gadget.negotiate()
    rings = [gadget.add_ring(0), gadget.add_ring(1, size=4)]
    columns = (0x38, 0x80, 0x90, 0xA0)

    for column, offset in enumerate(columns):
        for index, ring in enumerate(rings):
            gadget.driver.write(0x30, index)
            gadget.driver.write(offset, ring.layout[column])
    for index in (1, 0):
        gadget.driver.write(0x30, index)
        gadget.driver.write(0x44, 1)
    gadget.driver.go_live()

    answers = [gadget.request(0, ((b"one",), (3,))).data for _ in range(12)]
    assert answers == [b"one"] * 12
    gadget.add(1, ((b"two",), (4,)))
    gadget.serve()
    assert isinstance(gadget.device, Gadget)
    gadget.device.finish()
    assert [used.data for used in gadget.rings[1].collect()] == [b"done"]


@pytest.mark.spec("MMIO-07")
def test_ready_is_kept_per_queue(gadget: Rig) -> None:
    gadget.negotiate()
    gadget.add_queue(1)

    gadget.driver.write(0x30, 0)
    first = gadget.driver.read(0x44)
    gadget.driver.write(0x30, 1)

    assert (first, gadget.driver.read(0x44)) == (0, 1)


@pytest.mark.spec("MMIO-08")
@pytest.mark.parametrize("index", MISSING_QUEUES)
def test_missing_queue_reads_zero_and_takes_no_writes(gadget: Rig, index: int) -> None:
    gadget.start(3)
    state = gadget.transport.state().queues
    gadget.driver.write(0x30, index)
    assert [gadget.driver.read(offset) for offset in (0x34, 0x44, 0xC0)] == [0, 0, 0]

    for offset in (0x38, 0x44, 0xC0, 0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4):
        gadget.driver.write(offset, 1)

    assert [gadget.driver.read(offset) for offset in (0x34, 0x44, 0xC0)] == [0, 0, 0]
    assert gadget.transport.state().queues == state


@pytest.mark.spec("MMIO-08", "MMIO-09")
def test_all_queues_exist_with_all_features_and_have_powers_of_two_as_largest_sizes(
    device_case: DeviceCase, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())
    rig.negotiate(device_case.offer)
    sizes = []
    for index in rig.present_queues():
        rig.driver.write(0x30, index)
        sizes.append(rig.driver.read(0x34))

    assert sizes == list(device_case.queue_sizes)
    assert [size & (size - 1) for size in sizes] == [0] * len(sizes)


@pytest.mark.spec("MMIO-08")
def test_queue_of_a_feature_that_was_not_negotiated_cannot_be_enabled(gadget: Rig) -> None:
    gadget.negotiate()
    ring = gadget.add_ring(2)

    assert not gadget.driver.set_up_queue(2, *ring.layout)
    assert gadget.driver.read(0x34) == 0
    assert gadget.driver.status == 0x0B


@pytest.mark.spec("MMIO-09")
@pytest.mark.parametrize("size", [0, 3, 100, 65536])
def test_device_with_another_largest_size_is_refused(make_rig: RigMaker, size: int) -> None:
    class Odd(Gadget):
        @property
        def queue_max_sizes(self) -> tuple[int, ...]:
            return (size,)

    with pytest.raises(ConfigurationError, match=f"largest size is {size}"):
        make_rig(Odd())


def memory_around(base: int) -> FlatMemory:
    return flat_memory((0, 4 << 20), (base, 4 << 20))


def enable_by(rig: Rig, order: tuple[int, ...]) -> bool:
    """Enable a queue at 16 GiB, whose halves are written in the order of these offsets."""
    ring = rig.rings[0] = rig.ring_at(0x4_0000_0000)
    values = {}
    for offset, address in zip((0x80, 0x90, 0xA0), ring.layout[1:], strict=True):
        values[offset] = address & 0xFFFF_FFFF
        values[offset + 4] = address >> 32
    rig.driver.write(0x30, 0)
    rig.driver.write(0x38, 8)
    for offset in order:
        rig.driver.write(offset, values[offset])
    rig.driver.write(0x44, 1)
    return rig.driver.read(0x44) == 1


@pytest.mark.spec("MMIO-10")
@pytest.mark.parametrize(
    "order",
    [
        (0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4),
        (0x84, 0x80, 0x94, 0x90, 0xA4, 0xA0),
        (0xA4, 0x94, 0x84, 0xA0, 0x90, 0x80),
    ],
    ids=["low-first", "high-first", "all-high-first"],
)
def test_addresses_above_4_gib_come_in_halves_of_either_order(
    order: tuple[int, ...], make_rig: RigMaker
) -> None:
    rig = make_rig(Gadget(), memory_around(0x4_0000_0000))
    rig.negotiate()

    assert enable_by(rig, order)
    rig.driver.go_live()
    assert rig.request(0, ((b"far",), (3,))).data == b"far"


@pytest.mark.spec("MMIO-10")
def test_upper_halves_are_zero_by_default(gadget: Rig) -> None:
    gadget.negotiate()
    ring = gadget.add_ring(0)

    for offset, address in zip((0x80, 0x90, 0xA0), ring.layout[1:], strict=True):
        gadget.driver.write(offset, address)
    gadget.driver.write(0x38, 8)
    gadget.driver.write(0x44, 1)
    gadget.driver.go_live()

    assert gadget.request(0, ((b"near",), (4,))).data == b"near"


@pytest.mark.spec("MMIO-10")
def test_half_that_is_written_again_leaves_the_other_alone(make_rig: RigMaker) -> None:
    rig = make_rig(Gadget(), memory_around(0x4_0000_0000))
    rig.negotiate()
    for offset in (0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4):
        rig.driver.write(offset, 0xFFFF_FFF0)

    assert enable_by(rig, (0x80, 0x84, 0x94, 0x90, 0xA0, 0xA4))


# Configuration space and shared memory


@pytest.mark.spec("MMIO-29")
def test_wide_field_can_be_read_in_any_pieces(gadget: Rig) -> None:
    read = gadget.driver.transport.read
    whole = bytes.fromhex("0807060504030201")

    assert read(0x100, 8) == whole
    assert read(0x100, 4) + read(0x104, 4) == whole
    assert b"".join(read(0x100 + i, 2) for i in range(0, 8, 2)) == whole
    assert b"".join(read(0x100 + i, 1) for i in range(8)) == whole
    assert read(0x103, 4) == whole[3:7]


@pytest.mark.spec("MMIO-38", "MMIO-39")
@pytest.mark.parametrize("region", [0, 1, 5, 255, 256, 0xFFFF_FFFF])
def test_there_are_no_shared_memory_regions(
    device_case: DeviceCase, region: int, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())
    rig.start()

    rig.driver.write(0xAC, region)

    assert [rig.driver.read(offset) for offset in (0xB0, 0xB4, 0xB8, 0xBC)] == [0xFFFF_FFFF] * 4


@pytest.mark.spec("MMIO-32", "MMIO-39")
def test_windows_are_apart_outside_ram_and_large_enough(
    device_case: DeviceCase, make_rig: RigMaker
) -> None:
    windows = [virtio_mmio_window(index) for index in range(19)]
    starts = [address for address, _ in windows]
    ram = [range(start, start + size) for start, size in ram_regions(8 << 30)]

    assert all(after - before >= 0x1000 for before, after in pairwise(starts))
    assert not any(start in one or start + 0xFFF in one for start in starts for one in ram)
    assert len({irq for _, irq in windows}) == 19
    assert make_rig(device_case.make()).driver.transport.WINDOW_SIZE == 0x1000
    assert len(device_case.config) <= 0x1000 - 0x100


@pytest.mark.spec("MMIO-32")
def test_command_line_tells_each_window_and_interrupt() -> None:
    windows = [virtio_mmio_window(index) for index in range(2)]

    line = build_cmdline("console=ttyS0", windows, 2047)

    assert line == (
        b"console=ttyS0 virtio_mmio.device=4K@0xc0001000:5 virtio_mmio.device=4K@0xc0002000:6"
    )
