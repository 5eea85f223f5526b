"""The configuration space: what it shows, what may be written, and how a change is noticed."""

from collections.abc import Callable

import pytest

from tests.spec.conftest import RigMaker
from tests.spec.devices import CASES, CHANGING, DeviceCase, Gadget
from tests.spec.rig import Rig
from tests.spec.threads import Crew, wait_until

EVERYWHERE = [0x00, 0x01, 0x03, 0x0B, 0x0F]


def inside(ranges: tuple[tuple[int, int], ...]) -> set[int]:
    """Return the offsets of the bytes in ranges of (offset, length)."""
    return {offset + i for offset, length in ranges for i in range(length)}


# Reading


@pytest.mark.spec("COM-25")
@pytest.mark.parametrize("status", EVERYWHERE)
def test_all_fields_of_offered_features_can_be_read_at_every_status(
    device_case: DeviceCase, status: int, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())
    rig.reach(status, device_case.offer)

    assert rig.config_image(len(device_case.config)) == device_case.config


@pytest.mark.spec("COM-26")
@pytest.mark.parametrize(
    ("offset", "width", "expected"),
    [
        (0x00, 1, "08"),
        (0x07, 1, "01"),
        (0x00, 2, "0807"),
        (0x00, 4, "08070605"),
        (0x04, 4, "04030201"),
        (0x00, 8, "0807060504030201"),
        (0x08, 4, "14131211"),
        (0x0B, 1, "11"),
        (0x0C, 2, "2221"),
        (0x10, 4, "67616467"),
    ],
)
def test_fields_are_little_endian(gadget: Rig, offset: int, width: int, expected: str) -> None:
    assert gadget.read_config(offset, width).hex() == expected


@pytest.mark.spec("COM-30", "MMIO-29")
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_reads_show_the_byte_image_at_any_offset_and_zeros_past_its_end(
    device_case: DeviceCase, width: int, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())
    image = device_case.config.ljust(0x100, b"\0")

    reads = [rig.read_config(offset, width) for offset in range(0xF8)]

    assert reads == [image[offset : offset + width] for offset in range(0xF8)]


@pytest.mark.spec("COM-30")
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_far_end_of_the_window_reads_zero(
    device_case: DeviceCase, width: int, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())

    assert rig.read_config(0xF00 - width, width) == bytes(width)


@pytest.mark.spec("COM-30")
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_writes_past_the_end_are_dropped(
    device_case: DeviceCase, width: int, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())
    rig.start(device_case.offer)
    end = len(device_case.config)

    for offset in (*range(end, end + 16), 0xF00 - width):
        rig.write_config(offset, b"\xff" * width)

    assert rig.config_image(end) == device_case.config
    assert rig.driver.status == 0x0F


@pytest.mark.spec("COM-30")
def test_write_that_straddles_the_end_takes_effect_inside(gadget: Rig) -> None:
    gadget.start(0x3)

    gadget.write_config(0x22, bytes.fromhex("abcdef01"))

    assert gadget.config_image(4, 0x22) == bytes.fromhex("abcd0000")
    assert gadget.driver.status == 0x0F


@pytest.mark.spec("COM-31")
@pytest.mark.parametrize(
    ("name", "ranges"),
    [
        ("entropy", ((0x00, 0xF00),)),
        ("block-read-only", ((0x08, 4), (0x10, 4), (0x20, 1), (0x22, 0x3E))),
        ("gadget-minimal", ((0x18, 4), (0x20, 2))),
    ],
)
def test_fields_of_features_that_are_not_offered_read_zero(
    name: str, ranges: tuple[tuple[int, int], ...], make_rig: RigMaker
) -> None:
    [case] = [case for case in CASES if case.name == name]
    rig = make_rig(case.make())

    shown = [rig.config_image(length, offset) for offset, length in ranges]

    assert shown == [bytes(length) for _, length in ranges]


# Writing


