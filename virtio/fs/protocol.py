"""The FUSE protocol, as a file system in user space answers it. Linux include/uapi/linux/fuse.h.

Numbers keep their published names. The layouts are those of one byte order; the driver's INIT tells
which one a session has. VIRTIO 1.4 "File System Device / Device Operation".
"""

from __future__ import annotations

from struct import Struct
from typing import Final, Literal

FUSE_KERNEL_VERSION: Final = 7
FUSE_KERNEL_MINOR_VERSION: Final = 37
FUSE_ROOT_ID: Final = 1

FUSE_LOOKUP: Final = 1
FUSE_FORGET: Final = 2
FUSE_GETATTR: Final = 3
FUSE_SETATTR: Final = 4
FUSE_READLINK: Final = 5
FUSE_SYMLINK: Final = 6
FUSE_MKNOD: Final = 8
FUSE_MKDIR: Final = 9
FUSE_UNLINK: Final = 10
FUSE_RMDIR: Final = 11
FUSE_RENAME: Final = 12
FUSE_LINK: Final = 13
FUSE_OPEN: Final = 14
FUSE_READ: Final = 15
FUSE_WRITE: Final = 16
FUSE_STATFS: Final = 17
FUSE_RELEASE: Final = 18
FUSE_FSYNC: Final = 20
FUSE_SETXATTR: Final = 21
FUSE_GETXATTR: Final = 22
FUSE_LISTXATTR: Final = 23
FUSE_REMOVEXATTR: Final = 24
FUSE_FLUSH: Final = 25
FUSE_INIT: Final = 26
FUSE_OPENDIR: Final = 27
FUSE_READDIR: Final = 28
FUSE_RELEASEDIR: Final = 29
FUSE_FSYNCDIR: Final = 30
FUSE_GETLK: Final = 31
FUSE_SETLK: Final = 32
FUSE_SETLKW: Final = 33
FUSE_ACCESS: Final = 34
FUSE_CREATE: Final = 35
FUSE_INTERRUPT: Final = 36
FUSE_DESTROY: Final = 38
FUSE_BATCH_FORGET: Final = 42
FUSE_FALLOCATE: Final = 43
FUSE_READDIRPLUS: Final = 44
FUSE_RENAME2: Final = 45
FUSE_LSEEK: Final = 46
FUSE_COPY_FILE_RANGE: Final = 47
FUSE_SYNCFS: Final = 50
FUSE_INIT_BSWAP_RESERVED: Final = 436207616
"""What FUSE_INIT looks like when driver and device differ in byte order."""

# Flags of INIT
FUSE_ASYNC_READ: Final = 1 << 0
FUSE_POSIX_LOCKS: Final = 1 << 1
FUSE_ATOMIC_O_TRUNC: Final = 1 << 3
FUSE_BIG_WRITES: Final = 1 << 5
FUSE_DONT_MASK: Final = 1 << 6
FUSE_FLOCK_LOCKS: Final = 1 << 10
FUSE_AUTO_INVAL_DATA: Final = 1 << 12
FUSE_DO_READDIRPLUS: Final = 1 << 13
FUSE_READDIRPLUS_AUTO: Final = 1 << 14
FUSE_ASYNC_DIO: Final = 1 << 15
FUSE_PARALLEL_DIROPS: Final = 1 << 18
FUSE_MAX_PAGES: Final = 1 << 22
FUSE_CACHE_SYMLINKS: Final = 1 << 23
FUSE_HANDLE_KILLPRIV_V2: Final = 1 << 28

FUSE_GETATTR_FH: Final = 1 << 0
FUSE_LK_FLOCK: Final = 1 << 0
FUSE_WRITE_CACHE: Final = 1 << 0
FUSE_WRITE_KILL_SUIDGID: Final = 1 << 2
FUSE_FSYNC_FDATASYNC: Final = 1 << 0
FUSE_OPEN_KILL_SUIDGID: Final = 1 << 0
FUSE_RELEASE_FLOCK_UNLOCK: Final = 1 << 1

FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3
FATTR_ATIME: Final = 1 << 4
FATTR_MTIME: Final = 1 << 5
FATTR_FH: Final = 1 << 6
FATTR_ATIME_NOW: Final = 1 << 7
FATTR_MTIME_NOW: Final = 1 << 8
FATTR_KILL_SUIDGID: Final = 1 << 11

FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_CACHE_DIR: Final = 1 << 3

IN_HEADER_BYTES: Final = 40
OUT_HEADER_BYTES: Final = 16

_ATTR: Final = "QQQQQQIIIIIIIIII"
_ENTRY: Final = "QQQQII" + _ATTR
_LOCK: Final = "QQII"

ByteOrder = Literal["<", ">"]


class Layouts:
    """The structures of the protocol in one byte order, without the names behind some of them.

    Each has the name of its C structure: ``init_in`` is ``struct fuse_init_in``. ``init_in`` is the
    part of it that every driver sends, since 7.6.
    """

    def __init__(self, order: ByteOrder) -> None:
        self.order: ByteOrder = order
        self.in_header = Struct(order + "IIQQIIIHH")
        self.out_header = Struct(order + "IiQ")
        self.init_in = Struct(order + "IIII")
        self.init_out = Struct(order + "IIIIHHIIHHI28x")
        self.attr = Struct(order + _ATTR)
        self.entry_out = Struct(order + _ENTRY)
        self.attr_out = Struct(order + "QII" + _ATTR)
        self.forget_in = Struct(order + "Q")
        self.batch_forget_in = Struct(order + "II")
        self.forget_one = Struct(order + "QQ")
        self.getattr_in = Struct(order + "IIQ")
        self.setattr_in = Struct(order + "IIQQQQQQIIIIIIII")
        self.mknod_in = Struct(order + "IIII")
        self.mkdir_in = Struct(order + "II")
        self.rename_in = Struct(order + "Q")
        self.rename2_in = Struct(order + "QII")
        self.link_in = Struct(order + "Q")
        self.open_in = Struct(order + "II")
        self.create_in = Struct(order + "IIII")
        self.open_out = Struct(order + "QII")
        self.create_out = Struct(order + _ENTRY + "QII")
        self.release_in = Struct(order + "QIIQ")
        self.flush_in = Struct(order + "QIIQ")
        self.read_in = Struct(order + "QQIIQII")
        self.write_in = Struct(order + "QQIIQII")
        self.write_out = Struct(order + "II")
        self.statfs_out = Struct(order + "QQQQQIIII24x")
        self.fsync_in = Struct(order + "QII")
        self.setxattr_in = Struct(order + "II")
        """FUSE_COMPAT_SETXATTR_IN_SIZE: what is sent without FUSE_SETXATTR_EXT."""
        self.getxattr_in = Struct(order + "II")
        self.getxattr_out = Struct(order + "II")
        self.lk_in = Struct(order + "QQ" + _LOCK + "II")
        self.lk_out = Struct(order + _LOCK)
        self.access_in = Struct(order + "II")
        self.interrupt_in = Struct(order + "Q")
        self.fallocate_in = Struct(order + "QQQII")
        self.lseek_in = Struct(order + "QQII")
        self.lseek_out = Struct(order + "Q")
        self.copy_file_range_in = Struct(order + "QQQQQQQ")
        self.dirent = Struct(order + "QQII")
        self.direntplus = Struct(order + _ENTRY + "QQII")


LITTLE: Final = Layouts("<")
BIG: Final = Layouts(">")


def padded(record: bytes) -> bytes:
    """Return a record of a directory as long as the next one needs: FUSE_REC_ALIGN.

    >>> len(padded(bytes(27)))
    32
    """
    return record + bytes(-len(record) % 8)
