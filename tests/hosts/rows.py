"""``python -m tests.hosts.rows FOLDER ROW...``: what kernels do under our monitor, on this host.

A row is a kernel, how it finds its devices, and a number of processors, such as
``debian:6.12/pci/4``. Each is tried to its end; what came of it goes to a file in the folder, which
the table of kernels is made from.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.hosts.own_kernel import OURS, own_kernel
from virtio.errors import ConfigurationError, Error
from vmm.config import MachineConfig, Transport
from vmm.disk.disk import DiskConfig
from vmm.image.initramfs import default_initramfs
from vmm.machine import Machine
from vmm.x86 import is_emulated_host

RESULTS: Final = "rows.json"
STEPS: Final = ("shell", "disk", "rng", "agent", "processors", "snapshot", "restore")
TRANSPORTS: Final = ("mmio", "mmio-acpi", "pci")
_BOOT_SECONDS: Final = 600.0
_COMMAND_SECONDS: Final = 120.0
_BLOCK: Final = 64 << 10
_BLOCKS: Final = 16


class Row(NamedTuple):
    """One line of the table: what is tried."""

    kernel: str
    transport: str
    cpus: int

    @classmethod
    def parse(cls, text: str) -> Row:
        """Return the row that ``KERNEL/TRANSPORT/CPUS`` names.

        >>> Row.parse("debian:6.12/pci/4")
        Row(kernel='debian:6.12', transport='pci', cpus=4)
        """
        kernel, _, rest = text.partition("/")
        transport, _, cpus = rest.partition("/")
        if transport not in TRANSPORTS or not cpus.isdigit():
            raise ConfigurationError(
                f"row {text!r}: must be KERNEL/TRANSPORT/CPUS, the transport one of"
                f" {', '.join(TRANSPORTS)}"
            )
        return cls(kernel, transport, int(cpus))

    def __str__(self) -> str:
        return f"{self.kernel}/{self.transport}/{self.cpus}"


class Result(NamedTuple):
    """What came of a row: the steps that were right, and why the next one was not."""

    row: str
    host: str
    release: str = ""
    done: tuple[str, ...] = ()
    exits: int = 0
    fault: str = ""


def measure(row: Row) -> Result:
    """Boot the row's kernel, and try step by step what the table tells."""
    host = "emulated" if is_emulated_host() else "hardware"
    attempt = Attempt()
    try:
        with tempfile.TemporaryDirectory() as folder:
            disk = Path(folder, "disk.img")
            disk.write_bytes(os.urandom(_BLOCK * _BLOCKS))
            attempt.run(_config(row, disk), disk)
    except (Error, AssertionError) as error:
        fault = (str(error).splitlines() or [type(error).__name__])[0]
        return Result(str(row), host, attempt.release, tuple(attempt.done), attempt.exits, fault)
    return Result(str(row), host, attempt.release, tuple(attempt.done), attempt.exits)


def _config(row: Row, disk: Path) -> MachineConfig:
    own = row.kernel.startswith(OURS)
    transport: Transport = "pci" if row.transport == "pci" else "mmio"
    return MachineConfig(
        kernel=own_kernel(row.kernel, row.transport) if own else row.kernel,
        initrd=default_initramfs() if own else None,
        cpus=row.cpus,
        transport=transport,
        acpi=row.transport != "mmio",
        memory_bytes=256 << 20,
        agent="beside",
        disks=(DiskConfig(str(disk)),),
    )


class Attempt:
    """One machine on its way through the steps."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.release = ""
        self.exits = 0

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        yield
        self.done.append(name)

    def run(self, config: MachineConfig, disk: Path) -> None:
        """Take the steps; raises what went wrong."""
        with Machine(config) as machine:
            with self._step("shell"):
                machine.boot()
                machine.console.wait_for("guest:/# ", _BOOT_SECONDS)
            machine.pause()
            self.exits = sum(machine.statistics.exits.values())
            machine.resume()
            with self._step("agent"):
                self.release = _in_guest(machine, "uname -r")
            with self._step("processors"):
                assert _in_guest(machine, "nproc") == str(config.cpus), "nproc tells others"
            with self._step("rng"):
                assert _in_guest(machine, "head -c 16 /dev/hwrng | wc -c") == "16", "no 16 bytes"
            with self._step("disk"):
                _check_disk(machine, disk)
            with self._step("snapshot"):
                snapshot = machine.snapshot()
        with snapshot, self._step("restore"), Machine.restore(snapshot) as restored:
            restored.resume()
            assert _in_guest(restored, "echo restored") == "restored", "no answer"
            assert _in_guest(restored, "sha256sum </dev/vda") == _digest(disk.read_bytes())


def _check_disk(machine: Machine, disk: Path) -> None:
    before = disk.read_bytes()
    assert _in_guest(machine, "sha256sum </dev/vda") == _digest(before), "the guest reads otherwise"
    half = _BLOCKS // 2
    _in_guest(
        machine,
        f"dd if=/dev/vda of=/dev/vda bs={_BLOCK} count={half} seek={half} conv=notrunc,fsync",
    )
    assert disk.read_bytes() == before[: len(before) // 2] * 2, "the guest wrote otherwise"


def _digest(data: bytes) -> str:
    return f"{hashlib.sha256(data).hexdigest()}  -"


def _in_guest(machine: Machine, command: str) -> str:
    machine.agent.wait_ready(_COMMAND_SECONDS)
    done = machine.agent.run(["sh", "-c", command], timeout=_COMMAND_SECONDS)
    stdout, stderr = str(done.stdout), str(done.stderr)
    assert done.returncode == 0, f"{command}: status {done.returncode}: {stderr.strip()}"
    return stdout.strip()


def main(arguments: Sequence[str], show: Callable[[str], None] = print) -> int:
    """Measure the rows, and keep each result at once."""
    folder, *rows = arguments
    results: list[Result] = []
    for row in map(Row.parse, rows):
        result = measure(row)
        show(f"{result.row}: {' '.join(result.done)}; {result.fault or 'all'}")
        sys.stdout.flush()
        results.append(result)
        Path(folder, RESULTS).write_text(json.dumps([one._asdict() for one in results], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
