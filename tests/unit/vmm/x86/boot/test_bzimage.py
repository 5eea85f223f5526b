"""bzImages: the setup header's checks, and the payload in each of its compressions.

Header offsets are typed from Linux x86 boot.rst; streams come from Python's own compressors, each
with the size behind it that the kernel's build appends.
"""

import bz2
import gzip
import lzma
import os
import struct
from collections.abc import Callable
from pathlib import Path

import lz4.block
import pytest
import zstandard

from virtio.errors import ConfigurationError
from virtio.memory import FlatMemory
from vmm.x86.boot.kernel import LoadedKernel, load_kernel

RAM = 8 << 20
CODE = bytes(range(256)) * 16 + os.urandom(0x2000)


def vmlinux(code: bytes = CODE) -> bytes:
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQI", 2, 62, 1, 0x100000, 64, 0, 0)
    header += struct.pack("<HHHHHH", 64, 56, 1, 0, 0, 0)
    size = len(code)
    load = struct.pack("<IIQQQQQQ", 1, 7, 120, 0x100000, 0x100000, size, size, 4096)
    return header + load + code


def sized(stream: bytes, data: bytes) -> bytes:
    return stream + struct.pack("<I", len(data))


def lz4_legacy(data: bytes) -> bytes:
    stream = b"\x02\x21\x4c\x18"
    for start in range(0, len(data), 8 << 20):
        block = lz4.block.compress(data[start : start + (8 << 20)], store_size=False)
        stream += struct.pack("<I", len(block)) + block
    return stream


def kernel_xz(data: bytes) -> bytes:
    """Compress as scripts/xz_wrap.sh does on x86."""
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "dict_size": 32 << 20}]
    return lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)


PAYLOADS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lambda data: sized(kernel_xz(data), data),
    "lzma": lambda data: sized(lzma.compress(data, lzma.FORMAT_ALONE), data),
    "bzip2": lambda data: sized(bz2.compress(data), data),
    "lz4": lambda data: sized(lz4_legacy(data), data),
    "zstd": lambda data: sized(zstandard.ZstdCompressor(level=19).compress(data), data),
}

every_compression = pytest.mark.parametrize("compression", sorted(PAYLOADS))


def bzimage(
    payload: bytes,
    *,
    setup_sectors: int = 4,
    version: int = 0x020F,
    loadflags: int = 0x01,
    xloadflags: int = 0x003F,
    payload_length: int | None = None,
    offset: int = 0x2C0,
) -> bytes:
    image = bytearray((setup_sectors + 1 if setup_sectors else 5) * 512)
    image[0:2] = b"MZ"
    image[0x1F1] = setup_sectors
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x200:0x202] = b"\xeb\x6a"
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, version)
    image[0x211] = loadflags
    struct.pack_into("<I", image, 0x22C, 0x7FFFFFFF)
    struct.pack_into("<H", image, 0x236, xloadflags)
    struct.pack_into("<I", image, 0x238, 2047)
    length = len(payload) if payload_length is None else payload_length
    struct.pack_into("<II", image, 0x248, offset, length)
    struct.pack_into("<Q", image, 0x258, 0x1000000)
    return bytes(image) + bytes(offset) + payload + bytes(64)


def load(directory: Path, image: bytes, ram: bytearray | None = None) -> LoadedKernel:
    (directory / "bzImage").write_bytes(image)
    memory = FlatMemory([(0, bytearray(RAM) if ram is None else ram)])
    return load_kernel(directory / "bzImage", memory)


def refusal(directory: Path, image: bytes) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(directory, image)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@every_compression
def test_payload_is_unpacked_and_loaded(tmp_path: Path, compression: str) -> None:
    ram = bytearray(RAM)

    loaded = load(tmp_path, bzimage(PAYLOADS[compression](vmlinux())), ram)

    assert ram[0x100000 : 0x100000 + len(CODE)] == CODE
    assert (loaded.entry, loaded.protocol) == (0x100000, "linux64")


@every_compression
def test_payload_larger_than_a_block_is_unpacked(tmp_path: Path, compression: str) -> None:
    code = os.urandom(1 << 20) + bytes(3 << 20) + os.urandom(1 << 20)
    ram = bytearray(RAM)

    load(tmp_path, bzimage(PAYLOADS[compression](vmlinux(code))), ram)

    assert ram[0x100000:0x600000] == code


def test_lz4_payload_of_two_blocks_is_unpacked(tmp_path: Path) -> None:
    code = bytes(8 << 20) + b"END!"
    ram = bytearray(16 << 20)

    load(tmp_path, bzimage(PAYLOADS["lz4"](vmlinux(code))), ram)

    assert ram[0x900000:0x900004] == b"END!"


def test_setup_header_is_kept_from_0x1f1_to_its_end(tmp_path: Path) -> None:
    image = bzimage(PAYLOADS["gzip"](vmlinux()))

    loaded = load(tmp_path, image)

    assert loaded.setup_header == image[0x1F1:0x26C]
    assert (loaded.cmdline_max, loaded.initrd_addr_max) == (2047, 0x7FFFFFFF)


def test_longest_possible_header_stays_inside_its_field(tmp_path: Path) -> None:
    image = bytearray(bzimage(PAYLOADS["gzip"](vmlinux())))
    image[0x201] = 0xFF

    loaded = load(tmp_path, bytes(image))

    assert loaded.setup_header == bytes(image[0x1F1:0x290])


