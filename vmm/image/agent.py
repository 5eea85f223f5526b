"""Puts the agent into a guest: its program, an initramfs with it, the words that start it."""

from __future__ import annotations

import stat
from pathlib import Path

from virtio.errors import ConfigurationError
from vmm.image import cache, cpio
from vmm.image.initramfs import FILE_NAME, Initramfs
from vmm.image.kernel import recipe_folder
from vmm.image.program import compiled_freestanding, find_compiler, is_packaged

AGENT_PATH = "/vmm-agent"

_RECIPE = "1"  # raise it when the members change
_NOT_BUILT = (
    "was not built with this package, and there is no C compiler:"
    " install a wheel that has it, or apt-get install gcc"
)
_FOLDERS = ("dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "var")


def agent_program() -> Path:
    """Return the agent's program for the guest: built with the package, else compiled and cached.

    Raises ``ConfigurationError`` when it was not built with the package and cannot be built here.
    """
    program = compiled_freestanding(_source())
    if program is None:
        raise ConfigurationError(f"the guest's agent {_NOT_BUILT}")
    return program


def agent_finding() -> str:
    """Return one line about how the agent comes into guests on this host, for ``vmm doctor``."""
    if is_packaged(_source()):
        return "built with the package"
    compiler = find_compiler()
    return f"compiled at its first use by {compiler}" if compiler else _NOT_BUILT


def with_agent(initrd: bytes) -> bytes:
    """Return any initrd, compressed or not, with the agent added as ``/vmm-agent``.

    Linux unpacks one archive after the other; each begins at a multiple of 4 bytes (Linux
    driver-api/early-userspace/buffer-format.rst "initramfs buffer format"). Ours goes first: some
    of Linux's decompressors (lz4) take whatever follows a compressed archive for a part of it.
    """
    name = AGENT_PATH.lstrip("/")
    member = cpio.Member(name, stat.S_IFREG | 0o755, agent_program().read_bytes())
    ours = cpio.archive([member])
    return ours + cpio.padding(ours) + initrd


def agent_words(init: str | None = None) -> str:
    """Return the words of the kernel command line that start the agent.

    The agent is the first process itself; or with ``init``, a path in the initramfs, serves beside
    that.

    >>> agent_words("/sbin/init")
    'rdinit=/vmm-agent VMM_AGENT_INIT=/sbin/init'
    """
    words = f"rdinit={AGENT_PATH}"
    if init is None:
        return words
    if not init.startswith("/") or any(not "!" <= char <= "~" or char == '"' for char in init):
        raise ConfigurationError(
            f"init {init!r}: must be an absolute path of printable ASCII characters without blanks"
        )
    return f"{words} VMM_AGENT_INIT={init}"


def agent_initramfs(*, busybox: bool = False) -> Path:
    """Return a cached initramfs whose first process is the agent, with BusyBox or without."""
    program = agent_program().read_bytes()
    identity = [_RECIPE]
    if busybox:
        from vmm.image.busybox import find_busybox
        from vmm.image.content import file_digest

        identity.append(file_digest(find_busybox()))
    name = f"agent-initramfs-{cache.digest(program, *identity)}"

    def write(folder: Path) -> None:
        (folder / FILE_NAME).write_bytes(_image(program, busybox=busybox))

    return cache.obtain(name, write) / FILE_NAME


def _image(program: bytes, *, busybox: bool) -> bytes:
    image = Initramfs.with_console(_FOLDERS)
    if busybox:
        image.add_busybox()
    image.add_file(AGENT_PATH, program, 0o755)
    image.add_link("/init", AGENT_PATH)
    return image.to_bytes()


def _source() -> Path:
    return recipe_folder() / "agent.c"
