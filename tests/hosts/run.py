"""``python -m tests.hosts.run [--cpus N] -- COMMAND...``: run a command in the hardware host.

It runs in this checkout, with its virtual environment and the images of the cache. The console is
shown as it comes, what the command leaves in ``$HOST_OUTPUT`` is copied to ``--output``, and its
exit status is returned.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.hosts.boot import write_initramfs
from tests.hosts.errand import Errand, read_back
from tests.hosts.images import own_kernels, prepare
from tests.hosts.kernel import host_kernel
from tests.hosts.qemu import HardwareHost, ensure_qemu
from tests.hosts.system import system_disk
from virtio.errors import Error
from vmm.image.progress import Progress, ProgressLine

STATUS_HOST: Final = 125
STATUS_TIME: Final = 124  # as timeout(1)
_BOOT_SECONDS: Final = 300


class HostEnded(Error):
    """The hardware host ended before its command did, as when its kernel panics."""


def run(
    errand: Errand,
    progress: Progress,
    *,
    cpus: int = 2,
    memory_mib: int = 3072,
    output: Path | None = None,
) -> int:
    """Run an errand in a host of its own, and return its status: 124 when its time ended it.

    Raises ``HostEnded``, and what a host that cannot be had raises.
    """
    ensure_qemu(progress)
    prepare()
    kernel, system = host_kernel(progress), system_disk(progress)
    with tempfile.TemporaryDirectory(prefix="hardware-host-") as name:
        initramfs, disk = Path(name, "initramfs.cpio"), Path(name, "errand.img")
        write_initramfs(kernel, initramfs)
        errand.write(disk)
        host = HardwareHost(kernel, initramfs, system, disk, cpus, memory_mib)
        ended = host.run(errand.seconds + _BOOT_SECONDS, _show)
        status = read_back(disk, output)
    if status is not None:
        return status
    if ended:
        raise HostEnded("the hardware host ended before its command did: see its last lines")
    print("the hardware host was stopped: its command had not ended in time", file=sys.stderr)
    return STATUS_TIME


def _show(piece: bytes) -> None:
    sys.stdout.buffer.write(piece.replace(b"\r\n", b"\n"))
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """Parse the command line and run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.hosts.run", description=__doc__)
    parser.add_argument("--cpus", type=int, default=2, metavar="N")
    parser.add_argument("--memory", type=int, default=3072, metavar="MIB")
    parser.add_argument("--seconds", type=int, default=600, metavar="N", help="the command's time")
    parser.add_argument("--output", type=Path, metavar="FOLDER")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    line = ProgressLine(sys.stderr)
    try:
        own_kernels(line, every=False)
        return run(
            Errand(options.command, options.seconds),
            line,
            cpus=options.cpus,
            memory_mib=options.memory,
            output=options.output,
        )
    except Error as error:
        print(f"hardware host: {error}", file=sys.stderr)
        return STATUS_HOST
    finally:
        line.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
