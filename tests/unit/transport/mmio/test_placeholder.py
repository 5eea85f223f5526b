"""A window without a device is left alone by every driver."""

from transport import MmioPlaceholder


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
