"""``make bench``: what a user waits for and pays for, measured from outside the process.

Each figure is printed beside its aim, with the kind of host; nothing is asserted. Times are medians
of several rounds of the default guest (1 vCPU, 128 MiB), with the best round in brackets: where the
two are far apart the host was busy with something else.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import Full, Queue

from vmm import Machine, MachineConfig, Snapshot
from vmm.image import build_initramfs
from vmm.image.kernel import recipe_folder
from vmm.image.program import compiled_freestanding
from vmm.testing import Guest, GuestConfig
from vmm.x86 import Vcpu, host_kind

START_ROUNDS = 11
BOOT_ROUNDS = 3
RESTORE_ROUNDS = 100
COMMAND_ROUNDS = 11
CLONES = 20
SMALL_PROGRAM = "say"
DEADLINE_SECONDS = 900.0
GUEST = GuestConfig(deadline=DEADLINE_SECONDS)
WITH_BYTECODE = {
    name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
}
"""Users have the bytecode of all modules: from the installation, or from the run before."""
VMM = [sys.executable, "-m", "vmm", "run", "-v", "--timeout", str(DEADLINE_SECONDS)]


@contextmanager
def default_guest(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the default guest, its console and messages on one pipe."""
    with subprocess.Popen(
        [*VMM, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=WITH_BYTECODE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def seconds_until(process: subprocess.Popen[bytes], wanted: bytes, started: float) -> float:
    """Read the process's output up to ``wanted``; the time since ``started``."""
    assert process.stdout is not None
    seen = b""
    while wanted not in seen:
        piece = os.read(process.stdout.fileno(), 65536)
        if not piece:
            raise SystemExit(f"the guest ended before {wanted!r}: {seen.decode(errors='replace')}")
        seen += piece
    return time.monotonic() - started


def private_bytes(pid: int) -> int:
    """Return the memory of a process, without shared memory: guest RAM is that."""
    with open(f"/proc/{pid}/status") as status:
        sizes = re.findall(r"Rss(?:Anon|File):\s+(\d+) kB", status.read())
    return sum(map(int, sizes)) * 1024


def measure_interpreter() -> list[float]:
    """Seconds that the interpreter alone takes, for comparison."""
    rounds = []
    for _ in range(START_ROUNDS):
        started = time.monotonic()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        rounds.append(time.monotonic() - started)
    return rounds


def measure_start() -> list[float]:
    """Seconds from process start to the first entry into the guest.

    The round before the first one leaves the bytecode, and the files in the host's memory.
    """
    rounds = []
    for _ in range(1 + START_ROUNDS):
        started = time.monotonic()
        with default_guest() as process:
            rounds.append(seconds_until(process, b"entering the guest", started))
    return rounds[1:]


class PeakMemory(threading.Thread):
    """Follows the private memory of a process, inside a ``with`` block; ``bytes`` is the peak."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.bytes = 0
        self._pid = pid
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.02):
            self.bytes = max(self.bytes, private_bytes(self._pid))

    def __enter__(self) -> "PeakMemory":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self.join()


def measure_boot() -> tuple[list[float], int]:
    """Seconds from process start to the first line of /init, and the highest private memory."""
    rounds, peak = [], 0
    for _ in range(BOOT_ROUNDS):
        started = time.monotonic()
        with default_guest("--agent", "none", "--", "true") as process:
            with PeakMemory(process.pid) as memory:
                rounds.append(seconds_until(process, b"init: ready", started))
                seconds_until(process, b"reported status 0", started)
            peak = max(peak, memory.bytes)
    return rounds, peak


def milliseconds(rounds: list[float]) -> str:
    """Return the median and the best of some times in seconds."""
    return f"{statistics.median(rounds) * 1000:7.1f} ms ({min(rounds) * 1000:.1f})"


def boot_and_end() -> None:
    """Boot, run one command, end, in this process."""
    config = MachineConfig(init_arguments=("uname", "-a"))
    with Machine(config) as machine:
        machine.boot()
        ending = machine.wait(DEADLINE_SECONDS)
    if ending.status != 0:
        raise SystemExit(f"the guest ended otherwise than asked: {ending.message}")


def left_behind(work: Callable[[], object]) -> str:
    """Return what is there after the work and was not before, counted by kind."""

    def present() -> dict[str, set[str]]:
        return {
            "threads": {str(thread.ident) for thread in threading.enumerate()},
            "descriptors": {
                f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}"
                for fd in os.listdir("/proc/self/fd")
                if os.path.exists(f"/proc/self/fd/{fd}") or os.path.islink(f"/proc/self/fd/{fd}")
            },
            "temporary files": set(os.listdir(tempfile.gettempdir())),
            "children": {
                child
                for task in os.listdir("/proc/self/task")
                for child in open(f"/proc/self/task/{task}/children").read().split()
            },
        }

    before = present()
    work()
    left = {kind: len(there - before[kind]) for kind, there in present().items()}
    return ", ".join(f"{count} {kind}" for kind, count in left.items())


def anonymous_bytes() -> int:
    """Return this process's own memory, pages that guests have copied among them."""
    with open("/proc/self/status") as status:
        found = re.search(r"RssAnon:\s+(\d+) kB", status.read())
    return int(found[1]) * 1024 if found else 0


def measure_restore(snapshot: Snapshot) -> list[float]:
    """Seconds from the call to the first entry into the restored guest."""
    rounds = []
    for _ in range(RESTORE_ROUNDS):
        started = time.monotonic()
        with Machine.restore(snapshot) as machine:
            entered = first_entry(machine.threads[0].vcpu)
            machine.resume()
            rounds.append(entered.get() - started)
    return rounds


def first_entry(vcpu: Vcpu) -> Queue[float]:
    """Return where the time will be at which the vCPU is about to enter the guest first."""
    times = Queue[float](maxsize=1)
    run = vcpu.run

    def run_and_tell() -> int:
        with suppress(Full):
            times.put_nowait(time.monotonic())
        return run()

    vcpu.run = run_and_tell  # type: ignore[method-assign]
    return times


def measure_command(snapshot: Snapshot, program: str) -> list[float]:
    """Seconds from asking for a restored guest to the output of a command in it."""
    rounds = []
    for _ in range(COMMAND_ROUNDS):
        started = time.monotonic()
        with Guest(snapshot, GUEST) as guest:
            assert guest.run([program, "there"]).stdout == "there\n"
            rounds.append(time.monotonic() - started)
    return rounds


def idle_guest() -> Snapshot:
    """Return a guest that waits for commands, and has a small program to run."""
    say = compiled_freestanding(recipe_folder() / "say.c")
    if say is None:
        raise SystemExit("the small program of the guest needs gcc")
    initrd = build_initramfs({f"/bin/{SMALL_PROGRAM}": say})
    config = MachineConfig(agent="init", console="virtio", initrd=initrd)
    with Machine(config) as machine:
        machine.boot()
        machine.agent.wait_ready(DEADLINE_SECONDS)
        return machine.snapshot()


def talking_guest(idle: Snapshot) -> Snapshot:
    """Return the guest while it prints, without end."""
    talk = "while :; do echo there; done >/dev/console &"
    with Machine.restore(idle) as machine:
        machine.resume()
        machine.agent.run(["setsid", "sh", "-c", talk], timeout=DEADLINE_SECONDS)
        machine.console.wait_for("there", timeout=DEADLINE_SECONDS)
        return machine.snapshot()


def measure_restoring_process(folder: Path, *words: str) -> list[float]:
    """Seconds from process start to the guest's first output."""
    command = [sys.executable, "-m", "vmm", "run", "--restore", str(folder), *words]
    rounds = []
    for _ in range(COMMAND_ROUNDS):
        started = time.monotonic()
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            rounds.append(seconds_until(process, b"there", started))
    return rounds


def measure_clones(snapshot: Snapshot) -> float:
    """Bytes that each of many idle guests of one snapshot takes beyond what they share."""
    before = anonymous_bytes()
    with ExitStack() as stack:
        for _ in range(CLONES):
            guest = stack.enter_context(Guest(snapshot, GUEST))
            guest.machine.agent.ping(DEADLINE_SECONDS)
        return (anonymous_bytes() - before) / CLONES


def report_snapshots() -> None:
    """Measure what a restored guest costs."""
    with ExitStack() as stack:
        snapshot = stack.enter_context(idle_guest())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        snapshot.save(folder / "idle")
        with talking_guest(snapshot) as talking:
            talking.save(folder / "talking")
        entry = milliseconds(measure_restore(snapshot))
        print(f"restore to the first guest entry:   {entry}   (aim: at most 10 ms)")
        process = milliseconds(measure_restoring_process(folder / "talking"))
        print(f"vmm run --restore to first output:  {process}   (aim: at most 250 ms)")
        process = milliseconds(measure_restoring_process(folder / "idle", "--", "echo", "there"))
        print(f"  to that of a command of BusyBox:  {process}")
        command = milliseconds(measure_command(snapshot, SMALL_PROGRAM))
        print(f"guest asked for to command output:  {command}   (aim: at most 300 ms)")
        command = milliseconds(measure_command(snapshot, "echo"))
        print(f"  to that of a command of BusyBox:  {command}")
        clone = measure_clones(snapshot) / (1 << 20)
        print(f"memory of each of {CLONES} idle clones:    {clone:6.1f} MiB  (aim: at most 20 MiB)")
        left = left_behind(lambda: (measure_restore(snapshot), measure_clones(snapshot)))
        print(f"left by {RESTORE_ROUNDS} restores, {CLONES} at once:  {left}   (aim: none)")


def main() -> None:
    """Measure and print."""
    print(f"host: {host_kind()}, {os.cpu_count()} processors")
    interpreter, start = measure_interpreter(), measure_start()
    ratio = statistics.median(start) / statistics.median(interpreter)
    print(f"process start to first guest entry: {milliseconds(start)}")
    print(f"  the interpreter alone takes:      {milliseconds(interpreter)}")
    print(f"  that is {ratio:.1f} times the interpreter   (aim: at most 4)")
    boots, peak = measure_boot()
    boot = milliseconds(boots)
    print(f"process start to first line of init: {boot}   (aim: at most 8000 ms)")
    print(f"peak memory beyond guest RAM:       {peak / (1 << 20):6.1f} MiB  (aim: at most 35 MiB)")
    report_snapshots()
    print(f"left behind by a machine:            {left_behind(boot_and_end)}   (aim: none)")


if __name__ == "__main__":
    main()
