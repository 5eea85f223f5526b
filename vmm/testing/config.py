"""The guest that a test wants: how it boots, and its files, disks and devices."""

import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Final

from virtio.device.lifecycle import VirtioDevice
from virtio.errors import ConfigurationError
from vmm.config import MachineConfig, parse_size
from vmm.disk.disk import DiskConfig
from vmm.ending.complaints import Complaint
from vmm.image import find_kernel
from vmm.image.progress import Progress, silent
from vmm.kernel_choice import DEBUG, is_stock
from vmm.sandbox.mode import SandboxMode, check_mode, usual_mode
from vmm.share.config import ShareConfig, check_shares
from vmm.topology import parse_cpus

if TYPE_CHECKING:
    from vmm.net.config import NetConfig
    from vmm.net.switch import Switch

SPARE_SLOTS: Final = 6
"""The number of disks and devices that a test can have: the guest boots with so many places."""

MAX_DEADLINE_SECONDS: Final = 1e7

_GUEST_CID: Final = 3

_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "memory": (str,),
    "cpus": (int, str),
    "cmdline": (str,),
    "vsock": (bool,),
    "balloon": (bool,),
    "trace": (bool,),
    "explain": (bool,),
    "files": (Mapping,),
    "deadline": (float, int),
    "kernel": (str, Path, NoneType),
}
DEFAULT_KERNEL: Final = "default"


