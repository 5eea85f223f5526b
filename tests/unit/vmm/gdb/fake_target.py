"""A machine without KVM for a debugger: two vCPUs, and some memory at a virtual address."""

from collections.abc import Mapping

from virtio.errors import ConfigurationError
from vmm.ending.ending import End, Ending
from vmm.gdb.stop import SIGINT, Kind, Move, Stop
from vmm.x86 import Register

BASE = 0xFFFF_8000_0000_0000
SIZE = 0x2000


class FakeState:
    """Registers whose values are their bytes' count, but for those that were written."""

    def __init__(self, written: dict[Register, bytes]) -> None:
        self._written = written

    def read(self, register: Register) -> bytes:
        return self._written.get(register, bytes([register.bytes]) * register.bytes)

    def write(self, register: Register, data: bytes) -> None:
        self._written[register] = data

    def store(self) -> None:
        """Nothing else keeps them."""


class FakeTarget:
    """What a session wants of the machine, and what it wanted."""

    def __init__(self) -> None:
        self.ending: Ending | None = None
        self.vcpus = 2
        self.memory = bytearray(range(256)) * (SIZE // 256)
        self.moves: list[dict[int, Move]] = []
        self.breakpoints: list[tuple[Kind, int, int]] = []
        self.written: dict[Register, bytes] = {}
        self.ended = False

    def stays(self, ending: Ending) -> bool:
        return ending.end is End.PANIC

    def interrupt(self) -> Stop:
        return Stop(0, SIGINT)

    def move(self, moves: Mapping[int, Move]) -> None:
        self.moves.append(dict(moves))

    def read_memory(self, vcpu: int, address: int, length: int) -> bytes:
        at = address - BASE
        return bytes(self.memory[at : at + length]) if 0 <= at < SIZE else b""

    def write_memory(self, vcpu: int, address: int, data: bytes) -> None:
        at = address - BASE
        if not 0 <= at <= SIZE - len(data):
            raise ConfigurationError("no memory")
        self.memory[at : at + len(data)] = data

    def state(self, vcpu: int) -> FakeState:
        return FakeState(self.written)

    def write_registers(self, vcpu: int, values: Mapping[Register, bytes]) -> None:
        self.written |= values

    def describe(self, vcpu: int) -> str:
        return f"vCPU {vcpu}"

    def insert(self, kind: Kind, address: int, length: int, vcpu: int) -> bool:
        if not 0 <= address - BASE < SIZE:
            raise ConfigurationError("nothing is mapped there")
        self.breakpoints.append((kind, address, length))
        return kind != "rwatch"

    def remove(self, kind: Kind, address: int, length: int) -> None:
        if (kind, address, length) in self.breakpoints:
            self.breakpoints.remove((kind, address, length))

    def end(self) -> None:
        self.ended = True
