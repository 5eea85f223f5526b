"""A window without a device is left alone by every driver, and then becomes the device's."""

from transport import MmioPlaceholder, VirtioMmio
from transport.testing import RecordingLine
from virtio import Entropy
from virtio.testing import ManualLoop, flat_memory


def test_a_placeholder_says_that_there_is_no_device() -> None:
    placeholder = MmioPlaceholder()
    placeholder.write(0x70, b"\x01\0\0\0")

    assert [placeholder.read(offset, 4) for offset in (0x00, 0x04, 0x08)] == [
        b"virt",
        b"\x02\0\0\0",
        bytes(4),
    ]
    assert placeholder.read(0x70, 4) == bytes(4)
    assert placeholder.read(0x00, 1) == b"\0"
    assert placeholder.read(0x100, 8) == bytes(8)


def test_a_device_takes_the_window_over() -> None:
    placeholder = MmioPlaceholder()
    with VirtioMmio(Entropy(), flat_memory((0, 1 << 20)), RecordingLine(), ManualLoop()) as mmio:
        placeholder.transport = mmio
        placeholder.write(0x70, b"\x01\0\0\0")

        assert placeholder.read(0x08, 4) == b"\x04\0\0\0"
        assert mmio.status == 1
