"""The kernel command line: defaults for this host, the user's words, an item for each device.

Implements Linux kernel-parameters.txt ``virtio_mmio.device=``.
"""

import re
from collections.abc import Sequence
from typing import Final

from virtio.errors import ConfigurationError
from virtio.memory import GuestMemory
from vmm.x86 import layout
from vmm.x86.host import is_emulated_host
from vmm.x86.layout import VirtioMmioWindow

# A word as Linux's next_arg() cuts it: blanks inside double quotes belong to it.
_WORD = re.compile(r'(?:"[^"]*(?:"|$)|[^\s"])+')
_FORBIDDEN = re.compile(r"[^\t -~]")

# An emulated kernel has no XSAVE and saves registers with FXSAVE, but CPUID at CPL 3 is the host's
# and tells programs of AVX: two that both use it would find each other's upper halves in their
# registers. This keeps glibc's string functions, the only users in most guests, to SSE; the kernel
# puts it into the environment of init.
_NO_AVX_IN_GLIBC: Final = (
    "GLIBC_TUNABLES=glibc.cpu.hwcaps="
    "-AVX512F,-AVX512VL,-AVX512BW,-AVX2,-AVX,-AVX_Fast_Unaligned_Load"
)
_FOR_EVERY_HOST: Final = (
    "reboot=k panic=-1 {pci} noreplace-smp i8042.noaux i8042.nomux i8042.dumbkbd"
)
# clearcpuid: of what KVM's emulator lacks, and of string instructions that it takes by the byte.
_FOR_EMULATED_KERNELS: Final = (
    f"tsc=reliable mitigations=off rodata=off clearcpuid=xsave,erms,fsrm {_NO_AVX_IN_GLIBC}"
)


def default_cmdline(console: str, *, pci: bool = False) -> str:
    """Return the kernel parameters that suit a machine of ours on this host, whatever the guest.

    ``console`` is the guest's name of its console, such as ``ttyS0``; ``pci`` tells whether the
    machine has a PCI bus, which Linux would look for in vain elsewhere.
    """
    words = f"console={console} {_FOR_EVERY_HOST.format(pci='pci=conf1' if pci else 'pci=off')}"
    return f"{words} {_FOR_EMULATED_KERNELS}" if is_emulated_host() else words


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
            "must be a printable ASCII character"
        )
    if text.count('"') % 2:
        raise ConfigurationError('kernel command line: a double quote (") is not closed')


def _split_init_arguments(text: str) -> tuple[str, str]:
    for word in _WORD.finditer(text):
        if word.group().strip('"') == "--":
            return text[: word.start()].strip(), text[word.start() :].strip()
    return text.strip(), ""