def test_hostile_cmdline_size_is_bounded_by_the_layout(tmp_path: Path) -> None:
    image = bytearray(bzimage(PAYLOADS["gzip"](vmlinux())))
    image[0x238:0x23C] = b"\xff\xff\xff\xff"

    assert load(tmp_path, bytes(image)).cmdline_max == 65535


def test_setup_sects_of_zero_means_four(tmp_path: Path) -> None:
    image = bzimage(PAYLOADS["gzip"](vmlinux()), setup_sectors=0)

    assert load(tmp_path, image).entry == 0x100000


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"version": 0x020B}, "has boot protocol 2.11, 2.12 or newer is needed"),
        ({"version": 0x0203}, "has boot protocol 2.03, 2.12 or newer is needed"),
        ({"xloadflags": 0x3E}, "is a 32-bit kernel"),
        ({"loadflags": 0x80}, "is a zImage (LOADED_HIGH clear)"),
        ({"payload_length": 0xFFFFFFFF}, "truncated: its compressed kernel ends at byte"),
        ({"payload_length": 7}, "its payload has only 7 bytes"),
    ],
)
def test_unusable_header_is_refused_with_its_reason(
    tmp_path: Path, fields: dict[str, int], reason: str
) -> None:
    image = bzimage(PAYLOADS["gzip"](vmlinux()), **fields)

    assert reason in refusal(tmp_path, image)


def test_file_that_ends_inside_the_setup_header_is_refused(tmp_path: Path) -> None:
    image = bzimage(PAYLOADS["gzip"](vmlinux()))[:0x250]

    assert "truncated: its setup header" in refusal(tmp_path, image)


@every_compression
def test_file_cut_short_is_refused_as_truncated(tmp_path: Path, compression: str) -> None:
    image = bzimage(PAYLOADS[compression](vmlinux()))

    assert "truncated: its compressed kernel" in refusal(tmp_path, image[: len(image) // 2])


@every_compression
def test_stream_cut_short_is_refused(tmp_path: Path, compression: str) -> None:
    stream = PAYLOADS[compression](vmlinux())
    cut = sized(stream[: len(stream) // 2], vmlinux())

    assert f"its {compression} payload is truncated or damaged" in refusal(tmp_path, bzimage(cut))


@every_compression
def test_damaged_stream_is_refused(tmp_path: Path, compression: str) -> None:
    stream = bytearray(PAYLOADS[compression](vmlinux(bytes(0x8000))))
    stream[8:-4] = b"\xff" * (len(stream) - 12)

    assert "truncated or damaged" in refusal(tmp_path, bzimage(bytes(stream)))


@every_compression
def test_stream_that_unpacks_to_more_than_declared_is_stopped(
    tmp_path: Path, compression: str
) -> None:
    bomb = PAYLOADS[compression](bytes(8 << 20))
    payload = bomb[:-4] + struct.pack("<I", 4096)

    message = refusal(tmp_path, bzimage(payload))

    assert "unpacks to more than the 4096 bytes that it declares" in message


@every_compression
def test_stream_that_unpacks_to_less_than_declared_is_refused(
    tmp_path: Path, compression: str
) -> None:
    payload = PAYLOADS[compression](vmlinux())[:-4] + struct.pack("<I", 1 << 20)

    assert "truncated or damaged" in refusal(tmp_path, bzimage(payload))


@pytest.mark.parametrize("size", [0, (512 << 20) + 1, 0xFFFFFFFF])
def test_declared_size_out_of_bounds_is_refused(tmp_path: Path, size: int) -> None:
    payload = PAYLOADS["xz"](vmlinux())[:-4] + struct.pack("<I", size)

    assert f"declares {size} bytes unpacked" in refusal(tmp_path, bzimage(payload))


@pytest.mark.parametrize("block_size", [0, 0x7FFFFFFF])
def test_lz4_block_size_out_of_bounds_is_refused(tmp_path: Path, block_size: int) -> None:
    stream = b"\x02\x21\x4c\x18" + struct.pack("<I", block_size) + bytes(16)

    assert "it unpacks to 0 bytes and declares 1" in refusal(tmp_path, bzimage(sized(stream, b"x")))


def test_zstd_window_over_128_mib_is_refused(tmp_path: Path) -> None:
    # Frame header without content size, window 1 << 28, then one empty last block.
    stream = b"\x28\xb5\x2f\xfd" + b"\x00" + b"\x90" + b"\x01\x00\x00"

    assert "too much memory" in refusal(tmp_path, bzimage(sized(stream, b"x")))


def test_unknown_compression_is_refused_with_its_first_bytes(tmp_path: Path) -> None:
    message = refusal(tmp_path, bzimage(b"\x89LZO\0\r\n\x1a\n" + bytes(32)))

    assert "starts with bytes 89 4c 5a 4f 00 0d 0a 1a" in message


def test_payload_that_is_no_elf_file_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, bzimage(PAYLOADS["zstd"](b"x" * 4096)))

    assert "bzImage (unpacked): is not an ELF file" in message


@pytest.mark.usefixtures("nothing_to_collect")
def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))

    refusal(tmp_path, bzimage(PAYLOADS["zstd"](b"x" * 4096)))
    load(tmp_path, bzimage(PAYLOADS["zstd"](vmlinux())))

    assert sorted(os.listdir("/proc/self/fd")) == before
