"""The kernel command line: where devices are announced, and what is refused."""

import pytest

from virtio.errors import ConfigurationError
from virtio.memory import FlatMemory
from vmm.x86.boot.cmdline import build_cmdline, write_cmdline
from vmm.x86.layout import VirtioMmioWindow

WINDOWS = [VirtioMmioWindow(0xC0001000, 5), VirtioMmioWindow(0xC0002000, 6)]
ITEMS = b"virtio_mmio.device=4K@0xc0001000:5 virtio_mmio.device=4K@0xc0002000:6"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ITEMS),
        ("quiet", b"quiet " + ITEMS),
        (" quiet  ro ", b"quiet  ro " + ITEMS),
        ("quiet -- a b", b"quiet " + ITEMS + b" -- a b"),
        ("-- a", ITEMS + b" -- a"),
        ("quiet --", b"quiet " + ITEMS + b" --"),
        ("a\t--\tb", b"a " + ITEMS + b" --\tb"),
        ("x=-- --y", b"x=-- --y " + ITEMS),
        ('dyndbg="a -- b" ro', b'dyndbg="a -- b" ro ' + ITEMS),
        ('x="a -- b" -- c', b'x="a -- b" ' + ITEMS + b" -- c"),
    ],
)
def test_devices_stand_before_the_arguments_of_init(text: str, line: bytes) -> None:
    assert build_cmdline(text, WINDOWS, 2047) == line


def test_line_without_devices_is_kept() -> None:
    assert build_cmdline("quiet -- x", [], 2047) == b"quiet -- x"


def test_longest_line_is_taken() -> None:
    assert build_cmdline("a" * 2047, [], 2047) == b"a" * 2047


def test_longer_line_is_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigurationError, match=r"has 2048 bytes with its 0 .* at most 2047"):
        build_cmdline("a" * 2048, [], 2047)


def test_devices_count_towards_the_length() -> None:
    with pytest.raises(ConfigurationError, match=r"has 2082 bytes with its 1 virtio_mmio.device"):
        build_cmdline("a" * 2047, WINDOWS[:1], 2047)


@pytest.mark.parametrize("character", ["\0", "\n", "\x1b", "\x7f", "é", "\ud800"])
def test_character_that_is_not_printable_ascii_is_refused(character: str) -> None:
    with pytest.raises(ConfigurationError, match="at position 3: must be a printable ASCII"):
        build_cmdline("ro " + character, [], 2047)


def test_open_quote_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="is not closed"):
        build_cmdline('x="a b', WINDOWS, 2047)


def test_line_is_written_with_its_nul() -> None:
    ram = bytearray(b"\xee") * 0x30000

    write_cmdline(FlatMemory([(0, ram)]), b"quiet")

    assert ram[0x1FFFF:0x20007] == b"\xeequiet\0\xee"
