"""The block device: what it offers, and its configuration space."""

import pytest

from tests.spec.blk import (
    BLK_SIZE,
    CONFIG_WCE,
    FLUSH,
    IOERR,
    LARGE,
    MQ,
    OK,
    RO,
    SECURE_ERASE,
    T_DISCARD,
    T_IN,
    T_WRITE_ZEROES,
    WRITE_ZEROES,
    BlockRig,
    header,
    pattern,
    patterned,
    ranges,
    read_only,
)
from tests.spec.rig import Form
from virtio.errors import ConfigurationError
from virtio.testing import Segment, flat_memory
from vmm.disk import raw as host_disk

PADDING = (0x21, 0x39, 0x3A, 0x3B)
SEG_MAX_WITH_QUEUE_256 = 254


@pytest.mark.spec("BLK-01")
@pytest.mark.parametrize("block_size", [512, 1024, 2048, 4096])
def test_the_capacity_is_in_units_of_512_bytes(block_size: int) -> None:
    with BlockRig(patterned(64), block_size=block_size) as rig:
        assert rig.field(0x00, 8) == 64


@pytest.mark.spec("BLK-02")
@pytest.mark.parametrize("make", [patterned, read_only])
def test_padding_is_0_also_after_it_was_written(make: type) -> None:
    with BlockRig(make(), queues=2) as rig:
        rig.write_field(0x21, 0xFF)
        rig.write_field(0x39, 0xFFFFFF, 4)

        assert [rig.field(offset, 1) for offset in PADDING] == [0, 0, 0, 0]


@pytest.mark.spec("BLK-16")
@pytest.mark.parametrize("make", [patterned, read_only])
def test_a_disk_offers_ro_exactly_when_it_is_read_only(make: type) -> None:
    with BlockRig(make()) as rig:
        assert bool(rig.driver.offered_features() & RO) == rig.disk.read_only


@pytest.mark.spec("BLK-18")
@pytest.mark.parametrize("make", [patterned, read_only])
def test_flush_is_offered(make: type) -> None:
    with BlockRig(make()) as rig:
        assert rig.driver.offered_features() & FLUSH


@pytest.mark.spec("BLK-18")
def test_config_wce_is_offered_together_with_flush() -> None:
    with BlockRig() as rig:
        offered = rig.driver.offered_features() & (CONFIG_WCE | FLUSH)

    assert offered == CONFIG_WCE | FLUSH


@pytest.mark.spec("BLK-22")
@pytest.mark.parametrize(
    ("features", "writeback"), [(CONFIG_WCE, 0), (CONFIG_WCE | FLUSH, 1)], ids=["alone", "flush"]
)
def test_writeback_starts_at_0_when_config_wce_comes_without_flush(
    features: int, writeback: int
) -> None:
    with BlockRig(features=features) as rig:
        assert rig.field(0x20, 1) == writeback


@pytest.mark.spec("BLK-22")
def test_writeback_starts_anew_after_a_reset() -> None:
    with BlockRig() as rig:
        rig.write_field(0x20, 0)
        rig.start(CONFIG_WCE | FLUSH)

        assert rig.field(0x20, 1) == 1


@pytest.mark.spec("BLK-23")
def test_with_config_wce_writeback_takes_0_and_1_only() -> None:
    with BlockRig() as rig:
        seen = []
        for value in (0, 2, 1, 0xFF, 0):
            rig.write_field(0x20, value)
            seen.append(rig.field(0x20, 1))

    assert seen == [0, 0, 1, 1, 0]


@pytest.mark.spec("BLK-23")
def test_without_config_wce_writeback_cannot_be_written() -> None:
    with BlockRig(features=FLUSH) as rig:
        before = rig.field(0x20, 1)
        rig.write_field(0x20, 1 - before)

        assert rig.field(0x20, 1) == before


@pytest.mark.spec("BLK-23")
@pytest.mark.parametrize("width", [1, 2, 4])
def test_no_other_field_can_be_written(width: int) -> None:
    with BlockRig(queues=2) as rig:
        before = [rig.field(offset, 1) for offset in range(0x60)]
        for offset in (*range(0, 0x20, width), *range(0x24, 0x60, width)):
            rig.write_field(offset, (1 << 8 * width) - 2, width)

        assert [rig.field(offset, 1) for offset in range(0x60)] == before


