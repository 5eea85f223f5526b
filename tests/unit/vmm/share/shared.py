"""A shared directory for the tests: on the host, and as a driver sees it."""

from pathlib import Path
from typing import Any

from virtio.fs import Fs
from virtio.testing.bench import Bench
from virtio.testing.fuse import FuseDriver
from vmm.share.directory import HostDirectory
from vmm.share.limits import Limits

SMALL = Limits(nodes=64, handles=8, cached=4, pinned=4)


class Shared:
    """A directory behind a device; ``fuse`` has sent INIT."""

    def __init__(self, path: Path, *, writable: bool = True, **options: Any) -> None:
        cache = options.pop("cache", "auto")
        self.path = path
        self.system = HostDirectory(str(path), writable=writable, **options)
        self.device = Fs(self.system, "share", cache=cache)
        self.bench = Bench(self.device)
        self.fuse = FuseDriver(self.bench)
        self.fuse.init()

    def restored(self, path: Path | None = None, *, writable: bool = True) -> "Shared":
        """Save the device, and go on in another one, of this directory or another."""
        again = Shared.__new__(Shared)
        again.path = path or self.path
        again.system = HostDirectory(str(again.path), writable=writable)
        again.device = Fs(again.system, "share")
        again.bench = self.bench
        again.fuse = self.fuse
        self.bench.restore_into(again.device)
        self.system.close()
        return again

    def close(self) -> None:
        self.bench.reset()
        self.system.close()