@pytest.mark.spec("COM-29")
@pytest.mark.parametrize("status", EVERYWHERE)
def test_writes_to_read_only_fields_are_dropped(
    device_case: DeviceCase, status: int, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())
    rig.reach(status, device_case.offer)
    size = len(device_case.config)
    fixed = sorted(set(range(size)) - inside(device_case.writable + device_case.early))

    for offset in fixed:
        rig.poke_config(offset, bytes([device_case.config[offset] ^ 0xFF]))

    assert rig.config_image(size) == device_case.config


@pytest.mark.spec("COM-29")
@pytest.mark.parametrize("status", [0x00, 0x01, 0x03])
def test_writes_before_features_ok_are_dropped(
    device_case: DeviceCase, status: int, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())
    rig.reach(status, device_case.offer)

    for offset, length in device_case.writable:
        rig.poke_config(offset, bytes(length))

    assert rig.config_image(len(device_case.config)) == device_case.config


@pytest.mark.spec("COM-29")
@pytest.mark.parametrize("status", [0x0B, 0x0F])
def test_writable_fields_take_writes_once_features_are_accepted(
    device_case: DeviceCase, status: int, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())
    rig.reach(status, device_case.offer)

    for offset, length in device_case.writable:
        rig.poke_config(offset, bytes(length))

    expected = bytearray(device_case.config)
    for offset in inside(device_case.writable):
        expected[offset] = 0
    assert rig.config_image(len(expected)) == expected


@pytest.mark.spec("COM-29")
def test_field_of_a_feature_that_was_not_accepted_takes_no_write(gadget: Rig) -> None:
    gadget.start()

    gadget.write_config(0x20, b"\x00\x00")

    assert gadget.read_config(0x20, 2) == b"\x72\x71"


@pytest.mark.spec("COM-29")
@pytest.mark.parametrize("status", EVERYWHERE)
def test_early_field_takes_writes_at_every_status(gadget: Rig, status: int) -> None:
    gadget.reach(status)

    gadget.write_config(0x22, b"\xab\xcd")

    assert gadget.read_config(0x22, 2) == b"\xab\xcd"


@pytest.mark.spec("MMIO-30")
@pytest.mark.parametrize(
    ("offset", "data", "expected"),
    [
        (0x1C, "aa", "aa636261 7271 0000"),
        (0x1E, "aa", "6463aa61 7271 0000"),
        (0x1D, "aabb", "64aabb61 7271 0000"),
        (0x1E, "aabbccdd", "6463aabb ccdd 0000"),
        (0x21, "aabb", "64636261 72aa bb00"),
        (0x1C, "aabbccddeeff0102", "aabbccdd eeff 0102"),
    ],
)
def test_partial_write_changes_its_bytes_and_no_neighbours(
    gadget: Rig, offset: int, data: str, expected: str
) -> None:
    gadget.start(0x3)
    before = gadget.config_image(0x1C)

    gadget.write_config(offset, bytes.fromhex(data))

    assert gadget.config_image(8, 0x1C) == bytes.fromhex(expected)
    assert gadget.config_image(0x1C) == before


@pytest.mark.spec("MMIO-30")
def test_write_over_read_only_and_writable_fields_reaches_the_writable_ones(gadget: Rig) -> None:
    gadget.start()

    gadget.write_config(0x0C, b"\xff\xff\xff\xee")

    assert gadget.read_config(0x0C, 4) == b"\x22\x21\x31\xee"


# Changes


@pytest.mark.spec("COM-28", "COM-27", "MMIO-31")
@pytest.mark.parametrize("case", CHANGING, ids=lambda case: case.name)
def test_change_by_a_live_device_is_signalled_with_a_new_generation(
    case: DeviceCase, make_rig: RigMaker
) -> None:
    assert case.change is not None
    device = case.make()
    rig = make_rig(device)
    rig.start()
    generation, before = rig.driver.read(0xFC), rig.config_image(len(case.config))

    case.change(device)

    assert rig.driver.interrupt_status == 2
    assert rig.line.edges == 1
    assert rig.driver.read(0xFC) != generation
    assert rig.config_image(len(case.config)) != before


