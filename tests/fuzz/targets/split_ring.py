"""Fuzz the split ring; see :mod:`tests.fuzz.targets.ring_script`."""

from tests.fuzz.targets import ring_script
from tests.fuzz.targets.ring_script import EVENT_IDX, RAM, Run
from virtio.virtqueue.state import QueueLayout


class SplitForm:
    """Free-running 16-bit indices; what was used is shown by ``used.idx``."""

    features = 0

    def size(self, byte: int) -> int:
        """Return a power of two for the lower half of all bytes, the byte itself for the rest."""
        return byte if byte >= 0x80 else 1 << byte % 8

    def laps(self, size: int) -> int:
        """Return the number of indices."""
        return 1 << 16

    def device_areas(self, layout: QueueLayout, features: int) -> list[tuple[int, int]]:
        """Return the used ring."""
        event = 2 if features & EVENT_IDX else 0
        return [(layout.device_area, 4 + 8 * layout.size + event)]

    def publish(self, run: Run, argument: int, value: int) -> None:
        """Move ``avail.idx`` to a little past what the device has used."""
        in_flight = sum(one.slots for one in run.taken)
        idx = (run.position + in_flight + argument % 4) & 0xFFFF
        RAM.memory.view(run.layout.driver_area + 2, 2)[:] = idx.to_bytes(2, "little")

    def assert_published(self, run: Run, first: int) -> None:
        """Assert ``used.idx``."""
        idx = RAM.memory.view(run.layout.device_area + 2, 2)
        assert int.from_bytes(idx, "little") == run.position, "used.idx is wrong"


FORM = SplitForm()


def one_input(data: bytes) -> None:
    """Run one input."""
    ring_script.run(FORM, data)
