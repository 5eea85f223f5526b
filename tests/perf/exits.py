"""``make bench``, second part: what leaving the guest, a kick and an interrupt cost.

Guests of a few instructions, so that what is measured is KVM and our run loop. Where the kernel's
mode is emulated, the one or two instructions of the guest's loop are part of each figure.

``--boot`` counts the exits of the default guest's boot instead, by transport.
"""

import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.guest import bare_metal as bare
from virtio import DescriptorChain, Device, queue
from vmm import Machine, MachineConfig
from vmm.kvm.irqfd import IrqfdLine
from vmm.sandbox.mode import SandboxMode
from vmm.x86 import host_kind

EXITS = 20_000
EXITS_BESIDE_WORK = 1_000
ROUNDS_BESIDE_WORK = 7
KICKS = 5_000
INTERRUPTS = 20_000
DEADLINE_SECONDS = 120.0

TIMER_PORT = 0x700
WINDOW = 0xC000_1000
INTERRUPT_STATUS, STATUS, QUEUE_NOTIFY = 0x60, 0x70, 0x50
RINGS, ANSWER = 0x110_0000, 0x110_8000
INTERRUPT_GSI = 10


Devices = tuple[Callable[[], Device], ...]


CLOCKS = {"wall": time.perf_counter, "processor": time.thread_time}
"""What is measured: the time of the day, or of the processor on the vCPU's thread."""


class Timer:
    """A device on a port: the guest writes 1 there before and after what is measured, and 0."""

    def __init__(self, clock: str) -> None:
        self.times: list[float] = []
        self._clock = CLOCKS[clock]

    def read(self, offset: int, length: int) -> bytes:
        return bytes(length)

    def write(self, offset: int, data: bytes) -> None:
        if data[0]:
            self.times.append(self._clock())

    def seconds(self) -> float:
        began, ended = self.times
        return ended - began


class Doorbell(Device):
    """A device that answers every kick by counting in guest memory, and uses no buffer."""

    device_id = 42

    @queue(size=16)
    def requestq(self, chain: DescriptorChain) -> int:
        return 0

    def handle_queue(self, index: int) -> bool:
        if self.activation is not None:
            with self.activation.memory.view(ANSWER, 4).cast("I") as words:
                words[0] += 1
        return False


def repeated(count: int, code: bytes) -> bytes:
    """mov ecx, count; 1: code; dec ecx; jnz 1b"""
    return b"\xb9" + struct.pack("<I", count) + code + b"\x49\x75" + bytes([0x100 - len(code) - 3])


def timed(code: bytes) -> bytes:
    """Write 1 to the timer before and after the code, then end."""
    mark = bare.out8(TIMER_PORT, 1)
    return mark + code + mark + bare.out8(0xF4, 0) + bare.SPIN


def port_write() -> bytes:
    """mov dx, TIMER_PORT; xor eax, eax, before a loop of: out dx, al"""
    return b"\x66\xba" + struct.pack("<H", TIMER_PORT) + b"\x31\xc0"


@contextmanager
def machine_of(
    code: bytes, devices: Devices = (), *, sandbox: SandboxMode = "off", clock: str = "wall"
) -> Iterator[tuple[Machine, Timer]]:
    """Give a machine that will run the code, with a timer on its port."""
    timer = Timer(clock)
    with tempfile.TemporaryDirectory() as folder:
        kernel = bare.write_kernel(Path(folder, "kernel"), code)
        config = MachineConfig(
            kernel=kernel, memory_bytes=32 << 20, rng=False, devices=devices, sandbox=sandbox
        )
        with Machine(config) as machine:
            machine.hardware.ports.add(TIMER_PORT, 1, timer, "timer")
            machine.boot()
            yield machine, timer


def measure(
    code: bytes,
    count: int,
    devices: Devices = (),
    *,
    sandbox: SandboxMode = "off",
    clock: str = "wall",
) -> float:
    """Return the microseconds that each of ``count`` rounds in the guest's code took."""
    with machine_of(code, devices, sandbox=sandbox, clock=clock) as (machine, timer):
        ending = machine.wait(DEADLINE_SECONDS)
    if ending.status != 0:
        raise SystemExit(f"the guest ended otherwise than asked: {ending.message}")
    return timer.seconds() / count * 1e6


