"""How a configuration names its kernel: a file, a folder, or a kernel that is at hand by its name.

A kernel that comes with modules, from a folder or by a name, is a stock kernel: our initramfs and
the modules of the machine's devices are made for it.
"""

import os
import re
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError
from virtio.named_tuple import NamedTuple

HOST: Final = "host"
DEBUG: Final = "debug"
"""On the command line: the default guest's kernel for debuggers."""
DEBIAN: Final = "debian"
FLAVOURS: Final = ("cloud", "generic", "rt")

_FLAVOUR: Final = "|".join(FLAVOURS)
_DEBIAN: Final = re.compile(
    rf"debian(?::(?P<only>{_FLAVOUR})"
    rf"|:(?P<version>\d[\w.+~]*(?:-\d+)?)(?:-(?P<flavour>{_FLAVOUR}))?)?"
)
_FORMS: Final = (
    "must be host, debian, debian:VERSION or debian:VERSION-FLAVOUR"
    f" (such as debian:6.12-generic; flavours are {', '.join(FLAVOURS)}), or a path"
)

Kernel = Path | str
"""A ``Path`` is a file or a folder, ``str`` the name of a kernel that is at hand."""


class DebianName(NamedTuple):
    """Which of Debian's kernels a name means; without a version the one of the release."""

    version: str
    flavour: str


def kernel_choice(text: str) -> Kernel:
    """Return the kernel that ``--kernel`` names: a name where it looks like one, else a path.

    >>> kernel_choice("debian:6.12"), kernel_choice("./debian")
    ('debian:6.12', PosixPath('debian'))
    """
    is_name = text in (HOST, DEBIAN, DEBUG) or text.startswith(f"{DEBIAN}:")
    return text if is_name else Path(text)


def debian_name(name: str) -> DebianName:
    """Return what a name of Debian's kernels says; raises ``ConfigurationError`` for another.

    >>> debian_name("debian:6.12-generic")
    DebianName(version='6.12', flavour='generic')
    """
    found = _DEBIAN.fullmatch(name)
    if found is None:
        raise ConfigurationError(f"kernel {name!r}: {_FORMS}")
    return DebianName(found["version"] or "", found["only"] or found["flavour"] or "cloud")


def check_kernel(kernel: Kernel | None) -> None:
    """Raise ``ConfigurationError`` for a name that can mean no kernel."""
    if isinstance(kernel, str) and kernel != HOST:
        debian_name(kernel)


def is_stock(kernel: Kernel | None) -> bool:
    """Whether a kernel may have modules: one by its name, or in a folder.

    >>> is_stock("host"), is_stock(None), is_stock(Path("/"))
    (True, False, True)
    """
    return isinstance(kernel, str) or (kernel is not None and os.path.isdir(kernel))
