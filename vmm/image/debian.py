"""Finds the Debian packages that an image build still needs, and as root installs them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from virtio.errors import ConfigurationError
from vmm.image.progress import Progress

_MORE_FOLDERS = ("/usr/sbin", "/sbin")  # not in an ordinary user's PATH, yet readable


def find_tool(name: str) -> str | None:
    """Return the path of the program ``name``, also when it lies where only root looks."""
    import shutil

    folders = os.pathsep.join((os.environ.get("PATH", os.defpath), *_MORE_FOLDERS))
    return shutil.which(name, path=folders)


def missing_packages(needs: Mapping[str, str]) -> list[str]:
    """Return the packages of ``needs`` that are not installed, sorted.

    ``needs`` maps the name of each program, or the absolute path of each file, to its package.
    """
    return sorted({package for thing, package in needs.items() if not _present(thing)})


def ensure(needs: Mapping[str, str], purpose: str, progress: Progress) -> None:
    """Make sure that everything in ``needs`` is there; see ``install``."""
    if missing := missing_packages(needs):
        install(missing, purpose, progress)
    if missing := missing_packages(needs):
        raise ConfigurationError(_advice(purpose, missing))


def install(packages: list[str], purpose: str, progress: Progress) -> None:
    """Install ``packages`` with apt-get when we are root, and say so through ``progress``.

    Raises ``ConfigurationError`` that names the packages for anyone else, and when apt-get fails.
    """
    import subprocess

    if os.geteuid() != 0 or not find_tool("apt-get"):
        raise ConfigurationError(_advice(purpose, packages))
    progress(f"installing {' '.join(packages)} for {purpose}", "")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(
            ["apt-get", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ConfigurationError(f"{_advice(purpose, packages)} (tried, it failed: {last})")


def _present(thing: str) -> bool:
    return Path(thing).exists() if thing.startswith("/") else find_tool(thing) is not None


def _advice(purpose: str, packages: list[str]) -> str:
    names = " ".join(packages)
    return f"{purpose} needs Debian packages that are not installed: apt-get install {names}"
