"""``vmm demo``: the default guest shows that its devices work, without anybody at a keyboard."""

import argparse
import secrets
import shutil
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Final

from virtio.errors import InternalError
from vmm.cli.interruption import Interruption
from vmm.cli.keeper import run_confined
from vmm.cli.report import report
from vmm.cli.sandbox_options import add_sandbox_argument, sandbox_of
from vmm.config import MachineConfig
from vmm.console.output import OutputSink
from vmm.disk.disk import DiskConfig
from vmm.machine import Machine
from vmm.sandbox.process import ProcessSandbox
from vmm.x86 import open_kvm

DEADLINE_SECONDS: Final = 300.0

_SCRIPT: Final = """\
read -r _ _ release _ < /proc/version
echo "kernel:      Linux $release"
read -r driver < /sys/class/misc/hw_random/rng_current
echo "/dev/hwrng:  served by $driver"
hexdump -n 16 -e '"16 bytes:    " 16/1 "%02x " "\\n"' /dev/hwrng
mount -t ext4 /dev/vda /mnt
read -r line < /mnt/README
echo "/dev/vda:    $line"
echo "{token}" > /mnt/from-the-guest
echo "written:     {token}"
umount /mnt
poweroff
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--stats", action="store_true", help="print counts at the end")
    add_sandbox_argument(parser)


def execute(options: argparse.Namespace) -> int:
    """Run the demonstration, check its disk, and return the exit status."""
    from vmm.cli.machine_options import chosen_kernel
    from vmm.image import ProgressLine, build_initramfs, demo_disk
    from vmm.image.initramfs import RUN_SCRIPT

    sandbox = sandbox_of(options)
    open_kvm().close()  # before anything is built
    token = f"the guest was here {secrets.token_hex(8)}"
    script = _SCRIPT.replace("{token}", token)
    with tempfile.TemporaryDirectory(prefix="vmm-demo-") as folder:
        disk = Path(shutil.copy(demo_disk(), Path(folder, "disk.img")))
        with closing(ProgressLine(sys.stderr)) as progress:
            kernel = chosen_kernel(progress, cpus=1)
        config = MachineConfig(
            kernel=kernel,
            cmdline="" if kernel is None else "quiet",
            initrd=build_initramfs({RUN_SCRIPT: script}),
            disks=(DiskConfig(str(disk), serial="demo"),),
        )
        # The disk is looked at, and the folder removed, by this process, which is not confined.
        interruption = Interruption()
        with interruption.by_signals():
            status = run_confined(lambda: _run(config, interruption, sandbox, stats=options.stats))
        if status == 0 and token.encode() not in disk.read_bytes():
            raise InternalError("what the guest wrote is not in the disk image")
    if status == 0:
        print(f"on the host: found in the disk image: {token}")
    return status


def _run(
    config: MachineConfig, interruption: Interruption, sandbox: ProcessSandbox, *, stats: bool
) -> int:
    with Machine(config) as machine:
        interruption.watch(machine)
        machine.load()
        machine.hardware.kvm.close()
        sandbox.enter(["vmm.stats"] if stats else [])
        with OutputSink(1) as sink:
            machine.console.add_sink(sink.write)
            machine.resume()
            ending = machine.wait(DEADLINE_SECONDS)
    sys.stdout.flush()
    report(ending, machine if stats else None)
    return ending.status
