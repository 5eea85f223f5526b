"""Packages from Debian's archive, for an ordinary user: looked up and downloaded by apt itself.

apt checks each list of packages by the archive's signature, and each package by its list;
apt-secure(8).
The host's own lists serve where they know the package; else apt fetches lists into a folder of
ours, as only root may renew the host's.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError
from vmm.image.debian import find_tool

_LISTS_SECONDS: Final = 24 * 3600
_TOLD: Final = re.compile(r"^[EW]: (.*)", re.MULTILINE)
_STRICT: Final = (
    *("-o", "APT::Get::AllowUnauthenticated=false", "-o", "APT::Architecture=amd64"),
    *("-o", "Acquire::AllowInsecureRepositories=false", "-o", "Acquire::Retries=2"),
)


class Apt:
    """apt with the host's package lists, or after :meth:`renew` with lists below ``folder``.

    ``purpose`` begins the messages of errors.
    """

    def __init__(self, folder: Path, purpose: str) -> None:
        self._folder = folder
        self._purpose = purpose
        self._options: list[str] = [*_STRICT]
        for tool in ("apt-get", "apt-cache", "dpkg-deb"):
            if find_tool(tool) is None:
                raise ConfigurationError(
                    f"{purpose}: is a package of Debian's, and this host has no {tool} to get it:"
                    " take --kernel host, a file or a folder"
                )
        if os.geteuid() == 0:  # whose files apt's own user could not write
            self._options += ["-o", "APT::Sandbox::User=root"]
        if self._has_fresh_lists():
            self._use_own_lists()

    def names(self, pattern: str) -> list[str]:
        """Return the names of the packages that match a regular expression, if apt can get them."""
        told = self._run("apt-cache", "search", "--names-only", pattern)
        return [line.partition(" ")[0] for line in told.splitlines()]

    def depends(self, package: str) -> list[str]:
        """Return the names of the packages that ``package`` needs; none if apt does not know it."""
        needed = self._field(package, "Depends")
        return [one.split()[0] for one in needed.split(", ")] if needed else []

    def version(self, package: str) -> str:
        """Return the version of a package that apt would download; nothing if it knows none."""
        return self._field(package, "Version")

    def _field(self, package: str, name: str) -> str:
        told = self._run("apt-cache", "show", "--no-all-versions", package, may_fail=True)
        lines = [line for line in told.splitlines() if line.startswith(f"{name}: ")]
        return lines[0].partition(": ")[2] if lines else ""

    def renew(self) -> bool:
        """Fetch the lists of the archives into the folder; False if those there are of today."""
        if self._has_fresh_lists():
            return False
        (self._folder / "lists/partial").mkdir(0o755, parents=True, exist_ok=True)
        self._use_own_lists()
        self._run("apt-get", "-o", "APT::Update::Error-Mode=any", "update")
        (self._folder / "renewed").touch()
        return True

    def download(self, package: str, folder: Path) -> Path:
        """Download a package into ``folder`` and return its file."""
        self._run("apt-get", "download", f"{package}:amd64", folder=folder)
        return next(folder.glob("*.deb"))

    def _has_fresh_lists(self) -> bool:
        try:
            age = time.time() - (self._folder / "renewed").stat().st_mtime
        except OSError:
            return False
        return 0 <= age < _LISTS_SECONDS

    def _use_own_lists(self) -> None:
        self._options += ["-o", f"Dir::State::lists={self._folder}/lists/"]
        self._options += ["-o", f"Dir::Cache={self._folder}/"]

    def _run(
        self, tool: str, *words: str, folder: Path | None = None, may_fail: bool = False
    ) -> str:
        import subprocess

        done = subprocess.run(
            [tool, *self._options, *words],
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode and not may_fail:
            raise ConfigurationError(f"{self._purpose}: {_failure(tool, words, done.stderr)}")
        return done.stdout


def unpack(package: Path, folder: Path, purpose: str) -> None:
    """Unpack a package's files into ``folder``."""
    import subprocess

    done = subprocess.run(
        ["dpkg-deb", "--extract", str(package), str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        fault = _failure("dpkg-deb", ("--extract", package.name), done.stderr)
        raise ConfigurationError(f"{purpose}: {fault}")


def _failure(tool: str, words: Sequence[str], told: str) -> str:
    faults = _TOLD.findall(told) or told.strip().splitlines() or ["no message"]
    what = " ".join(word for word in words if not word.startswith(("-", "APT::")))
    return f"{tool} {what} failed: {faults[0]}"
