"""Builds the guest kernel from Debian's unmodified linux-source package and our configuration.

The same source, fragment and compiler give the same bytes: user, host and time are fixed, and the
tree is built in place so that no path of the host gets in. Linux kbuild/reproducible-builds.rst.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from virtio.errors import ConfigurationError
from vmm.image import kernel_config
from vmm.image.build_command import run, started
from vmm.image.debian import ensure
from vmm.image.progress import Progress

PRODUCTS = ("vmlinux", "config", "System.map", "release", "manifest")
SECOND_FORM = "bzImage"
SYMBOLS = "vmlinux.debug"
"""Only of a configuration for debuggers."""

NEEDS = {
    "bc": "bc",
    "bison": "bison",
    "flex": "flex",
    "gcc": "gcc",
    "ld": "binutils",
    "make": "make",
    "setpriv": "util-linux",
    "tar": "tar",
    "xz": "xz-utils",
    "/usr/include/libelf.h": "libelf-dev",
    "/usr/include/stdio.h": "libc6-dev",
}

# Where it optimizes for size, as in all code that runs once at boot, GCC turns memset into
# `rep stosb`, which an emulated processor does byte by byte: 2 million steps of a boot.
MAKE_VARIABLES = (
    "ARCH=x86_64",
    "KCFLAGS=-mstringop-strategy=libcall",
    "KBUILD_BUILD_HOST=pyvmm",
    "KBUILD_BUILD_TIMESTAMP=@0",
    "KBUILD_BUILD_USER=pyvmm",
    "KBUILD_BUILD_VERSION=1",
)

# Options that later kernels do without: both are a word of the command line since 6.2, where they
# are on unless it says otherwise (b9b01a5625b5), and SLUB is the only allocator since 6.8.
_RETIRED = frozenset(("CONFIG_RANDOM_TRUST_BOOTLOADER", "CONFIG_RANDOM_TRUST_CPU", "CONFIG_SLAB"))

# Three fifths of the source's files, none of which this build opens.
_LEFT_PACKED = (
    "*/arch/[a-w]*/*.[chS]",
    "*/arch/[a-w]*/*.dts*",
    "*/Documentation/*/*",
    "*/drivers/gpu/*.[ch]",
    "*/drivers/infiniband/*.[ch]",
    "*/drivers/media/*.[ch]",
    "*/drivers/net/ethernet/*.[ch]",
    "*/drivers/net/wireless/*.[ch]",
    "*/drivers/scsi/*.[ch]",
    "*/drivers/staging/*.[ch]",
    "*/drivers/usb/*.[ch]",
    "*/sound/*.[ch]",
    "*/tools/perf/*",
    "*/tools/testing/*",
)

_STAGE = "building the guest kernel (once)"
_USUAL_STEPS = 1300  # lines that make prints for this configuration, for the display alone


def build(
    tarball: Path,
    fragments: Sequence[Path],
    target: Path,
    progress: Progress,
    *,
    bzimage: bool = False,
) -> None:
    """Build ``PRODUCTS`` into the folder ``target`` from the source archive ``tarball``.

    With ``bzimage`` also ``SECOND_FORM``, for which the kernel is compressed, and with
    CONFIG_DEBUG_INFO in the configuration ``SYMBOLS``. The configuration is
    ``make tinyconfig`` with the ``fragments``, of which later ones win. In a ``target`` with an
    interrupted build, make continues from there.

    Raises ``ConfigurationError`` when packages are missing, when the kernel does not take an
    option, and when the compiler fails; the message then ends with the compiler's last output.
    """
    ensure(NEEDS, "building the guest kernel", progress)
    source, log, prepared = (target / name for name in ("source", "build.log", "prepared"))
    if not prepared.exists():
        progress(_STAGE, f"unpacking {tarball.name}")
        _unpack(tarball, source, log)
        _configure(source, fragments, log)
        prepared.touch()
    _compile(source, log, progress, ["vmlinux", *([SECOND_FORM] if bzimage else [])])
    prepared.unlink()
    if bzimage:
        (source / "arch/x86/boot" / SECOND_FORM).rename(target / SECOND_FORM)
    _collect(source, target, tarball)
    shutil.rmtree(source)
    log.unlink()


def _unpack(tarball: Path, source: Path, log: Path) -> None:
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    left = [f"--exclude={pattern}" for pattern in _LEFT_PACKED]
    run(["tar", "-xf", str(tarball), "--strip-components=1", *left], source, log)


def _configure(source: Path, fragments: Sequence[Path], log: Path) -> None:
    run(_make("tinyconfig"), source, log)
    config = source / ".config"
    wanted: dict[str, str] = {}
    for fragment in fragments:
        text = fragment.read_text()
        wanted |= kernel_config.parse(text, str(fragment))
        with config.open("a") as out:
            out.write(text)
    run(_make("olddefconfig"), source, log)
    got = kernel_config.parse(config.read_text(), str(config))
    for name in _RETIRED - got.keys():
        wanted.pop(name, None)
    if unmet := kernel_config.unmet(wanted, got):
        names = ", ".join(map(str, fragments))
        raise ConfigurationError(f"{names}: this kernel does not take {', '.join(unmet)}")


def _compile(source: Path, log: Path, progress: Progress, goals: Sequence[str]) -> None:
    done = 0
    with started(_make(*goals), source, log) as lines:
        for line in lines:
            done += line.startswith("  ")
            progress(_STAGE, f"{done} of about {max(done, _USUAL_STEPS)} steps")


def _collect(source: Path, target: Path, tarball: Path) -> None:
    log = target / "build.log"
    run(["strip", "-o", str(target / "vmlinux"), "vmlinux"], source, log)
    config = kernel_config.parse((source / ".config").read_text(), ".config")
    if config.get("CONFIG_DEBUG_INFO") == "y":
        (source / "vmlinux").rename(target / SYMBOLS)
    (source / ".config").rename(target / "config")
    (source / "System.map").rename(target / "System.map")
    (target / "release").write_text((source / "include/config/kernel.release").read_text())
    compiler = (source / "include/generated/compile.h").read_text()
    (target / "manifest").write_text(f"source: {tarball.name}\n{compiler}")


def _make(*goals: str) -> list[str]:
    return ["make", f"-j{len(os.sched_getaffinity(0))}", *MAKE_VARIABLES, *goals]
