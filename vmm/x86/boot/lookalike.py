"""Names the kind of a file that is no x86-64 kernel, for the message that refuses it.

Magic numbers are those of ``file(1)`` and of the formats' own specifications.
"""

from vmm.x86.boot.image_file import ImageFile

# Offset, bytes, what it is. The first that matches counts, so the narrow ones stand first.
_LOOKS: tuple[tuple[int, bytes, str], ...] = (
    (0x38, b"ARM\x64", "an Arm64 kernel Image"),
    (0x38, b"RSC\x05", "a RISC-V kernel Image"),
    (4, b"zimg", "an EFI zboot kernel of another architecture"),
    (0x24, b"\x18\x28\x6f\x01", "a 32-bit Arm zImage"),
    (0, b"MZ", "a PE (EFI or Windows) program; of a unified kernel image, give the kernel inside"),
    (0, b"\x1f\x8b", "a gzip stream; unpack it first"),
    (0, b"\xfd7zXZ\0", "an xz stream; unpack it first"),
    (0, b"BZh", "a bzip2 stream; unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd stream; unpack it first"),
    (0, b"\x02\x21\x4c\x18", "an lz4 stream; unpack it first"),
    (0, b"\x04\x22\x4d\x18", "an lz4 stream; unpack it first"),
    (0, b"\x89LZO", "an lzop stream; unpack it first"),
    (0, b"\x5d\0\0", "an lzma stream; unpack it first"),
    (0, b"#!", "a script"),
    (0, b"070701", "a cpio archive (an initramfs?)"),
    (0, b"070702", "a cpio archive (an initramfs?)"),
    (0, b"QFI\xfb", "a qcow2 disk image"),
    (0, b"hsqs", "a squashfs file system"),
    (0, b"!<arch>\n", "an ar archive (a Debian package?)"),
    (0, b"\xed\xab\xee\xdb", "an RPM package"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"ANDROID!", "an Android boot image"),
    (0, b"\x27\x05\x19\x56", "a U-Boot uImage"),
    (0, b"\xd0\x0d\xfe\xed", "a device tree or FIT image"),
    (0x101, b"ustar", "a tar archive"),
    (0x438, b"\x53\xef", "an ext4 file system"),
    (0x1FE, b"\x55\xaa", "a boot sector or disk image"),
)
_HEAD = 0x43A


def looks_like(image: ImageFile) -> str:
    """Say in a few words what the file seems to be."""
    head = image.read(0, _HEAD)
    for offset, magic, description in _LOOKS:
        if head.startswith(magic, offset):
            return description
    if all(byte in b"\t\n\r" or 0x20 <= byte < 0x7F for byte in head):
        return "a text file"
    return f"an unknown file that starts with bytes {head[:8].hex(' ')}"
