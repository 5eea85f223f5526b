"""The answers to a debugger's packets, whatever carries them.

GDB "Remote Protocol: Packets", "General Query Packets", "vCont packet".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from virtio.errors import ConfigurationError, Error
from virtio.log import Logger
from vmm.ending.ending import Ending
from vmm.gdb.packet import MAX_PACKET_BYTES, escaped, unescaped
from vmm.gdb.stop import SIGABRT, Kind, Move, Stop
from vmm.x86 import Register, debug_registers, target_description

logger = Logger(__name__)

_FEATURES: Final = (
    b"PacketSize=%x;qXfer:features:read+;QStartNoAckMode+;vContSupported+;swbreak+;hwbreak+"
    % MAX_PACKET_BYTES
)
_UNSUPPORTED: Final = b""
_OK: Final = b"OK"
_NO_MEMORY: Final = b"E0e"  # EFAULT
_BAD: Final = b"E16"  # EINVAL
_REFUSED: Final = b"E01"  # EPERM
_KINDS: Final[dict[bytes, Kind]] = {
    b"0": "swbreak",
    b"1": "hwbreak",
    b"2": "watch",
    b"3": "rwatch",
    b"4": "awatch",
}


_MOVES: Final[dict[bytes, Move]] = {
    b"c": "continue",
    b"C": "continue",
    b"s": "step",
    b"S": "step",
}


class State(Protocol):
    """The registers of a vCPU: see :class:`vmm.x86.debug.registers.DebugState`."""

    def read(self, register: Register, /) -> bytes: ...


class Target(Protocol):
    """What a session needs of the machine: see :class:`vmm.gdb.target.MachineTarget`."""

    @property
    def ending(self) -> Ending | None: ...

    def stays(self, ending: Ending, /) -> bool: ...

    @property
    def vcpus(self) -> int: ...

    def interrupt(self) -> Stop: ...

    def move(self, moves: Mapping[int, Move], /) -> None: ...

    def read_memory(self, vcpu: int, address: int, length: int, /) -> bytes: ...

    def write_memory(self, vcpu: int, address: int, data: bytes, /) -> None: ...

    def state(self, vcpu: int, /) -> State: ...

    def write_registers(self, vcpu: int, values: Mapping[Register, bytes], /) -> None: ...

    def describe(self, vcpu: int, /) -> str: ...

    def insert(self, kind: Kind, address: int, length: int, vcpu: int, /) -> bool: ...

    def remove(self, kind: Kind, address: int, length: int, /) -> None: ...

    def end(self) -> None: ...


Monitor = Callable[[str], str]


class Session:
    """Answers one debugger about ``target``, which it found stopped; ``monitor`` are our commands.

    ``running`` says that the machine was let go and the debugger waits for its stop. ``over`` is
    set when the debugger has said that it goes. ``acknowledges`` is whether packets are, which the
    debugger may switch off.
    """

    def __init__(self, target: Target, stop: Stop, monitor: Monitor) -> None:
        self.running = False
        self.over = False
        self.acknowledges = True
        self._target = target
        self._stop = stop
        self._monitor = monitor
        self._vcpu = stop.vcpu  # whose registers and memory are asked for
        self._commands: dict[bytes, Callable[[bytes], bytes | None]] = {
            b"?": lambda _: self._stopped(),
            b"c": lambda _: self._go(dict.fromkeys(self._all, "continue")),
            b"C": lambda _: self._go(dict.fromkeys(self._all, "continue")),
            b"D": self._detach,
            b"g": self._read_registers,
            b"G": self._write_registers,
            b"H": self._choose,
            b"k": self._kill,
            b"m": self._read_memory,
            b"M": self._write_hex,
            b"p": self._read_register,
            b"P": self._write_register,
            b"q": self._query,
            b"Q": self._set,
            b"s": lambda _: self._go({self._vcpu: "step"}),
            b"S": lambda _: self._go({self._vcpu: "step"}),
            b"T": self._is_alive,
            b"v": self._long_command,
            b"X": self._write_binary,
            b"z": self._remove,
            b"Z": self._insert,
        }

    def answer(self, content: bytes) -> bytes | None:
        """Return the answer to a packet's content; None when it comes later, or there is none."""
        command = self._commands.get(content[:1])
        if command is None:
            return _UNSUPPORTED
        try:
            return command(content[1:])
        except (ValueError, LookupError):  # a number that is none, or a part that is missing
            return _BAD
        except ConfigurationError as error:
            logger.info("debugger: %s", error)
            return _REFUSED
        except (Error, OSError) as error:  # of the host, and not of the connection
            logger.warning("debugger: %s", error)
            return _BAD

    def stopped(self, stop: Stop) -> bytes:
        """Return what a waiting debugger is told of a stop."""
        self.running = False
        self._stop = stop
        self._vcpu = stop.vcpu
        return self._stopped()

    def ended(self, ending: Ending) -> bytes:
        """Return what a debugger is told of the guest's end: a crash leaves it all to look at."""
        self.running = False
        if not self._target.stays(ending):
            return b"W%02x" % (ending.status & 0xFF)
        self._stop = Stop(self._stop.vcpu, SIGABRT)
        return self._stopped()

    def interrupt(self) -> bytes | None:
        """Stop a running machine for the debugger; None for one that is stopped."""
        return self.stopped(self._target.interrupt()) if self.running else None

    @property
    def _all(self) -> range:
        return range(self._target.vcpus)

    def _stopped(self) -> bytes:
        stop = self._stop
        reason = b""
        if stop.kind in ("swbreak", "hwbreak"):
            reason = b"%s:;" % stop.kind.encode()
        elif stop.kind:
            reason = b"%s:%x;" % (stop.kind.encode(), stop.address)
        return b"T%02xthread:%x;%s" % (stop.signal, stop.vcpu + 1, reason)

    def _go(self, moves: dict[int, Move]) -> bytes | None:
        if (ending := self._target.ending) is not None:
            # Nothing can go on: the debugger is told how it ended, and has seen what it wanted.
            self.over = True
            return b"W%02x" % (ending.status & 0xFF)
        self._target.move(moves)
        self.running = True
        return None

    def _detach(self, _: bytes) -> bytes:
        self.over = True
        return _OK

    def _kill(self, _: bytes) -> None:
        self._target.end()
        self.over = True

    def _thread(self, text: bytes) -> int:
        """Return the vCPU of a thread's number; 0 is any, for which the one that stopped does."""
        number = int(text, 16)
        if number == 0:
            return self._vcpu
        if number - 1 not in self._all:
            raise ValueError
        return number - 1

    def _choose(self, text: bytes) -> bytes:
        if text[:1] in (b"g", b"c") and text[1:] != b"-1":
            chosen = self._thread(text[1:])
            if text[:1] == b"g":
                self._vcpu = chosen
        return _OK

    def _is_alive(self, text: bytes) -> bytes:
        self._thread(text)
        return _OK

    def _read_registers(self, _: bytes) -> bytes:
        state = self._target.state(self._vcpu)
        return b"".join(state.read(one).hex().encode() for one in debug_registers())

    def _read_register(self, text: bytes) -> bytes:
        register = debug_registers()[_index(text)]
        return self._target.state(self._vcpu).read(register).hex().encode()

    def _write_registers(self, text: bytes) -> bytes:
        data = bytes.fromhex(text.decode())
        values, at = {}, 0
        for one in debug_registers():
            values[one] = data[at : at + one.bytes]
            at += one.bytes
        if at != len(data):
            return _BAD
        self._target.write_registers(self._vcpu, values)
        return _OK

    def _write_register(self, text: bytes) -> bytes:
        number, _, value = text.partition(b"=")
        register, data = debug_registers()[_index(number)], bytes.fromhex(value.decode())
        if len(data) != register.bytes:
            return _BAD
        self._target.write_registers(self._vcpu, {register: data})
        return _OK

    def _read_memory(self, text: bytes) -> bytes:
        address, length = _numbers(text, 2)
        data = self._target.read_memory(self._vcpu, address, min(length, MAX_PACKET_BYTES // 2 - 8))
        return data.hex().encode() if data or not length else _NO_MEMORY

    def _write_hex(self, text: bytes) -> bytes:
        place, _, value = text.partition(b":")
        return self._write(place, bytes.fromhex(value.decode()))

    def _write_binary(self, text: bytes) -> bytes:
        place, _, value = text.partition(b":")
        return self._write(place, unescaped(value))

    def _write(self, place: bytes, data: bytes) -> bytes:
        address, length = _numbers(place, 2)
        if length != len(data):
            return _BAD
        try:
            self._target.write_memory(self._vcpu, address, data)
        except ConfigurationError:
            return _NO_MEMORY
        return _OK

    def _insert(self, text: bytes) -> bytes:
        kind, place = text.split(b";")[0].split(b",", 1)
        if kind not in _KINDS:
            return _UNSUPPORTED
        address, length = _numbers(place, 2)
        there = self._target.insert(_KINDS[kind], address, length, self._vcpu)
        return _OK if there else _UNSUPPORTED

    def _remove(self, text: bytes) -> bytes:
        kind, place = text.split(b";")[0].split(b",", 1)
        if kind not in _KINDS:
            return _UNSUPPORTED
        address, length = _numbers(place, 2)
        self._target.remove(_KINDS[kind], address, length)
        return _OK

    def _long_command(self, text: bytes) -> bytes | None:
        if text == b"Cont?":
            return b"vCont;c;C;s;S"
        if text.startswith(b"Cont;"):
            return self._continue(text.removeprefix(b"Cont;"))
        if text.startswith(b"Kill"):
            self._kill(b"")
            return _OK
        return _UNSUPPORTED

    def _continue(self, text: bytes) -> bytes | None:
        moves: dict[int, Move] = {}
        for action in text.split(b";"):
            what, colon, thread = action.partition(b":")
            # The first action that fits a thread is its own.
            which = [self._thread(thread)] if colon and thread != b"-1" else list(self._all)
            how = _MOVES[what[:1]]
            moves = dict.fromkeys(which, how) | moves
        return self._go(moves)

    def _set(self, text: bytes) -> bytes:
        if text == b"StartNoAckMode":
            self.acknowledges = False
            return _OK
        return _UNSUPPORTED

    def _query(self, text: bytes) -> bytes:
        name, _, rest = text.partition(b":")
        if name == b"Supported":
            return _FEATURES
        if name == b"fThreadInfo":
            return b"m" + b",".join(b"%x" % (one + 1) for one in self._all)
        if name == b"sThreadInfo":
            return b"l"
        if name == b"C":
            return b"QC%x" % (self._vcpu + 1)
        if name == b"Attached":
            return b"1"  # so that a debugger that ends lets the machine go on
        if name == b"Xfer" and rest.startswith(b"features:read:target.xml:"):
            return _part_of(target_description(), rest.rpartition(b":")[2])
        first, _, argument = text.partition(b",")
        if first == b"ThreadExtraInfo":
            return self._target.describe(self._thread(argument)).encode().hex().encode()
        if first == b"Rcmd":
            return self._command(argument)
        return _UNSUPPORTED

    def _command(self, text: bytes) -> bytes:
        words = bytes.fromhex(text.decode()).decode(errors="replace")
        try:
            told = self._monitor(words)
        except ConfigurationError as error:
            told = f"{error}\n"
        room = (MAX_PACKET_BYTES - 16) // 2
        data = told.encode(errors="replace")
        if len(data) > room:
            data = data[: room - 4] + b"...\n"
        return data.hex().encode() or _OK


def _index(text: bytes) -> int:
    number = int(text, 16)
    if not 0 <= number < len(debug_registers()):
        raise ValueError
    return number


def _numbers(text: bytes, count: int) -> list[int]:
    """Return so many hexadecimal numbers, with commas between them."""
    numbers = [int(one, 16) for one in text.split(b",")]
    if len(numbers) != count or not all(0 <= one < 1 << 64 for one in numbers):
        raise ValueError
    return numbers


def _part_of(data: bytes, place: bytes) -> bytes:
    """Return the part of a document that is asked for, and whether there is more."""
    offset, length = _numbers(place, 2)
    part = data[offset : offset + min(length, MAX_PACKET_BYTES // 2)]
    more = b"m" if offset + len(part) < len(data) else b"l"
    return more + escaped(part)
