"""Who a command in the guest runs as."""

from __future__ import annotations

import os
from typing import Final

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple

MAX_GROUPS: Final = 64


class User(NamedTuple):
    """A user of the guest, by numbers; ``groups`` are the supplementary ones."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    @classmethod
    def of_this_process(cls) -> User:
        """Return the user of this process, with its first 64 groups."""
        return cls(os.geteuid(), os.getegid(), tuple(os.getgroups()[:MAX_GROUPS]))

    def word(self) -> bytes:
        """Return the word that goes before a command.

        >>> User(1000, 100, (100, 27)).word()
        b'1000:100:100:27'
        """
        if len(self.groups) > MAX_GROUPS:
            raise ConfigurationError(f"{len(self.groups)} groups: must be at most {MAX_GROUPS}")
        for number in (self.uid, self.gid, *self.groups):
            if not 0 <= number < 0xFFFF_FFFF:
                raise ConfigurationError(f"user or group {number}: must be 0 to 4294967294")
        return ":".join(map(str, (self.uid, self.gid, *self.groups))).encode()
