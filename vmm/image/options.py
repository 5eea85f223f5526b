"""Reads the options of an initramfs: ``--file SRC[:DST]``, ``--dir``, ``--init``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from virtio.errors import ConfigurationError
from vmm.image.initramfs import build_initramfs


def initramfs_from_options(
    files: Iterable[str] = (),
    directories: Iterable[str] = (),
    init: str | None = None,
    *,
    busybox: bool = True,
) -> bytes:
    """Return the initramfs that ``--file``, ``--dir`` and ``--init`` ask for."""
    return build_initramfs(
        _files(files),
        directories=_directories(directories),
        init=None if init is None else Path(init),
        busybox=busybox,
    )


def split_option(value: str, option: str) -> tuple[Path, str]:
    """Return the host's path and the guest's of ``SRC[:DST]``.

    DST begins with a slash, so that SRC may hold colons. Without DST the guest's path is the same
    absolute path.

    >>> split_option("tool:/usr/bin/tool", "--file")
    (PosixPath('tool'), '/usr/bin/tool')
    """
    source, colon, target = value.rpartition(":")
    if not colon or not target.startswith("/"):
        source, target = value, str(Path(value).absolute())
    if not source:
        raise ConfigurationError(f"{option} {value!r}: needs SRC or SRC:/DST")
    return Path(source), target


def _files(values: Iterable[str]) -> dict[str, Path]:
    pairs = [split_option(value, "--file") for value in values]
    return {
        target + source.absolute().name if target.endswith("/") else target: source
        for source, target in pairs
    }


def _directories(values: Iterable[str]) -> dict[str, Path]:
    pairs = [split_option(value, "--dir") for value in values]
    return {target: source for source, target in pairs}
