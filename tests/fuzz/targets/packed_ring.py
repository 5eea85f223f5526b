"""Fuzz the packed ring; see :mod:`tests.fuzz.targets.ring_script`."""

from tests.fuzz.targets import ring_script
from tests.fuzz.targets.ring_script import RAM, Run
from virtio.virtqueue.state import QueueLayout

USED = 0x8080


class PackedForm:
    """Positions modulo twice the size; what was used is shown by flags in the ring."""

    features = 1 << 34

    def size(self, byte: int) -> int:
        """Return the byte: any size is allowed."""
        return byte

    def laps(self, size: int) -> int:
        """Return the number of positions: two laps, one for each wrap counter."""
        return 2 * size

    def device_areas(self, layout: QueueLayout, features: int) -> list[tuple[int, int]]:
        """Return the ring and the device's event suppression."""
        return [(layout.descriptor_area, 16 * layout.size), (layout.device_area, 4)]

    def publish(self, run: Run, argument: int, value: int) -> None:
        """Make the entry available that is ``argument % 4`` past the last one taken.

        The lower bits of ``value`` are its other flags.
        """
        size = run.layout.size
        position = run.position + sum(one.slots for one in run.taken) + argument % 4
        flags = value & 0x7 | (0x80 if position % (2 * size) < size else 0x8000)
        RAM.memory.view(self._flags_address(run, position), 2)[:] = flags.to_bytes(2, "little")

    def assert_published(self, run: Run, first: int) -> None:
        """Assert that the first entry given back is marked as used in its lap."""
        flags = int.from_bytes(RAM.memory.view(self._flags_address(run, first), 2), "little")
        assert flags & USED == (USED if first < run.layout.size else 0), "not marked as used"

    def _flags_address(self, run: Run, position: int) -> int:
        return run.layout.descriptor_area + position % run.layout.size * 16 + 14


FORM = PackedForm()


def one_input(data: bytes) -> None:
    """Run one input."""
    ring_script.run(FORM, data)
