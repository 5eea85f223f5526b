"""Guest memory over buffers of the host: what a failed access keeps of it."""

import pytest

from virtio.memory import FlatMemory, MemoryAccessError


def test_a_range_that_ends_outside_keeps_no_view_of_memory() -> None:
    buffer = bytearray(16)
    memory = FlatMemory([(0, buffer)])

    with pytest.raises(MemoryAccessError) as kept:
        memory.views(8, 16)
    memory.release()
    buffer.append(0)  # refused as long as there is a view of it

    assert kept.value.args
