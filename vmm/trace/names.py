"""Names for the numbers of a trace: features, requests and queues of the devices we know."""

from __future__ import annotations

from struct import Struct
from typing import Final

from virtio import features as ring_features
from virtio.device.configuration import Feature, Field
from virtio.device.lifecycle import VirtioDevice

NET, BLOCK, CONSOLE, FS = 1, 2, 3, 26

_SHARED: Final = {
    number: name.removeprefix("VIRTIO_").replace("RING_F_", "").removeprefix("F_")
    for name, number in vars(ring_features).items()
    if name.startswith(("VIRTIO_F_", "VIRTIO_RING_F_"))
}
_BLOCK_REQUESTS: Final = {
    0: "read",
    1: "write",
    4: "flush",
    8: "get-id",
    11: "discard",
    13: "write-zeroes",
    14: "secure-erase",
}
_BLOCK_HEADER: Final = Struct("<IIQ")
_FUSE_HEADER: Final = Struct("<II")  # struct fuse_in_header: len, opcode
_FUSE_NAMES: Final = """
    lookup forget getattr setattr readlink symlink 7 mknod mkdir unlink rmdir rename link open read
    write statfs release 19 fsync setxattr getxattr listxattr removexattr flush init opendir readdir
    releasedir fsyncdir getlk setlk setlkw access create interrupt bmap destroy ioctl poll
    notify-reply batch-forget fallocate readdirplus rename2 lseek copy-file-range setupmapping
    removemapping syncfs tmpfile statx
"""
_FUSE_REQUESTS: Final = dict(enumerate(_FUSE_NAMES.split(), 1))
"""Linux ``linux/fuse.h`` "enum fuse_opcode"."""

REQUESTS: Final = (*_BLOCK_REQUESTS.values(), *_FUSE_REQUESTS.values(), "send")
"""What requests ask for, by name."""


def feature_names(device: VirtioDevice, features: int) -> str:
    """Return the names of the bits of a set, and the numbers of those that have none.

    >>> from virtio import Entropy
    >>> feature_names(Entropy(), 1 << 32 | 1 << 29 | 1 << 3)
    '3 EVENT_IDX VERSION_1'
    """
    own = {
        one.bit: name.removeprefix("VIRTIO_").split("_F_")[-1]
        for kind in type(device).__mro__
        for name, one in vars(kind).items()
        if isinstance(one, Feature)
    }
    bits = (bit for bit in range(128) if features >> bit & 1)
    return " ".join(own.get(bit) or _SHARED.get(bit) or str(bit) for bit in bits)


def field_name(device: VirtioDevice, offset: int) -> str:
    """Return the name of the configuration field at an offset; the offset where there is none."""
    for kind in type(device).__mro__:
        for name, one in vars(kind).items():
            if isinstance(one, Field) and one.offset <= offset < one.end:
                return f"config.{name}"
    return f"config+{offset:#x}"


def request_of(
    device_id: int, queue: int, head: bytes, readable: int, writable: int
) -> tuple[str, str]:
    """Return what a chain asks for, a word and a few more, or empty ones.

    >>> request_of(2, 0, bytes([1, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]), 528, 1)
    ('write', '1 sector at 8')
    """
    if device_id == BLOCK and len(head) == _BLOCK_HEADER.size:
        kind, _, sector = _BLOCK_HEADER.unpack(head)
        word = _BLOCK_REQUESTS.get(kind, f"type-{kind}")
        data = writable - 1 if kind == 0 else readable - _BLOCK_HEADER.size
        sectors = f"{data // 512} sector{'s' if data // 512 != 1 else ''}"
        return word, f"{sectors} at {sector}" if kind in (0, 1) else ""
    if device_id == FS and len(head) >= _FUSE_HEADER.size:
        code = _FUSE_HEADER.unpack_from(head)[1]
        return _FUSE_REQUESTS.get(code, f"type-{code}"), ""
    if device_id == NET and queue % 2:
        return "send", ""
    return "", ""
