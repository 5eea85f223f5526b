"""A disk of the host as the user asks for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, Literal, cast, get_args

from virtio.dataclass import dataclass
from virtio.errors import ConfigurationError
from vmm.disk.opening import open_disk
from vmm.disk.overlay import BaseDisk, OverlayDisk
from vmm.disk.place import absolute, is_url
from vmm.disk.qcow2 import DiskFormat
from vmm.host.size import parse_size
from vmm.slots import Transport, check_transport

ALLOWED_OPTIONS: Final = (
    "ro, volatile, lock=on|off, serial=TEXT, block-size=BYTES, queues=NUMBER, limit=SIZE,"
    " transport=mmio|pci, format=raw|qcow2, backing=FOLDER, on-error=fail|wait, timeout=SECONDS"
)
_WITH_VALUE: Final = (
    *("serial", "block-size", "queues", "limit", "transport", "lock", "on-error", "timeout"),
    *("format", "backing"),
)
OnError = Literal["fail", "wait"]
TIMEOUT_SECONDS: Final = 30
MAX_TIMEOUT_SECONDS: Final = 86400


@dataclass(frozen=True, slots=True)
class DiskConfig:
    """A disk as the user asks for it.

    ``volatile`` keeps what the guest writes in memory, and leaves the file as it is; so does every
    disk of a machine that was restored from a snapshot. That takes memory up to the size of the
    disk, or up to ``limit`` bytes, after which writing fails. ``serial``, ``block_size`` (bytes)
    and ``queues`` are those of :class:`virtio.block.Block`; without a ``block_size`` it is that of
    what the disk is on. Without ``lock`` the image is used whoever else writes it. ``transport`` is
    None for that of most devices of the machine.

    ``path`` is that of an image or a block device, or the URI of an NBD export. When the server of
    one is gone, or has not answered in ``timeout`` seconds, requests fail, or wait until it is
    back: ``on_error``.

    An image is raw or qcow2, by ``format`` or, without it, by its name and its first bytes
    (``vmm/disk/qcow2.py``). The backing files of a qcow2 image are in its folder, or in
    ``backing``, another one.
    """

    path: str
    read_only: bool = False
    volatile: bool = False
    serial: str = ""
    block_size: int | None = None
    queues: int = 1
    limit: int | None = None
    transport: Transport | None = None
    lock: bool = True
    on_error: OnError = "fail"
    timeout: int = TIMEOUT_SECONDS
    format: DiskFormat | None = None
    backing: str = ""

    def __post_init__(self) -> None:
        check_transport(f"disk {self.path}", self.transport)
        if self.limit is not None and self.limit < 0:
            raise ConfigurationError(f"disk {self.path}: limit is {self.limit}, must be 0 or more")
        if self.on_error not in get_args(OnError):
            raise ConfigurationError(
                f"disk {self.path}: on-error={self.on_error}: must be fail or wait"
            )
        if self.format not in (None, *get_args(DiskFormat)):
            raise ConfigurationError(
                f"disk {self.path}: format={self.format}: must be raw or qcow2"
            )
        if (self.format or self.backing) and is_url(self.path):
            raise ConfigurationError(f"disk {self.path}: format and backing are for a file")
        if not 1 <= self.timeout <= MAX_TIMEOUT_SECONDS:
            raise ConfigurationError(
                f"disk {self.path}: timeout={self.timeout}: must be 1 to {MAX_TIMEOUT_SECONDS}"
            )
        if (self.on_error, self.timeout) != ("fail", TIMEOUT_SECONDS) and not is_url(self.path):
            raise ConfigurationError(
                f"disk {self.path}: on-error and timeout are for an NBD server"
            )

    @classmethod
    def parse(cls, text: str) -> DiskConfig:
        """Read ``FILE`` and options, all of them: ``ro``, ``volatile``, ``lock=on|off``,
        ``format=raw|qcow2``, ``backing=FOLDER``, ``on-error=fail|wait``, ``timeout=SECONDS``,
        ``limit=SIZE``, ``serial=TEXT``, ``block-size=BYTES``, ``queues=NUMBER``,
        ``transport=mmio|pci``.

        A comma in a name is doubled. Raises :class:`ConfigurationError`.

        >>> disk = DiskConfig.parse("root.img,ro,serial=root")
        >>> disk.path, disk.read_only, disk.serial
        ('root.img', True, 'root')
        """
        path, *options = (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))
        if not path:
            raise ConfigurationError(f"disk {text!r}: a file name comes first")
        chosen = dict(_option(option) for option in options)
        if len(chosen) < len(options):
            raise ConfigurationError(f"disk {text!r}: an option is given twice")
        return cls(
            path,
            read_only="ro" in chosen,
            volatile="volatile" in chosen,
            serial=chosen.get("serial", ""),
            block_size=_number("block-size", chosen) if "block-size" in chosen else None,
            queues=_number("queues", chosen, 1),
            limit=parse_size(chosen["limit"]) if "limit" in chosen else None,
            transport=cast("Transport | None", chosen.get("transport")),
            lock=_choice("lock", chosen, ("on", "off")) == "on",
            on_error=cast("OnError", chosen.get("on-error", "fail")),
            timeout=_number("timeout", chosen, TIMEOUT_SECONDS),
            format=cast("DiskFormat | None", chosen.get("format")),
            backing=chosen.get("backing", ""),
        )

    def absolute(self) -> DiskConfig:
        """Return the disk with names that are good in every folder."""
        from dataclasses import replace

        backing = os.path.abspath(self.backing) if self.backing else ""
        return replace(self, path=absolute(self.path), backing=backing)

    def open(self) -> BaseDisk:
        """Open the disk; the caller closes it. Raises :class:`ConfigurationError`."""
        base = open_disk(self, read_only=self.read_only or self.volatile)
        if self.volatile:
            return OverlayDisk(base, read_only=self.read_only, limit_bytes=self.limit)
        return base


def _option(option: str) -> tuple[str, str]:
    name, equals, value = option.partition("=")
    if bool(equals) != (name in _WITH_VALUE) or not (equals or name in ("ro", "volatile")):
        raise ConfigurationError(f"disk option {option!r}: must be one of {ALLOWED_OPTIONS}")
    return name, value


def _number(name: str, options: dict[str, str], usual: int = 0) -> int:
    text = options.get(name, str(usual))
    if not (text.isascii() and text.isdecimal()):
        raise ConfigurationError(f"disk option {name}={text}: must be a decimal number")
    return int(text)


def _choice(name: str, options: dict[str, str], choices: Sequence[str]) -> str:
    """Return the value of an option, the first choice where it is not given."""
    value = options.get(name, choices[0])
    if value not in choices:
        raise ConfigurationError(f"disk option {name}={value}: must be {' or '.join(choices)}")
    return value