@pytest.mark.spec("COM-27", "MMIO-31")
@pytest.mark.parametrize("status", [0x00, 0x03, 0x0B])
@pytest.mark.parametrize("case", CHANGING, ids=lambda case: case.name)
def test_change_before_driver_ok_has_a_new_generation(
    case: DeviceCase, status: int, make_rig: RigMaker
) -> None:
    assert case.change is not None
    device = case.make()
    rig = make_rig(device)
    rig.reach(status)
    generation = rig.driver.read(0xFC)
    rig.read_config(0, 4)

    case.change(device)

    assert rig.driver.read(0xFC) != generation


@pytest.mark.spec("COM-27", "MMIO-31")
def test_generation_that_wraps_is_still_a_new_one(gadget: Rig) -> None:
    device = gadget.device
    assert isinstance(device, Gadget)
    device.config_generation = 0xFFFF_FFFF

    device.counter = 5

    assert gadget.driver.read(0xFC) == 0


@pytest.mark.spec("COM-28")
def test_change_is_visible_when_its_interrupt_comes(gadget: Rig) -> None:
    device = gadget.device
    assert isinstance(device, Gadget)
    gadget.start()
    generation = gadget.driver.read(0xFC)
    gadget.read_config(0, 4)
    seen = []

    def look() -> None:
        with Crew() as crew:
            crew.run(lambda: seen.append((gadget.config_image(2), gadget.driver.read(0xFC))))

    gadget.line.raise_ = look  # type: ignore[method-assign]
    device.counter = 0x0102

    assert seen == [(b"\x02\x01", generation + 1)]


class PausingGadget(Gadget):
    """Calls ``meanwhile`` when its data has changed and its generation is about to."""

    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    @property
    def config_generation(self) -> int:
        return self._generation

    @config_generation.setter
    def config_generation(self, value: int) -> None:
        self.meanwhile()
        self._generation = value


@pytest.mark.spec("COM-27", "MMIO-31")
def test_no_generation_is_read_with_two_values(make_rig: RigMaker) -> None:
    device = PausingGadget()
    rig = make_rig(device)
    seen = set()

    def look() -> None:
        generation, value = rig.driver.read(0xFC), rig.read_config(0x00, 8)
        if rig.driver.read(0xFC) == generation:
            seen.add((generation, value))

    look()
    with Crew() as crew:
        device.meanwhile = lambda: crew.run(look).join(0.05)
        device.counter = 0
    look()

    assert len(seen) == 2
    assert len({generation for generation, _ in seen}) == 2


@pytest.mark.spec("COM-27")
def test_reads_of_a_wide_field_with_equal_generations_are_never_a_mix(
    gadget: Rig, rapid_switching: None
) -> None:
    device = gadget.device
    assert isinstance(device, Gadget)
    gadget.start()
    values = (0, 0xFFFF_FFFF_FFFF_FFFF)
    consistent = []

    def flip() -> None:
        device.counter = values[device.counter == 0]

    def look() -> None:
        before = gadget.driver.read(0xFC)
        low, high = gadget.driver.read(0x100), gadget.driver.read(0x104)
        if gadget.driver.read(0xFC) == before:
            consistent.append(low | high << 32)

    device.counter = 0
    with Crew() as crew:
        flips = crew.repeat(flip)
        looks = crew.repeat(look)
        wait_until(lambda: flips.done > 500 and looks.done > 500 and len(consistent) > 100)

    assert set(consistent) <= set(values)
    assert flips.done > 500


@pytest.mark.spec("COM-27")
def test_one_wide_read_is_never_a_mix(gadget: Rig, rapid_switching: None) -> None:
    device = gadget.device
    assert isinstance(device, Gadget)
    values = (0, 0xFFFF_FFFF_FFFF_FFFF)
    read = set()

    def flip() -> None:
        device.counter = values[device.counter == 0]

    def look() -> None:
        read.add(gadget.read_config(0x00, 8))

    device.counter = 0
    with Crew() as crew:
        flips = crew.repeat(flip)
        looks = crew.repeat(look)
        wait_until(lambda: flips.done > 500 and looks.done > 500 and len(read) > 1)

    assert read == {b"\x00" * 8, b"\xff" * 8}
