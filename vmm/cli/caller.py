"""What of the caller a command gets in a guest whose root is a directory of the host.

Such a guest has the caller's programs and files: so the command runs as the caller, where the
caller is, and finds its home.
"""

from __future__ import annotations

import os
from typing import Any, Final

from virtio.named_tuple import NamedTuple
from vmm.agent.user import User
from vmm.share.config import ShareConfig

_KEPT: Final = frozenset({"HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "TZ", "USER"})


class Caller(NamedTuple):
    """The user, the folder in the guest, and the environment."""

    user: User
    folder: str
    environment: dict[str, str]

    @classmethod
    def in_root(cls, root: ShareConfig) -> Caller:
        """Return what the caller is in that root; somewhere else it begins at its ``/``."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if name in _KEPT or name.startswith("LC_")
        }
        return cls(User.of_this_process(), folder_in(root.source, os.getcwd()), kept)

    def options(self) -> dict[str, Any]:
        """Return the options of :meth:`vmm.agent.Agent.start` that say so."""
        return {"user": self.user, "cwd": self.folder, "env": self.environment}


def folder_in(root: str, folder: str) -> str:
    """Return where a folder of the host is below a root.

    >>> folder_in("/", "/home/me"), folder_in("/srv/root", "/srv/root/usr"), folder_in("/srv", "/")
    ('/home/me', '/usr', '/')
    """
    top = os.path.realpath(root)
    if os.path.commonpath([top, folder]) != top:
        return "/"
    return os.path.join("/", os.path.relpath(folder, top)) if folder != top else "/"
