"""The steps in a device's life that its transport remembers."""

from transport import VirtioMmio
from transport.testing import RecordingLine
from virtio import Entropy
from virtio.testing import ManualLoop, flat_memory


def test_the_steps_of_a_device_are_remembered() -> None:
    with VirtioMmio(
        Entropy(), flat_memory((0, 1 << 20)), RecordingLine(), ManualLoop(), name="rng"
    ) as mmio:
        mmio.write(0x70, b"\x01\0\0\0")
        mmio.write(0x70, b"\x03\0\0\0")
        mmio.write(0x70, bytes(4))

        assert [what for _, what in mmio.report.events] == [
            "rng: status ACKNOWLEDGE",
            "rng: status ACKNOWLEDGE DRIVER",
            "rng: reset",
        ]