@dataclass(frozen=True, slots=True)
class GuestConfig:
    """The guest of a test.

    The first seven say what boots: a guest that differs in them needs a snapshot of its own, which
    takes a boot to make. The restored guest gets the others, at next to no cost.

    * ``memory``: guest RAM, such as ``"128M"``; ``cpus``: virtual processors,
      a number or what ``vmm run --cpus`` takes, such as ``"4,threads=2"``.
    * ``cmdline``: added to the kernel command line.
    * ``kernel``: a file, a name as ``vmm run --kernel`` takes it, or "default". The marker also
      takes a list: one test for each.
    * ``initrd``: another file than the default guest's. The agent goes into it, beside the
      ``/init`` there.
    * ``balloon``: whether the guest can give memory back; ``guest.balloon`` asks for it.
    * ``vsock``: whether sockets lead into the guest; ``guest.vsock`` makes them.
    * ``files``: the guest's path of each file, with what it holds: text, bytes, or a file (a
      ``Path``) of the host, whose permissions it gets.
    * ``disks``: images, as ``vmm run --disk`` takes them, or :class:`vmm.DiskConfig`.
    * ``shares``: directories of the host, as ``vmm run --share`` takes them, ``SRC:DST[,rw]``, or
      :class:`vmm.share.config.ShareConfig`; mounted when the test begins.
    * ``nets``: networks, one card each, ``eth0`` first: a :class:`vmm.net.Switch`, what ``vmm run
      --net`` takes, or :class:`vmm.net.NetConfig`. The guest's cards begin without addresses.
    * ``devices``: makers of further devices, such as a subclass of ``virtio.Device``.
    * ``deadline``: seconds after which a test's guest ends; booting it, where it has to be, and
      its ``files`` count as the test does. The build of a kernel and time in a debugger do not.
    * ``shared``: one guest for all tests of a module that want the same, rather than one for each.
      The fixture ``session_guest`` is one for all tests of a run.
    * ``allow_complaints``: what the guest's kernel may complain of, by reports such as WARNING or
      BUG or by its taint: True for anything, or patterns for ``re.search`` in a report's lines.
      Any other complaint fails the test.
    * ``sandbox``: that of :class:`vmm.MachineConfig`, by default what ``PYVMM_SANDBOX`` says, or
      "auto"; a guest with ``devices`` of the test's own has none, as these may need anything.
    * ``trace``: whether ``guest.trace`` tells of all from the beginning.
    * ``explain``: whether ``guest.explain()`` tells what drivers do wrong from the beginning; the
      report on a test that fails has it, too.
    """

    memory: str = "128M"
    cpus: int | str = 1
    cmdline: str = ""
    kernel: Path | str | None = None
    initrd: Path | None = None
    vsock: bool = False
    balloon: bool = False
    files: Mapping[str, str | bytes | Path] = field(default_factory=dict)
    disks: tuple[DiskConfig | str, ...] = ()
    shares: tuple[ShareConfig | str, ...] = ()
    nets: "tuple[NetConfig | Switch | str, ...]" = ()
    devices: tuple[Callable[[], VirtioDevice], ...] = ()
    deadline: float = 60.0
    shared: bool = False
    allow_complaints: bool | str | tuple[str, ...] = field(default=(), compare=False)
    sandbox: SandboxMode = field(default_factory=usual_mode)
    trace: bool = False
    explain: bool = False

    def __post_init__(self) -> None:
        check_mode(self.sandbox)
        self._check_kinds()
        if not 0 < self.deadline <= MAX_DEADLINE_SECONDS:
            raise ConfigurationError(
                f"deadline {self.deadline!r}: must be above 0 and at most"
                f" {MAX_DEADLINE_SECONDS:g} seconds"
            )
        if self.kernel == DEFAULT_KERNEL:
            object.__setattr__(self, "kernel", None)
        self._check_patterns()
        for name in ("disks", "shares", "nets", "devices"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_shares()
        wanted = len(self.disks) + len(self.shares) + len(self.nets) + len(self.devices)
        if wanted > SPARE_SLOTS:
            raise ConfigurationError(
                f"{wanted} disks, shares, nets and devices: a guest of a test has room for"
                f" {SPARE_SLOTS}"
            )

    def _check_kinds(self) -> None:
        for name, kinds in _KINDS.items():
            if not isinstance(value := getattr(self, name), kinds):
                wanted = " or ".join(kind.__name__ for kind in kinds)
                raise ConfigurationError(f"{name} {value!r}: must be {wanted}")
        for path, content in self.files.items():
            if not (isinstance(path, str) and isinstance(content, str | bytes | Path)):
                raise ConfigurationError(f"files[{path!r}]: must be text, bytes or a Path")

    def _check_patterns(self) -> None:
        allowed = self.allow_complaints
        if isinstance(allowed, bool):
            return
        patterns = (allowed,) if isinstance(allowed, str) else tuple(allowed)
        for pattern in patterns:
            try:
                re.compile(pattern)
            except (re.error, TypeError) as error:
                raise ConfigurationError(
                    f"allow_complaints {pattern!r}: must be True or regular expressions: {error}"
                ) from None
        object.__setattr__(self, "allow_complaints", patterns)

    def allows(self, complaint: Complaint) -> bool:
        """Whether the guest's kernel may make this complaint."""
        allowed = self.allow_complaints
        if isinstance(allowed, bool):
            return allowed
        return any(re.search(one, complaint.text, re.MULTILINE) for one in allowed)

    def check_kernel(self, progress: Progress = silent) -> None:
        """Have the kernel at hand: one of Debian's is fetched first, which ``progress`` is told.

        Raises :class:`ConfigurationError` for a kernel that is not to be had on this host.
        """
        if is_stock(self.kernel) and self.kernel != DEBUG:
            assert self.kernel is not None
            find_kernel(self.kernel, progress)
        elif isinstance(self.kernel, Path):
            _check_file("kernel", self.kernel)

    def _check_shares(self) -> None:
        shares = self.opened_shares()
        check_shares(shares)
        if any(one.is_root for one in shares):
            raise ConfigurationError("a share at /: a guest of a test has its root already")

    def machine(self) -> MachineConfig:
        """Return the machine that is booted and saved.

        Raises :class:`ConfigurationError` that names a file of the host which is none.
        """
        self.check_kernel()
        debug = self.kernel == DEBUG
        if self.initrd is not None:
            _check_file("initrd", self.initrd)
        for target, content in self.files.items():
            if isinstance(content, Path):
                _check_file(f"files[{target!r}]", content)
        cpus, topology = parse_cpus(str(self.cpus))
        return MachineConfig(
            kernel=None if debug else self.kernel,
            debug_kernel=debug,
            initrd=self.initrd,
            cmdline=self.cmdline,
            memory_bytes=parse_size(self.memory),
            cpus=cpus,
            cpu_topology=topology,
            console="virtio",
            balloon=0 if self.balloon else None,
            vsock=_GUEST_CID if self.vsock else None,
            agent="init" if self.initrd is None else "beside",
            spare_slots=SPARE_SLOTS,
        )

    def opened_disks(self) -> list[DiskConfig]:
        """Return the disks as configurations."""
        return [DiskConfig.parse(one) if isinstance(one, str) else one for one in self.disks]

    def opened_shares(self) -> list[ShareConfig]:
        """Return the shares as configurations."""
        return [ShareConfig.parse(one) if isinstance(one, str) else one for one in self.shares]

    def networks(self) -> "list[NetConfig]":
        """Return the networks as configurations."""
        if not self.nets:
            return []
        from vmm.net.config import NetConfig
        from vmm.net.options import parse_net
        from vmm.net.switch import Switch

        return [
            NetConfig.on(one)
            if isinstance(one, Switch)
            else parse_net(one)
            if isinstance(one, str)
            else one
            for one in self.nets
        ]


def _check_file(what: str, path: Path) -> None:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ConfigurationError(f"{what}: {path}: must be a file")
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise ConfigurationError(f"{what}: {path}: {error.strerror}") from None
