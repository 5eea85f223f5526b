"""A vCPU's thread: enter the guest, serve the exit, enter again.

Port and MMIO exits go to the two buses. Anything else that another thread wants of a vCPU (where it
is, its state, to pause) it asks with :meth:`VcpuThread.call`, which runs a function on this thread
between two entries; so the registers are never looked at while the guest runs.
"""

import logging
import struct
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from virtio.errors import HostError, InternalError
from vmm.ending.ending import End
from vmm.host.gil import have_exact_timers
from vmm.kvm import vcpu as kvm
from vmm.x86 import Vcpu

logger = logging.getLogger(__name__)

_IO = struct.Struct("<BBHIQ")  # at 0x20: direction, size, port, count, data_offset
_MMIO = struct.Struct("<Q8sIB")  # at 0x20: phys_addr, data, len, is_write
_MMIO_DATA: Final = 0x28
_PAYLOAD: Final = 0x20
_IO_OUT: Final = 1

_EMULATION_FAILURE: Final = 1  # KVM_INTERNAL_ERROR_EMULATION
_INSTRUCTION_BYTES_VALID: Final = 1


class Bus(Protocol):
    """Where the addresses of ports, or of MMIO, lead."""

    def read(self, address: int, length: int, /) -> bytes: ...

    def write(self, address: int, data: bytes, /) -> None: ...


class InstructionEmulator(Protocol):
    """Executes an instruction that KVM's emulator gave up on.

    ``counts`` counts them by mnemonic, ``exits_served`` those that needed no exit to Python.
    """

    @property
    def counts(self) -> Mapping[str, int]: ...

    @property
    def exits_served(self) -> int: ...

    def emulate(self, cpu: Vcpu, instruction: bytes, /) -> bool: ...

    def describe_failure(self, cpu: Vcpu, instruction: bytes, /) -> str: ...


