"""The identity of a host, which a snapshot must find again: its processor, and its kind of KVM.

A guest has looked at the processor when it booted and relies on what it saw. On KVM without
hardware virtualization its programs even see the host's own CPUID.
"""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError
from virtio.saved import shown
from vmm.x86.host import check_host, host_kind

_FLAGS_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """The processor as ``/proc/cpuinfo`` tells it, and which kind of KVM runs guests on it."""

    kvm: str
    vendor: str
    family: str
    model: str
    stepping: str
    name: str
    flags: tuple[str, ...]

    @classmethod
    def of_this_host(cls, cpuinfo: Path = Path("/proc/cpuinfo")) -> "HostIdentity":
        """Return what this host is."""
        check_host()
        first = cpuinfo.read_text().split("\n\n", 1)[0]
        found = dict(re.findall(r"^([^\t:]+)\t*: ?(.*)$", first, re.MULTILINE))
        return cls(
            kvm=host_kind(),
            vendor=found.get("vendor_id", ""),
            family=found.get("cpu family", ""),
            model=found.get("model", ""),
            stepping=found.get("stepping", ""),
            name=found.get("model name", ""),
            flags=tuple(sorted(found.get("flags", "").split())),
        )

    def check(self, where: str) -> None:
        """Raise :class:`ConfigurationError` unless this host is like the one described."""
        here = HostIdentity.of_this_host()
        for one in fields(self):
            saved, found = getattr(self, one.name), getattr(here, one.name)
            if saved == found:
                continue
            if one.name == "flags":
                differing = sorted(set(saved) ^ set(found))
                names = " ".join(shown(flag)[1:-1] for flag in differing[:_FLAGS_SHOWN])
                more = len(differing) - _FLAGS_SHOWN
                raise ConfigurationError(
                    f"{where}: taken on another processor: they differ in {names}"
                    + (f" and {more} more" if more > 0 else "")
                )
            raise ConfigurationError(
                f"{where}: taken on another host: {one.name} {shown(saved)}, here it is {found!r}"
            )
