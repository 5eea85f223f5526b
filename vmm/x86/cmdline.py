"""The kernel command line: the user's words plus one item for each virtio-mmio device.

Implements Linux kernel-parameters.txt ``virtio_mmio.device=``.
"""

import re
from collections.abc import Sequence

from virtio.errors import ConfigurationError
from virtio.memory import GuestMemory
from vmm.x86 import layout
from vmm.x86.layout import VirtioMmioWindow

# A word as Linux's next_arg() cuts it: blanks inside double quotes belong to it.
_WORD = re.compile(r'(?:"[^"]*(?:"|$)|[^\s"])+')
_FORBIDDEN = re.compile(r"[^\t -~]")


def build_cmdline(text: str, windows: Sequence[VirtioMmioWindow], maximum: int) -> bytes:
    """Return the command line with the devices announced, without a NUL at its end.

    ``maximum`` counts its bytes without the NUL. The devices go before ``--``, behind which words
    are for init. Raises :class:`ConfigurationError` for what Linux would not read as it is written.
    """
    _check_characters(text)
    kernel, init = _split_init_arguments(text)
    devices = [f"virtio_mmio.device=4K@{address:#x}:{irq}" for address, irq in windows]
    line = " ".join(part for part in (kernel, *devices, init) if part).encode("ascii")
    if len(line) > maximum:
        raise ConfigurationError(
            f"kernel command line: has {len(line)} bytes with its {len(devices)} "
            f"virtio_mmio.device items, this kernel takes at most {maximum}"
        )
    return line


def write_cmdline(memory: GuestMemory, line: bytes) -> None:
    """Write the command line and its NUL to its place in the layout."""
    memory.view(layout.COMMAND_LINE, len(line) + 1)[:] = line + b"\0"


def _check_characters(text: str) -> None:
    found = _FORBIDDEN.search(text)
    if found:
        raise ConfigurationError(
            f"kernel command line: character {found.group()!r} at position {found.start()}: "
            "only printable ASCII characters are allowed"
        )
    if text.count('"') % 2:
        raise ConfigurationError('kernel command line: a double quote (") is not closed')


def _split_init_arguments(text: str) -> tuple[str, str]:
    for word in _WORD.finditer(text):
        if word.group().strip('"') == "--":
            return text[: word.start()].strip(), text[word.start() :].strip()
    return text.strip(), ""