class VcpuThread:
    """One vCPU and the thread that runs it.

    ``cpu_clock`` is the clock of clock_gettime(2) for the processor time of the thread once it is
    started: it stands still while the vCPU is halted.
    ``on_end(end, message, report)`` is called, on this thread, when the vCPU cannot go on: for the
    guest's doing, KVM's, or a bug. The thread then waits for :meth:`stop`.
    """

    def __init__(
        self,
        vcpu: Vcpu,
        ports: Bus,
        mmio: Bus,
        emulator: InstructionEmulator,
        on_end: Callable[[End, str, list[str]], None],
    ) -> None:
        self.vcpu = vcpu
        self._exits: Counter[int] = Counter()
        self._ports = ports
        self._mmio = mmio
        self._emulator = emulator
        self._on_end = on_end
        self._handlers: dict[int, Callable[[], bool]] = {
            kvm.KVM_EXIT_IO: self._serve_io,
            kvm.KVM_EXIT_MMIO: self._serve_mmio,
            kvm.KVM_EXIT_INTR: self._serve_calls,
            kvm.KVM_EXIT_INTERNAL_ERROR: self._serve_internal_error,
            kvm.KVM_EXIT_SHUTDOWN: self._serve_shutdown,
            kvm.KVM_EXIT_FAIL_ENTRY: self._serve_fail_entry,
        }
        self._lock = threading.Lock()  # guards _calls, _running and _holding
        self._calls: deque[_Call] = deque()
        self._running = False
        self._holding: threading.Event | None = None  # set when the vCPU is out of the guest
        self._released = threading.Event()
        self._ready = threading.Event()
        self.cpu_clock = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name=f"vcpu-{vcpu.index}", daemon=True)

    @property
    def exits(self) -> Counter[int]:
        """How often the vCPU has left the guest, by reason."""
        return self._exits + Counter({kvm.KVM_EXIT_INTERNAL_ERROR: self._emulator.exits_served})

    @property
    def emulated(self) -> Mapping[str, int]:
        """How many instructions our own emulator executed, by mnemonic."""
        return self._emulator.counts

    def start(self) -> None:
        """Let the vCPU run."""
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Make the vCPU leave the guest, and wait until its thread has ended."""
        self._stopping = True
        self.resume()
        self._kick()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def paused(self) -> bool:
        """Whether the vCPU is held out of the guest."""
        return self._holding is not None

    def pause(self) -> None:
        """Hold the vCPU out of the guest until :meth:`resume`; returns when it is out."""
        with self._lock:
            if not self._running or self._holding is not None:
                return
            self._holding = held = threading.Event()
            self._released.clear()
        self._kick()
        held.wait()

    def resume(self) -> None:
        """Let a held vCPU go on; harmless for one that is not."""
        with self._lock:
            held, self._holding = self._holding, None
        if held is not None:
            held.set()
        self._released.set()

    def call(self, function: Callable[[Vcpu], Any]) -> Any:
        """Return ``function(vcpu)``, run while the vCPU is out of the guest.

        On the vCPU's own thread as long as that runs and is not held, else on the caller's.
        """
        call = _Call(function)
        with self._lock:
            held = self._holding is not None and self._holding.is_set()
            running = self._running and not held
            if running:
                self._calls.append(call)
        if running:
            self._kick()
            call.done.wait()
        else:
            call.perform(self.vcpu)
        return call.outcome()

    def _kick(self) -> None:
        with self._lock:
            if self._running and self._thread.ident is not None:
                kvm.kick(self._thread.ident)

    def _main(self) -> None:
        try:
            have_exact_timers()
            self.vcpu.accept_kicks()
            self.cpu_clock = time.pthread_getcpuclockid(threading.get_ident())
            self._running = True
            self._ready.set()
            self._run()
        except HostError as error:
            self._on_end(End.VCPU_FAILED, f"vCPU {self.vcpu.index}: {error}", [])
        except Exception as error:
            logger.exception("vCPU %d: a bug in serving an exit", self.vcpu.index)
            # A log that keeps the record must not keep the guest's memory with it.
            traceback.clear_frames(error.__traceback__)
            self._on_end(End.HOST_FAILED, f"vCPU {self.vcpu.index}: {error!r}", [])
        finally:
            with self._lock:
                self._running = False
                calls, self._calls = self._calls, deque()
                if self._holding is not None:
                    self._holding.set()
            self._ready.set()
            for call in calls:
                call.perform(self.vcpu)

    def _run(self) -> None:
        run, exits, handlers = self.vcpu.run, self._exits, self._handlers
        while not self._stopping:
            reason = run()
            exits[reason] += 1
            handler = handlers.get(reason)
            if handler is None:
                name = kvm.EXIT_NAMES.get(reason, str(reason))
                self._fail(End.VCPU_FAILED, f"unexpected exit {name}")
                return
            if not handler():
                return

    def _fail(self, end: End, message: str, report: str = "") -> bool:
        self._on_end(end, f"vCPU {self.vcpu.index}: {message}", report.splitlines())
        return False

    def _serve_io(self) -> bool:
        area = self.vcpu.run_area
        direction, size, port, count, start = _IO.unpack_from(area, _PAYLOAD)
        for offset in range(start, start + size * count, size):
            if direction == _IO_OUT:
                self._ports.write(port, bytes(area[offset : offset + size]))
            else:
                area[offset : offset + size] = self._ports.read(port, size)
        return True

    def _serve_mmio(self) -> bool:
        area = self.vcpu.run_area
        address, data, length, is_write = _MMIO.unpack_from(area, _PAYLOAD)
        if is_write:
            self._mmio.write(address, data[:length])
        else:
            area[_MMIO_DATA : _MMIO_DATA + length] = self._mmio.read(address, length)
        return True

    def _serve_calls(self) -> bool:
        while True:
            with self._lock:
                if not self._calls:
                    if self._holding is None:
                        return True
                    self._holding.set()
                    break
                call = self._calls.popleft()
            call.perform(self.vcpu)
        self._released.wait()
        return True

    def _serve_internal_error(self) -> bool:
        suberror, data = self.vcpu.internal_error()
        if suberror != _EMULATION_FAILURE:
            return self._fail(End.VCPU_FAILED, f"KVM internal error, suberror {suberror}")
        instruction = _instruction_bytes(data)
        if self._emulator.emulate(self.vcpu, instruction):
            return True
        report = self._emulator.describe_failure(self.vcpu, instruction)
        return self._fail(End.VCPU_FAILED, "KVM could not emulate an instruction", report)

    def _serve_shutdown(self) -> bool:
        return self._fail(End.TRIPLE_FAULT, "triple fault")

    def _serve_fail_entry(self) -> bool:
        reason = self.vcpu.fail_entry_reason()
        return self._fail(End.VCPU_FAILED, f"the processor refused entry, reason {reason:#x}")


class _Call:
    """A function to run on a vCPU's thread, and what came of it."""

    def __init__(self, function: Callable[[Vcpu], Any]) -> None:
        self.done = threading.Event()
        self._function = function
        self._result: Any = None
        self._error: BaseException | None = None

    def perform(self, vcpu: Vcpu) -> None:
        try:
            self._result = self._function(vcpu)
        except BaseException as error:
            self._error = error
        finally:
            self.done.set()

    def outcome(self) -> Any:
        if not self.done.is_set():
            raise InternalError("a vCPU call has no outcome before it is done")
        if self._error is not None:
            raise self._error
        return self._result


def _instruction_bytes(data: tuple[int, ...]) -> bytes:
    """Return the bytes of the instruction that KVM reports with an emulation failure.

    ``struct { __u64 flags; __u8 insn_size; __u8 insn_bytes[15]; }`` when flag bit 0 is set.
    """
    if len(data) < 2 or not data[0] & _INSTRUCTION_BYTES_VALID:
        return b""
    packed = struct.pack(f"<{len(data) - 1}Q", *data[1:])
    return packed[1 : 1 + min(packed[0], 15)]
