"""Directories of the host that a guest gets, as the user asks for them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

from virtio.dataclass import dataclass
from virtio.errors import ConfigurationError

CacheMode = Literal["auto", "always", "none"]
LockMode = Literal["guest", "host"]

ROOT: Final = "/"
MAX_SHARES: Final = 16
MAX_TAG_BYTES: Final = 36
ALLOWED_OPTIONS: Final = "ro, rw, cache=auto|always|none, locks=guest|host, tag=NAME"


@dataclass(frozen=True, slots=True)
class ShareConfig:
    """A directory of the host for the guest.

    ``source`` is the directory, ``target`` where the guest mounts it; at ``/`` it is the guest's
    root, below a layer in guest memory that takes all changes. Nothing of it is changed unless it
    is ``writable``.

    ``cache`` says how long the guest keeps what it has read: "auto" for a second, and file data
    until an open finds the file changed; "always" as long as it likes, which is right where nobody
    else changes the directory; "none" not at all, with which files cannot be mapped for shared
    writing. ``locks`` says how far locks of files reach: in the guest, or to the "host" and other
    guests, too, which costs a guest's process the way out of a wait for such a lock. ``tag`` is
    what the guest mounts it by, without a name ``share0`` and so on.

    >>> ShareConfig.parse("src:/mnt,rw,cache=none")
    ShareConfig(source='src', target='/mnt', writable=True, cache='none', locks='guest', tag='')
    """

    source: str
    target: str
    writable: bool = False
    cache: CacheMode = "auto"
    locks: LockMode = "guest"
    tag: str = ""

    def __post_init__(self) -> None:
        for name, value, kind in (
            ("cache", self.cache, CacheMode),
            ("locks", self.locks, LockMode),
        ):
            if value not in get_args(kind):
                allowed = ", ".join(get_args(kind))
                raise ConfigurationError(f"share {name} {value!r}: must be one of {allowed}")
        _check_target(self.target)
        if self.is_root and self.writable:
            raise ConfigurationError(
                "share at /: the root is never written: its changes stay in guest memory"
            )
        if len(self.tag.encode()) > MAX_TAG_BYTES:
            raise ConfigurationError(f"share tag {self.tag!r}: at most {MAX_TAG_BYTES} bytes")

    @property
    def is_root(self) -> bool:
        """Whether it is the guest's root."""
        return self.target == ROOT

    @classmethod
    def parse(cls, text: str) -> ShareConfig:
        """Read ``SRC:DST`` and options, with commas between them; in the names they are doubled.

        Raises :class:`ConfigurationError`.
        """
        places, *options = (one.replace("\0", ",") for one in text.replace(",,", "\0").split(","))
        source, colon, target = places.rpartition(":")
        if not (source and colon and target):
            raise ConfigurationError(f"share {text!r}: must be SRC:DST, two directories")
        return cls(source, target, **_options(options))

    @classmethod
    def root(cls, text: str) -> ShareConfig:
        """Read ``DIR`` and options, for the guest's root."""
        source, *options = (one.replace("\0", ",") for one in text.replace(",,", "\0").split(","))
        check_root(source)
        return cls(source, ROOT, **_options(options))


def _options(options: Sequence[str]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        field = "writable" if option in ("ro", "rw") else name
        if field in chosen:
            raise ConfigurationError(f"share option {option!r}: {name} is given twice")
        if field == "writable":
            chosen[field] = option == "rw"
        elif field in ("cache", "locks", "tag") and equals and value:
            chosen[field] = value
        else:
            raise ConfigurationError(f"share option {option!r}: must be one of {ALLOWED_OPTIONS}")
    return chosen


def _check_target(target: str) -> None:
    """Raise for what the guest's init, which gets it by the kernel's command line, cannot have."""
    if not target.startswith("/") or any(not "!" <= one <= "~" or one in '":' for one in target):
        raise ConfigurationError(
            f"share at {target!r}: must be an absolute path of printable ASCII characters, without"
            " blanks, colons and double quotes"
        )
    if os.path.normpath(target) != target:
        raise ConfigurationError(
            f"share at {target!r}: must be written as {os.path.normpath(target)}"
        )


def check_root(source: str) -> None:
    """Raise :class:`ConfigurationError` for a directory from which nothing can be executed."""
    if not os.path.isdir(source):
        raise ConfigurationError(f"root {source}: must be a directory")
    if not any(os.path.isdir(os.path.join(source, one)) for one in ("bin", "usr/bin")):
        raise ConfigurationError(
            f"root {source}: has no bin and no usr/bin: must be the root of a system, such as / or"
            " what mmdebstrap made"
        )


def check_shares(shares: Sequence[ShareConfig]) -> None:
    """Raise for shares that are too many, or at the same place, or of the same tag."""
    if len(shares) > MAX_SHARES:
        raise ConfigurationError(f"{len(shares)} shares: must be at most {MAX_SHARES}")
    targets = [one.target for one in shares]
    for one in targets:
        if targets.count(one) > 1:
            raise ConfigurationError(f"shares at {one}: must be at different places")
    tags = [tag_of(one, index) for index, one in enumerate(shares)]
    if len(set(tags)) < len(tags):
        raise ConfigurationError(f"shares' tags {', '.join(tags)}: each needs its own")


def tag_of(share: ShareConfig, index: int) -> str:
    """Return the tag of the share with that number."""
    return share.tag or f"share{index}"


def mount_word(shares: Sequence[ShareConfig]) -> str:
    """Return the word of the kernel command line by which our init mounts shares; or nothing.

    >>> mount_word([ShareConfig("/", "/"), ShareConfig("src", "/src", writable=True)])
    'VMM_SHARES=o/=share0:w/src=share1'
    """
    items = []
    for index, one in enumerate(shares):
        how = "o" if one.is_root else "w" if one.writable else "r"
        items.append(f"{how}{one.target}={tag_of(one, index)}")
    return f"VMM_SHARES={':'.join(items)}" if items else ""
