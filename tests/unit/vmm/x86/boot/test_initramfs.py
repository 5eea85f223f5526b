"""Initial RAM disks of all forms that Linux takes reach guest memory plain."""

import bz2
import gzip
import lzma
import random
import struct
from collections.abc import Callable
from pathlib import Path

import lz4.block
import pytest
import zstandard

from virtio.errors import ConfigurationError
from virtio.memory import FlatMemory
from vmm.image import cpio
from vmm.x86.boot.initrd import load_initrd
from vmm.x86.boot.kernel import LoadedKernel

RAM = 16 << 20
KERNEL = LoadedKernel(0x100000, "linux64", 0x100000, 0x200000)
ROOM = (RAM - 0x200000) // 2


def archive(name: str, data: bytes) -> bytes:
    return cpio.archive([cpio.Member(name, 0o100644, data)])


def lz4_legacy(data: bytes) -> bytes:
    blocks = [data[at : at + (8 << 20)] for at in range(0, len(data), 8 << 20)]
    packed = [lz4.block.compress(block, store_size=False) for block in blocks]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(one)) + one for one in packed)


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "zstd": zstandard.ZstdCompressor().compress,
    "lz4": lz4_legacy,
}
EARLY = archive("kernel/x86/microcode/GenuineIntel.bin", b"microcode")
NOISE = random.Random(1).randbytes(70_001)
ROOT = archive("init", NOISE)
LAST = archive("extra", b"extra")


def loaded(initrd: bytes | Path) -> bytes:
    """Return what stands in guest memory."""
    ram = bytearray(RAM)
    address, size = load_initrd(initrd, FlatMemory([(0, ram)]), KERNEL)
    return bytes(ram[address : address + size])


def archives(data: bytes) -> list[bytes]:
    """Return the parts of an initrd, without zeros between them, as Linux finds them."""
    parts = data.split(b"TRAILER!!!\0")
    for part in parts[1:]:
        stripped = part.lstrip(b"\0")
        assert not stripped or (data.index(stripped) % 4) == 0
    return [part.lstrip(b"\0") for part in parts[:-1]]


@pytest.mark.parametrize("form", COMPRESS)
@pytest.mark.parametrize("where", ["file", "bytes"])
def test_compressed_initrd_is_unpacked(form: str, where: str, tmp_path: Path) -> None:
    packed = COMPRESS[form](ROOT)
    (tmp_path / "initrd").write_bytes(packed)

    assert loaded(packed if where == "bytes" else tmp_path / "initrd") == ROOT


@pytest.mark.parametrize("form", COMPRESS)
@pytest.mark.parametrize("zeros", [0, 3, 512])
def test_microcode_before_and_archives_behind_stay_in_order(form: str, zeros: int) -> None:
    packed = EARLY + bytes(zeros) + COMPRESS[form](ROOT + bytes(zeros))
    packed += bytes(zeros)
    packed += bytes(-len(packed) % 4) + LAST

    assert archives(loaded(packed)) == archives(EARLY + ROOT + LAST)
    assert loaded(packed).startswith(EARLY)


def test_parts_in_several_forms_are_all_unpacked() -> None:
    packed = b"".join(compress(ROOT) for form, compress in COMPRESS.items() if form != "lz4")

    assert loaded(packed + lz4_legacy(ROOT)) == ROOT * 6


def test_plain_initrd_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(EARLY + ROOT)

    assert loaded(tmp_path / "initrd") == EARLY + ROOT
    assert loaded(EARLY + bytes(3) + b"\0" + ROOT) == EARLY + bytes(4) + ROOT


def test_archives_with_checksums_are_plain_too() -> None:
    early = EARLY.replace(b"070701", b"070702")

    assert archives(loaded(early + gzip.compress(ROOT))) == archives(early + ROOT)


def test_what_is_no_archive_behind_an_unpacked_one_stays() -> None:
    assert loaded(gzip.compress(ROOT) + b"hsqs") == ROOT + b"hsqs"


def test_what_is_no_archive_is_the_guests(tmp_path: Path) -> None:
    assert loaded(b"hsqs" + NOISE) == b"hsqs" + NOISE
    assert loaded(bytes(1024) + b"an ext2 file system") == bytes(1024) + b"an ext2 file system"
    assert loaded(gzip.compress(b"an image")) == b"an image"


def test_initrd_that_unpacks_to_more_than_the_guest_can_hold_twice_stays_packed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fits = archive("init", bytes(ROOM - 1000))
    too_large = archive("init", bytes(ROOM))

    packed = gzip.compress(too_large)

    assert loaded(gzip.compress(fits)) == fits
    assert loaded(packed) == packed
    assert "unpacks to more than 7340032 bytes, half of the room" in caplog.text


@pytest.mark.parametrize("form", COMPRESS)
def test_little_that_unpacks_to_very_much_takes_little(form: str) -> None:
    bomb = COMPRESS[form](bytes(32 << 20))

    assert loaded(bomb) == bomb


@pytest.mark.parametrize("form", COMPRESS)
def test_truncated_initrd_is_refused_with_the_place(form: str) -> None:
    packed = COMPRESS[form](ROOT)[:-1000]

    with pytest.raises(
        ConfigurationError, match=f"initrd: its {form} data at byte {len(EARLY)} is truncated"
    ):
        loaded(EARLY + packed)


def test_truncated_archive_is_refused() -> None:
    trailer = ROOT.rindex(b"070701")
    for end in (trailer + 60, trailer + 4):
        with pytest.raises(ConfigurationError, match=f"archive is damaged at byte {trailer}"):
            loaded(ROOT[:end])
    for end in (trailer, trailer - 10_000):
        with pytest.raises(ConfigurationError, match="truncated: its cpio archive has no end"):
            loaded(ROOT[:end])


@pytest.mark.parametrize(
    "number", [b"-0000100", b"+0000001", b" 1234567", b"0x000001", b"1_000000"]
)
def test_sizes_are_eight_hexadecimal_digits(number: bytes) -> None:
    for offset in (54, 94):
        with pytest.raises(ConfigurationError, match="its cpio archive is damaged at byte 0"):
            loaded(ROOT[:offset] + number + ROOT[offset + 8 :])


def test_damaged_archive_is_refused_with_the_place() -> None:
    with pytest.raises(ConfigurationError, match="its cpio archive is damaged at byte 0"):
        loaded(b"070701" + b"nonsense" * 100)


def test_lz4_frames_are_refused_with_the_option_that_helps() -> None:
    with pytest.raises(ConfigurationError, match="does not unpack: use lz4 -l"):
        loaded(b"\x04\x22\x4d\x18" + bytes(100))


def test_initrd_beyond_what_any_ram_helps_is_told_so(tmp_path: Path) -> None:
    with (tmp_path / "initrd").open("wb") as file:
        file.truncate(5 << 30)

    with pytest.raises(ConfigurationError, match="this kernel takes 3219128320 at most, whatever"):
        loaded(tmp_path / "initrd")


def test_initrd_that_more_ram_would_hold_is_told_so(tmp_path: Path) -> None:
    with (tmp_path / "initrd").open("wb") as file:
        file.truncate(RAM)

    with pytest.raises(ConfigurationError, match="give the machine more RAM"):
        loaded(tmp_path / "initrd")
