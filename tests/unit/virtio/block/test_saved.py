"""The saved state of a disk: it is taken by a disk like the one that was saved."""

from typing import Any

import pytest

from tests.unit.virtio.block.test_block import Medium
from virtio.block import Block
from virtio.errors import ConfigurationError

SECTORS = 64


def disk(sectors: int = SECTORS) -> Block:
    return Block(Medium(sectors=sectors))


def test_a_larger_disk_keeps_the_capacity_that_was_saved() -> None:
    saved, larger = disk(), disk(2 * SECTORS)

    larger.restore(saved.state())

    assert larger.capacity == SECTORS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"capacity": SECTORS + 1}, "capacity is 65 sectors, there are 64"),
        ({"capacity": -1}, "saved capacity = -1: a u64 is needed"),
        ({"blk_size": 0}, "blk_size is 0, must be 512"),
        ({"num_queues": 65535}, "num_queues is 65535, must be 1"),
        ({"max_discard_seg": 1 << 31}, "max_discard_seg is 2147483648, must be 16"),
        ({"writeback": 2}, "writeback and may_unmap must be 0 or 1"),
        ({"capacity": True}, "saved capacity is True, must be int"),
    ],
)
def test_another_disk_is_refused(changes: dict[str, Any], message: str) -> None:
    state = disk().state()

    with pytest.raises(ConfigurationError, match=message):
        disk().restore(state | {"config": state["config"] | changes})


def test_whether_a_sync_failed_is_no_number() -> None:
    with pytest.raises(ConfigurationError, match="sync_failed is 0, must be bool"):
        disk().restore(disk().state() | {"sync_failed": 0})