@pytest.mark.spec("BLK-23")
def test_a_wider_write_over_writeback_changes_writeback_alone() -> None:
    with BlockRig(queues=2) as rig:
        rig.write_field(0x20, 0x00FF_FF00, 4)

        assert rig.field(0x20, 4) == 0x0002_0000


@pytest.mark.spec("BLK-33")
def test_what_can_unmap_says_so() -> None:
    with BlockRig() as rig:
        assert rig.field(0x38, 1) == 1


@pytest.mark.spec("BLK-33")
def test_what_cannot_unmap_says_so() -> None:
    disk = patterned()
    disk.disk.can_unmap = False

    with BlockRig(disk) as rig:
        assert (rig.driver.offered_features() & WRITE_ZEROES, rig.field(0x38, 1)) == (1 << 14, 0)


@pytest.mark.spec("BLK-33")
def test_a_host_that_turns_out_unable_to_unmap_is_announced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_disk, "punch_hole", lambda *_: False)
    with BlockRig() as rig:
        generation = rig.driver.read(0xFC)

        answer = rig.ask(T_WRITE_ZEROES, 0, ranges((0, 8, 1)))

        assert (answer.status, rig.field(0x38, 1)) == (OK, 0)
        assert rig.driver.interrupt_status & 2
        assert rig.driver.read(0xFC) != generation


@pytest.mark.spec("BLK-34")
@pytest.mark.parametrize("make", [patterned, read_only])
def test_secure_erase_is_not_offered_and_its_fields_are_0(make: type) -> None:
    with BlockRig(make()) as rig:
        assert rig.driver.offered_features() & SECURE_ERASE == 0
        assert [rig.field(offset, 4) for offset in (0x3C, 0x40, 0x44)] == [0, 0, 0]


@pytest.mark.spec("BLK-36")
def test_the_number_of_queues_stands_in_the_configuration(form: Form) -> None:
    with BlockRig(form=form, queues=4) as rig:
        assert (rig.field(0x22, 2), rig.present_queues()) == (4, [0, 1, 2, 3])


@pytest.mark.spec("BLK-36")
def test_any_request_can_go_to_any_queue(form: Form) -> None:
    with BlockRig(form=form, queues=3, size=8) as rig:
        answers = [rig.ask(T_IN, index, room=512, queue=index) for index in (2, 0, 1)]

    assert [one.data for one in answers] == [pattern(2, 1), pattern(0, 1), pattern(1, 1)]