def port_exit(count: int = EXITS, *, sandbox: SandboxMode = "off", clock: str = "wall") -> float:
    """Microseconds for a port write that a device of ours takes, and back."""
    code = timed(port_write() + repeated(count, b"\xee"))
    return measure(code, count, sandbox=sandbox, clock=clock)


def mmio_exit(count: int = EXITS) -> float:
    """Microseconds for reading a register of a virtio-mmio device."""
    code = repeated(count, bare.load32(WINDOW + INTERRUPT_STATUS))
    return measure(timed(code), count, (Doorbell,))


def run_bytecode() -> None:
    """Compute for some microseconds in bytecode, which another thread can interrupt anywhere."""
    total = 0
    for number in range(100):
        total += number


def call_c() -> None:
    """Compute for some 10 us in a function of C, which no other thread can interrupt."""
    sum(range(1000))


@contextmanager
def working_thread(step: Callable[[], None]) -> Iterator[None]:
    """Let another Python thread compute meanwhile, by such steps."""
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            step()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def go_live(window: int = WINDOW) -> bytes:
    """Take a device to DRIVER_OK as VIRTIO 1.4 "Device Initialization" says, with one queue."""
    steps = [(STATUS, 0), (STATUS, 1), (STATUS, 3), (0x24, 1), (0x20, 1), (STATUS, 11)]
    steps += [(0x30, 0), (0x38, 16), (0x80, RINGS), (0x90, RINGS + 0x1000), (0xA0, RINGS + 0x2000)]
    steps += [(0x44, 1), (STATUS, 15)]
    return b"".join(bare.store32(window + register, value) for register, value in steps)


def kick(count: int = KICKS) -> float:
    """Microseconds from a kick by ioeventfd to the handler, and back by a word in memory."""
    # 1: mov eax, [ANSWER]; cmp eax, ebx; je 1b; mov ebx, eax
    await_answer = bare.load32(ANSWER) + bytes.fromhex("39 d8 74 f7 89 c3")
    wait_quiet = b"\x8b\x1d" + struct.pack("<I", ANSWER)
    one_round = bare.store32(WINDOW + QUEUE_NOTIFY, 0) + await_answer
    # The device is called once when it goes live: that answer must be in before the first round.
    first = b"\x31\xdb" + await_answer
    code = go_live() + first + wait_quiet + timed(repeated(count, one_round))
    return measure(code, count, (Doorbell,))


def interrupt(count: int = INTERRUPTS) -> float:
    """Microseconds that raising an interrupt by irqfd takes here, while the guest runs."""
    with machine_of(bare.out8(TIMER_PORT, 1) + bare.SPIN) as (machine, _):
        line = IrqfdLine(machine.hardware.vm, INTERRUPT_GSI)
        began = time.perf_counter()
        for _ in range(count):
            line.raise_()
        seconds = time.perf_counter() - began
        line.close()
    return seconds / count * 1e6


def main() -> None:
    """Measure, or count, and print."""
    if sys.argv[1:] == ["--boot"]:
        from tests.perf import boot_exits

        for line in boot_exits.lines():
            print(line)
        return
    print(f"host: {host_kind()}")
    idle = port_exit()
    print(f"port write, to a device and back:        {idle:8.1f} us")
    for step, name in ((run_bytecode, "runs bytecode"), (call_c, "calls C")):
        with working_thread(step):
            rounds = [port_exit(EXITS_BESIDE_WORK) for _ in range(ROUNDS_BESIDE_WORK)]
        label = f"  while another thread {name}:"
        print(f"{label:40} {median(rounds) / idle:8.1f} times as long   (aim: at most 2)")
    for name, figure in (
        ("virtio-mmio register read:", mmio_exit),
        ("kick to the handler, and back by memory:", kick),
        ("interrupt raised by irqfd:", interrupt),
    ):
        print(f"{name:40} {figure():8.1f} us")


if __name__ == "__main__":
    main()
