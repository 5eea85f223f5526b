"""What a kernel's configuration, where it is at hand, says of the drivers that a machine needs.

It lies beside an installed kernel (``config-RELEASE``) and in a build tree (``.config``), and may
be in the kernel itself (``CONFIG_IKCONFIG``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError
from virtio.log import Logger
from vmm.drivers import Driver

logger = Logger(__name__)

_SET: Final = re.compile(r"^(CONFIG_\w+)=([ym])$", re.MULTILINE)
_ANY_PC: Final = "CONFIG_X86_64"
_IMAGE: Final = re.compile(r"(?:vmlinu[xz]|bzImage)-(.+)")


def parse_options(text: str) -> dict[str, str]:
    """Return the options that are built in ("y") or modules ("m"); the others are off.

    >>> parse_options("CONFIG_PCI=y\\n# CONFIG_ACPI is not set\\nCONFIG_VIRTIO=m\\n")
    {'CONFIG_PCI': 'y', 'CONFIG_VIRTIO': 'm'}
    """
    return dict(_SET.findall(text))


def read_options(config: Path) -> dict[str, str]:
    """Return the options in a file; raises ``ConfigurationError`` when it cannot be read."""
    try:
        return parse_options(config.read_text(errors="replace"))
    except OSError as error:
        raise ConfigurationError(f"{config}: {error.strerror}") from None


def config_beside(image: Path) -> Path | None:
    """Return the configuration that lies where a kernel's build or its package put it."""
    named = _IMAGE.fullmatch(image.name)
    if named:
        places = [image.with_name(f"config-{named[1]}")]
    else:
        folder = image.parent
        if folder.name == "boot" and folder.parents[1].name == "arch":  # arch/ARCHITECTURE/boot
            folder = folder.parents[2]
        places = [folder / ".config", folder / "config"]
    return next((path for path in places if path.is_file()), None)


def check_options(
    name: str, options: Mapping[str, str], drivers: Iterable[Driver], *, modules: bool
) -> None:
    """Raise ``ConfigurationError`` when a kernel lacks a driver that its machine must have.

    ``modules`` says whether somebody in the guest loads modules.
    """
    for one in drivers:
        if not one.required:
            continue
        wanted = (one.option, *one.also)
        if fault := option_fault(one, wanted, options, modules=modules):
            raise ConfigurationError(f"{name}: {fault}")


def option_fault(
    driver: Driver, wanted: Iterable[str], options: Mapping[str, str], *, modules: bool = False
) -> str:
    """Return what a kernel with these options lacks of those that a driver wants; else nothing.

    ``modules`` says whether somebody in the guest loads modules.
    """
    for option in wanted:
        if option not in options:
            return (
                f"was built without {option}, for {driver.purpose}: build it with that,"
                " or choose another kernel (--kernel debian)"
            )
        if options[option] == "m" and not modules:
            return (
                f"has {driver.module} for {driver.purpose} as a module ({option}=m),"
                " and nothing loads it: give an --initrd that does, or --kernel a folder or a name,"
                " whose modules are found"
            )
    return ""


def check_file(image: Path, drivers: Iterable[Driver], *, modules: bool) -> bool:
    """Check a kernel by the configuration that lies beside it; False when there is none.

    Of one that was changed since the kernel was built a fault is only a warning.
    """
    config = config_beside(image)
    options = {} if config is None else read_options(config)
    if config is None or _ANY_PC not in options:  # a file of that name may be anything
        return False
    try:
        check_options(f"kernel {image}", options, drivers, modules=modules)
    except ConfigurationError as error:
        if config.stat().st_mtime <= image.stat().st_mtime:
            raise
        logger.warning("%s; so says %s, which is newer than the kernel", error, config)
    return True
