"""The headers of qcow2 images, and which files an image consists of: QEMU's ``qcow2.txt``.

The data is read and written by QEMU itself (``qemu_nbd.py``). Here is only what decides which files
of the host it opens, and as what: QEMU is told all of them by name and format, and guesses nothing.

A file is a qcow2 image when both its name ends so and its first bytes say so, or when the user says
so. A raw disk belongs to its guest, first bytes included: could these alone make it a qcow2 image,
a guest that wrote a header there would have files of the host, named as backing files, as its disk
at the next start (QEMU's CVE-2008-2004). Where name and bytes differ, the user has to say.
"""

from __future__ import annotations

import os
import stat
import struct
from contextlib import ExitStack, suppress
from typing import Final, Literal

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple
from virtio.saved import shown

DiskFormat = Literal["raw", "qcow2"]

MAGIC: Final = b"QFI\xfb"
SUFFIX: Final = ".qcow2"
_HEADER: Final = struct.Struct(">4sIQIIQI")
"""magic, version, backing_file_offset, backing_file_size, cluster_bits, size, crypt_method."""
_HEADER_BYTES: Final = 1 << 16
_VERSION_2_BYTES: Final = 72
_EXTERNAL_DATA: Final = 1 << 2
_CORRUPT: Final = 1 << 1
_BACKING_FORMAT: Final = 0xE2792ACA
_MOST_NAME_BYTES: Final = 1023
_MOST_LAYERS: Final = 64


class Header(NamedTuple):
    """Of an image, what matters here; ``backing_format`` is empty where it is not recorded."""

    size_bytes: int
    backing: str
    backing_format: str


class Layer(NamedTuple):
    """A file of an image: the one on top, then the one below it; ``fd`` is open for reading."""

    path: str
    format: DiskFormat
    fd: int


def has_magic(path: str) -> bool:
    """Whether a file begins as a qcow2 image does; False for one that cannot be read."""
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return _has_magic(fd)
        finally:
            os.close(fd)
    return False


def _has_magic(fd: int) -> bool:
    kind = os.fstat(fd).st_mode
    return (stat.S_ISREG(kind) or stat.S_ISBLK(kind)) and os.pread(fd, 4, 0) == MAGIC


def found_format(path: str) -> DiskFormat:
    """Return the format of an image of which the user does not say it.

    Raises :class:`ConfigurationError` when its name says one thing, and its first bytes another.
    """
    named, magic = path.endswith(SUFFIX), has_magic(path)
    if magic and not named:
        raise ConfigurationError(
            f"disk {path}: begins as a qcow2 image, which a guest may have written there: add"
            " ',format=raw' for a raw disk, or ',format=qcow2' if you know that it is none"
        )
    if named and not magic and os.path.exists(path):
        raise ConfigurationError(
            f"disk {path}: is named as a qcow2 image, and begins as none: add ',format=raw' for a"
            " raw disk"
        )
    return "qcow2" if magic else "raw"


def size_of(path: str) -> int:
    """Return the size of the disk in an image. Raises :class:`ConfigurationError`."""
    with ExitStack() as files:
        return read_header(_layer(path, path, "qcow2", files).fd, path).size_bytes


def open_layers(path: str, backing_folder: str, files: ExitStack) -> list[Layer]:
    """Open the files of an image for reading, from the top to the bottom; ``files`` closes them.

    Those below the top are in its folder, or in ``backing_folder``, or below these. Raises
    :class:`ConfigurationError` for an image that cannot be used, or has files elsewhere.
    """
    layers = [_layer(path, path, "qcow2", files)]
    folders = [os.path.dirname(os.path.realpath(path))]
    if backing_folder:
        folders.append(os.path.realpath(backing_folder))
    while layers[-1].format == "qcow2":
        top = layers[-1]
        header = read_header(top.fd, top.path)
        if not header.backing:
            break
        below = _place_of_backing(path, top.path, header.backing, folders)
        found = _layer(path, below, _backing_format(top.path, header, below), files)
        for one in layers:
            if os.path.samestat(os.fstat(one.fd), os.fstat(found.fd)):
                raise ConfigurationError(
                    f"disk {path}: its backing files are a loop: {below} is below itself"
                )
        layers.append(found)
        if len(layers) > _MOST_LAYERS:
            raise ConfigurationError(f"disk {path}: more than {_MOST_LAYERS} backing files")
    return layers


