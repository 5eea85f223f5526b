"""``python -m tests.perf.traced [SECONDS]``: what a trace costs, off and on.

* ``device``: 4 KiB reads that native code serves from a file in the page cache, 64 at a time, of a
  driver in this process. ``off`` and ``on`` take turns; a figure is the best of all rounds, in
  nanoseconds for each read. With a trace on there are two records for each: their cost is shown.
  Nobody reads the records meanwhile: that is the cost on the thread of the device.
* ``guest``: the same reads by ``dd`` in a guest, one at a time, with the trace and its reader in
  this process; medians of seconds.

Nothing is asserted. Aims: 100 ns for each record, and 1.3 times for the reads of a guest.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from virtio import Block, engine
from virtio.native.records import Records
from virtio.testing import Bench
from virtio.virtqueue.watched import Given, Taken
from vmm import DiskConfig, Machine, MachineConfig

READS = 64
DISK_BYTES = 64 << 20
GUEST_READS = 300
GUEST_ROUNDS = 4


class Watcher:
    """Has native code write records, and empties them between two rounds."""

    def __init__(self) -> None:
        self.records = Records()

    def taken(self, chains: Sequence[Taken]) -> None:
        """Python took chains, which are few."""

    def given(self, chains: Sequence[Given]) -> None:
        """Python gave chains back."""

    def native(self, make: Callable[[], Records]) -> Records:
        """Return the one ring of records."""
        return self.records


def device_reads(disk: Path, seconds: float) -> None:
    """Print what a read costs without and with records."""
    best = {"off": 1 << 60, "on": 1 << 60}
    watcher = Watcher()
    with ExitStack() as stack:
        backend = stack.enter_context(DiskConfig(str(disk)).open())
        device = Block(backend)
        features = device.device_features & ~(1 << 28)  # no indirect tables: 3 descriptors each
        bench = Bench(device, features, queue_size=1024)
        queue, driver = bench.queues[0], bench.drivers[0]
        assert queue is not None
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for name in best:
                queue.watch(watcher if name == "on" else None)
                for number in range(READS):
                    header = bytes(8) + (number * 8).to_bytes(8, "little")
                    driver.add([header], [4096, 1])
                begin = time.thread_time_ns()
                bench.serve()
                best[name] = min(best[name], time.thread_time_ns() - begin)
                assert len(driver.collect()) == READS
                watcher.records.read()
    off, on = best["off"] / READS, best["on"] / READS
    print(f"device: {off:.0f} ns a read, {on:.0f} with a trace: {on / off:.2f} times")
    print(f"        {(on - off) / 2:.0f} ns a record (aim: at most 100)")


def guest_reads(disk: Path) -> None:
    """Print what reads of a guest take without and with a trace."""
    config = MachineConfig(agent="init", disks=(DiskConfig(str(disk)),))
    command = f"dd if=/dev/vda of=/dev/null bs=4096 count={GUEST_READS} iflag=direct 2>/dev/null"
    took: dict[str, list[float]] = {"off": [], "on": []}
    with Machine(config) as machine:
        machine.boot()
        machine.agent.wait_ready(600)
        for number in range(2 * GUEST_ROUNDS):
            name = ("off", "on")[number % 2]
            if name == "on":
                machine.start_trace().run()
            begin = time.monotonic()
            machine.agent.run(["sh", "-c", command], timeout=600, check=True)
            took[name].append(round(time.monotonic() - begin, 3))
            machine.stop_trace()
        machine.stop()
    off, on = map(statistics.median, took.values())
    print(f"guest:  {off:.3f} s for {GUEST_READS} reads, {on:.3f} s with a trace: {on / off:.2f}")
    print(f"        all rounds: {took}")


def main() -> None:
    """Measure both."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    engine.use("native")
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        disk.write_bytes(bytes(DISK_BYTES))
        device_reads(disk, seconds)
        guest_reads(disk)


if __name__ == "__main__":
    main()
