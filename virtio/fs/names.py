"""Operations on names: finding, making, removing and renaming what is in directories."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from virtio.fs.answers import Answers, decoded_device
from virtio.fs.filesystem import Caller, FileSystem
from virtio.fs.message import Message, invalid
from virtio.fs.work import NO_ANSWER, Answer

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4
MAX_TARGET_BYTES: Final = 4095
PERMISSIONS: Final = 0o7777


class Names:
    """LOOKUP and FORGET, and what makes, removes or renames entries."""

    def __init__(self, system: FileSystem, answers: Answers) -> None:
        self._system = system
        self._answers = answers

    def lookup(self, message: Message) -> Answer:
        """LOOKUP: an entry by its name."""
        [name] = message.names(0, 1)
        return self._answers.entry(self._system.lookup(message.node, name))

    def forget(self, message: Message) -> Answer:
        """FORGET: lookups of one node."""
        [count] = message.unpack(self._answers.layouts.forget_in)
        self._system.forget(message.node, count)
        return NO_ANSWER

    def batch_forget(self, message: Message) -> Answer:
        """BATCH_FORGET: lookups of several nodes."""
        layouts = self._answers.layouts
        count, _ = message.unpack(layouts.batch_forget_in)
        start, size = layouts.batch_forget_in.size, layouts.forget_one.size
        end = start + count * size
        if end > len(message.body):
            raise invalid(f"{count} nodes to forget in {len(message.body)} bytes")
        for node, lookups in layouts.forget_one.iter_unpack(message.body[start:end]):
            self._system.forget(node, lookups)
        return NO_ANSWER

    def readlink(self, message: Message) -> Answer:
        """READLINK: what a symbolic link says."""
        return self._system.readlink(message.node)

    def symlink(self, message: Message) -> Answer:
        """SYMLINK: a name, then what the link says."""
        name, target = message.strings(0, 2)
        [name] = message.names(0, 1)
        if not 1 <= len(target) <= MAX_TARGET_BYTES:
            raise OSError(errno.ENAMETOOLONG, f"a link of {len(target)} bytes")
        entry = self._system.symlink(message.node, name, target, caller(message))
        return self._answers.entry(entry)

    def mknod(self, message: Message) -> Answer:
        """MKNOD: a file, FIFO, socket or device."""
        layout = self._answers.layouts.mknod_in
        mode, device, umask, _ = message.unpack(layout)
        [name] = message.names(layout.size, 1)
        mode = stat.S_IFMT(mode) | mode & PERMISSIONS & ~umask
        number = decoded_device(device)
        entry = self._system.mknod(message.node, name, mode, number, caller(message))
        return self._answers.entry(entry)

    def mkdir(self, message: Message) -> Answer:
        """MKDIR: a directory."""
        layout = self._answers.layouts.mkdir_in
        mode, umask = message.unpack(layout)
        [name] = message.names(layout.size, 1)
        mode &= PERMISSIONS & ~umask
        return self._answers.entry(self._system.mkdir(message.node, name, mode, caller(message)))

    def unlink(self, message: Message) -> Answer:
        """UNLINK: the name of no directory."""
        [name] = message.names(0, 1)
        self._system.unlink(message.node, name)
        return b""

    def rmdir(self, message: Message) -> Answer:
        """RMDIR: the name of an empty directory."""
        [name] = message.names(0, 1)
        self._system.rmdir(message.node, name)
        return b""

    def rename(self, message: Message) -> Answer:
        """RENAME: a name, then a new one."""
        layout = self._answers.layouts.rename_in
        [new_parent] = message.unpack(layout)
        return self._rename(message, new_parent, 0, layout.size)

    def rename2(self, message: Message) -> Answer:
        """RENAME2: the same with flags."""
        layout = self._answers.layouts.rename2_in
        new_parent, flags, _ = message.unpack(layout)
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT):
            raise invalid(f"flags {flags:#x} of a rename")
        return self._rename(message, new_parent, flags, layout.size)

    def _rename(self, message: Message, new_parent: int, flags: int, start: int) -> Answer:
        name, new_name = message.names(start, 2)
        self._system.rename(message.node, name, new_parent, new_name, flags)
        return b""

    def link(self, message: Message) -> Answer:
        """LINK: another name of a node."""
        layout = self._answers.layouts.link_in
        [node] = message.unpack(layout)
        [name] = message.names(layout.size, 1)
        return self._answers.entry(self._system.link(node, message.node, name))

    def create(self, message: Message) -> Answer:
        """CREATE: a file that is made, unless it is there, and opened."""
        layout = self._answers.layouts.create_in
        flags, mode, umask, _ = message.unpack(layout)
        [name] = message.names(layout.size, 1)
        mode &= PERMISSIONS & ~umask
        flags |= os.O_CREAT
        entry, handle = self._system.create(message.node, name, flags, mode, caller(message))
        return self._answers.created(entry, handle)


def caller(message: Message) -> Caller:
    """Return who asks."""
    return Caller(message.uid, message.gid)