@pytest.mark.spec("BLK-36")
def test_a_long_request_holds_up_no_other_queue(form: Form) -> None:
    memory = flat_memory((0, 16 << 20))
    with BlockRig(patterned(LARGE // 512), form, queues=2, size=8, memory=memory) as rig:
        rig.start_large(T_IN)

        quick = rig.ask(T_IN, 3, room=512, queue=1)
        early = rig.ring.collect()

        assert (quick.data, early) == (pattern(3, 1), [])


@pytest.mark.spec("BLK-37")
@pytest.mark.parametrize("queues", [1, 4])
def test_without_multiqueue_there_is_one_queue(queues: int) -> None:
    with BlockRig(features=0, queues=queues) as rig:
        assert rig.present_queues() == [0]


@pytest.mark.spec("BLK-37")
def test_multiqueue_is_offered_only_with_several_queues() -> None:
    with BlockRig(queues=1) as one, BlockRig(queues=2) as two:
        assert one.driver.offered_features() & MQ == 0
        assert two.driver.offered_features() & MQ


@pytest.mark.spec("BLK-38")
def test_a_new_capacity_is_announced_with_a_new_generation() -> None:
    with BlockRig() as rig:
        generation = rig.driver.read(0xFC)

        rig.block.resize(32)

        assert (rig.field(0x00, 8), rig.driver.interrupt_status) == (32, 2)
        assert rig.driver.read(0xFC) != generation


@pytest.mark.spec("BLK-38")
def test_the_new_capacity_bounds_requests_at_once(form: Form) -> None:
    with BlockRig(form=form) as rig:
        rig.block.resize(32)
        answers = [rig.ask(T_IN, sector, room=512).status for sector in (31, 32)]

    assert answers == [OK, IOERR]


@pytest.mark.spec("BLK-38")
def test_a_transfer_that_is_under_way_beyond_a_shrink_fails(form: Form) -> None:
    memory = flat_memory((0, 16 << 20))
    with BlockRig(patterned(LARGE // 512), form, size=8, memory=memory) as rig:
        rig.start_large(T_IN)
        rig.block.resize(1)

        rig.finish()

        [used] = rig.ring.collect()
        assert (used.length, used.data[-1]) == (0, IOERR)


@pytest.mark.spec("BLK-40")
def test_a_request_of_seg_max_segments_fits_the_largest_queue(form: Form) -> None:
    with BlockRig(patterned(128), form) as rig:
        rig.driver.write(0x30, 0)
        seg_max, size_max = rig.field(0x0C, 4), rig.driver.read(0x34)

        answer = rig.ask_in_pieces([header(T_IN, 0)], [*[256] * SEG_MAX_WITH_QUEUE_256, 1])

        assert (1 <= seg_max <= size_max - 2, size_max) == (True, 256)
        assert (answer.status, answer.data) == (OK, pattern(0, 127))


@pytest.mark.spec("BLK-40")
def test_a_segment_too_many_is_served_or_fails(form: Form) -> None:
    with BlockRig(form=form, features=0, size=256) as rig:
        rig.start(1 << 28, form, size=256)
        data = [Segment(rig.place(bytes(128)), 128, True) for _ in range(256)]
        request = Segment(rig.place(header(T_IN)), 16, False)
        segments = [request, *data, Segment(rig.place(b"\xa5"), 1, True)]
        rig.ring.add_segments(segments, indirect=True)
        rig.driver.notify(0)

        rig.serve()

        [used] = rig.ring.collect()
        assert (used.length, used.data[-1]) in [(32769, OK), (0, IOERR)]
        assert rig.driver.status == 0x0F


@pytest.mark.spec("BLK-40")
def test_the_size_of_segments_has_no_limit() -> None:
    with BlockRig() as rig:
        assert rig.driver.offered_features() & 1 << 1 == 0


@pytest.mark.spec("BLK-41")
@pytest.mark.parametrize("block_size", [512, 1024, 2048, 4096])
def test_the_block_size_stands_in_the_configuration(block_size: int) -> None:
    with BlockRig(block_size=block_size) as rig:
        assert rig.driver.offered_features() & BLK_SIZE
        assert rig.field(0x14, 4) == block_size


@pytest.mark.spec("BLK-41")
@pytest.mark.parametrize(("sectors", "block_size"), [(9, 1024), (63, 4096)])
def test_a_block_size_that_does_not_divide_the_disk_is_refused(
    sectors: int, block_size: int
) -> None:
    with pytest.raises(ConfigurationError, match="no multiple"):
        BlockRig(patterned(sectors), block_size=block_size)


@pytest.mark.spec("BLK-41")
@pytest.mark.parametrize("block_size", [0, 256, 511, 1536, 3000])
def test_a_block_size_that_is_no_power_of_two_from_512_is_refused(block_size: int) -> None:
    with pytest.raises(ConfigurationError, match="block size"):
        BlockRig(block_size=block_size)


@pytest.mark.spec("BLK-41")
def test_requests_smaller_than_the_block_size_are_served() -> None:
    with BlockRig(block_size=4096) as rig:
        assert rig.ask(T_IN, 3, room=512).data == pattern(3, 1)


@pytest.mark.spec("BLK-43")
@pytest.mark.parametrize("bit", [15, 17])
def test_lifetime_and_zoned_are_not_offered(bit: int) -> None:
    with BlockRig() as rig:
        assert rig.driver.offered_features() >> bit & 1 == 0


@pytest.mark.spec("BLK-43")
def test_the_zoned_part_of_the_configuration_is_0() -> None:
    with BlockRig() as rig:
        assert [rig.field(offset, 1) for offset in range(0x48, 0x60)] == [0] * 24


@pytest.mark.spec("BLK-10")
def test_the_limits_of_ranges_are_offered_with_their_features() -> None:
    with BlockRig() as rig:
        limits = [rig.field(offset, 4) for offset in (0x24, 0x28, 0x30, 0x34)]

        assert min(limits) >= 1
        assert rig.ask(T_DISCARD, 0, ranges((0, 8, 0))).status == OK