def read_header(fd: int, path: str) -> Header:
    """Read the header of an image.

    Raises :class:`ConfigurationError` for one that cannot be used.
    """
    data = os.pread(fd, _HEADER_BYTES, 0)
    if len(data) < _VERSION_2_BYTES or data[:4] != MAGIC:
        raise ConfigurationError(f"disk {path}: is no qcow2 image")
    _, version, offset, length, _, size_bytes, encrypted = _HEADER.unpack_from(data)
    if version not in (2, 3):
        raise ConfigurationError(f"disk {path}: qcow2 of version {version}: must be 2 or 3")
    extensions = _VERSION_2_BYTES
    if version == 3 and len(data) >= 104:
        incompatible = int.from_bytes(data[72:80], "big")
        if incompatible & _EXTERNAL_DATA:
            raise ConfigurationError(f"disk {path}: has its data in another file: not possible")
        if incompatible & _CORRUPT:
            raise ConfigurationError(f"disk {path}: is damaged: see qemu-img check")
        extensions = int.from_bytes(data[100:104], "big")
    if encrypted:
        raise ConfigurationError(f"disk {path}: is encrypted: not possible")
    if not offset:
        return Header(size_bytes, "", "")
    if not 0 < length <= _MOST_NAME_BYTES or offset + length > len(data):
        raise ConfigurationError(f"disk {path}: the name of its backing file is damaged")
    name = os.fsdecode(data[offset : offset + length])
    return Header(size_bytes, name, _extension(data, extensions, _BACKING_FORMAT))


def _extension(data: bytes, place: int, wanted: int) -> str:
    while place + 8 <= len(data):
        kind = int.from_bytes(data[place : place + 4], "big")
        length = int.from_bytes(data[place + 4 : place + 8], "big")
        if not kind:
            break
        if kind == wanted:
            return data[place + 8 : place + 8 + length].decode("ascii", "replace")
        place += 8 + -(-length // 8) * 8
    return ""


def _place_of_backing(path: str, above: str, name: str, folders: list[str]) -> str:
    """Return the path of a backing file, which is in one of the folders, or below."""
    told = shown(name, 200)
    if ":" in name.partition("/")[0] or "\0" in name:
        raise ConfigurationError(f"disk {path}: its backing file {told} is no file: not possible")
    place = os.path.realpath(os.path.join(os.path.dirname(os.path.realpath(above)), name))
    if not any(os.path.commonpath((folder, place)) == folder for folder in folders):
        raise ConfigurationError(
            f"disk {path}: its backing file {told} is outside of its folder; add ',backing=FOLDER'"
            " with one that it may be in"
        )
    return place


def _backing_format(above: str, header: Header, below: str) -> DiskFormat:
    recorded = header.backing_format
    if recorded in ("raw", "qcow2"):
        return "raw" if recorded == "raw" else "qcow2"
    if recorded:
        raise ConfigurationError(
            f"disk {above}: its backing file is of format {shown(recorded)}: must be raw or qcow2"
        )
    if has_magic(below):
        raise ConfigurationError(
            f"disk {above}: does not say what format its backing file has: qemu-img rebase -u -F"
            f" qcow2 -b {below} {above}, or -F raw, says it"
        )
    return "raw"


def _layer(path: str, place: str, kind: DiskFormat, files: ExitStack) -> Layer:
    what = f"disk {path}" if place == path else f"disk {path}: its backing file {place}"
    try:
        fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigurationError(f"{what}: {error.strerror}") from None
    files.callback(os.close, fd)
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise ConfigurationError(f"{what}: a regular file or a block device is needed")
    if kind == "qcow2" and not _has_magic(fd):
        raise ConfigurationError(f"{what}: is no qcow2 image")
    return Layer(os.path.abspath(place), kind, fd)
