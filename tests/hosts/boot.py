"""The hardware host's initramfs: loads the modules, mounts the two disks and starts the errand."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.hosts.kernel import HostKernel
from vmm.image.initramfs import Content, build_initramfs

ERRAND: Final = "/mnt/errand"
"""Where the second disk is mounted; its file ``start`` is what runs."""

_INIT: Final = """\
#!/bin/sh
B=/bin/busybox
$B mount -t devtmpfs dev /dev
for module in {modules}; do $B insmod /modules/$module; done
$B mkdir /host
$B mount -t ext4 -o noatime /dev/vda /host || $B poweroff -f
$B mkdir -p /host{errand}
$B mount -t ext4 -o noatime /dev/vdb /host{errand} || $B poweroff -f
$B mount --move /dev /host/dev
exec $B switch_root /host /bin/busybox sh {errand}/start
"""


def write_initramfs(kernel: HostKernel, path: Path) -> None:
    """Write the initramfs for the modules of ``kernel``."""
    files: dict[str, Content] = {f"/modules/{one.name}": one.data for one in kernel.modules}
    names = " ".join(module.name for module in kernel.modules)
    init = _INIT.format(modules=names, errand=ERRAND)
    path.write_bytes(build_initramfs(files, init=init))
