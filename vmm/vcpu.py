"""A vCPU's thread: enter the guest, serve the exit, enter again.

Another thread that wants something of the vCPU (its position, its state, a pause) asks for it with
:meth:`VcpuThread.call`, which runs a function on this thread between two entries. So nobody looks
at the registers while the guest runs.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from virtio.errors import HostError, InternalError
from virtio.log import Logger
from vmm.ending.ending import End
from vmm.exits import Bus, ExitHandlers, InstructionEmulator, OnEnd
from vmm.host.gil import use_exact_timers
from vmm.host.threads import start_thread
from vmm.kvm import vcpu as kvm
from vmm.x86 import Vcpu

logger = Logger(__name__)

Handler = Callable[[], bool]


class VcpuThread:
    """One vCPU and the thread that runs it.

    ``cpu_clock`` is the clock of clock_gettime(2) for the processor time of the thread once it is
    started: it stands still while the vCPU is halted.
    ``begin`` is called first on the thread, and ``on_end(end, message, report)`` when the vCPU
    cannot go on; the thread then ends.
    """

    def __init__(
        self,
        vcpu: Vcpu,
        ports: Bus,
        mmio: Bus,
        emulator: InstructionEmulator,
        on_end: OnEnd,
        begin: Callable[[], object] | None = None,
    ) -> None:
        self._begin = begin
        self.vcpu = vcpu
        self._exits: Counter[int] = Counter()
        self._emulator = emulator
        self._on_end = on_end
        self._serving = ExitHandlers(vcpu, ports, mmio, emulator, on_end)
        self._handlers = self._serving.handlers | {kvm.KVM_EXIT_INTR: self._serve_calls}
        self._watched: dict[int, tuple[Handler, Handler]] = {}
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

    @property
    def handlers(self) -> dict[int, Callable[[], bool]]:
        """The handlers of exits, by reason; a debugger changes them while the vCPU is held."""
        return self._handlers

    def start(self, *, held: bool = False) -> None:
        """Let the vCPU run, or hold it out of the guest before its first entry."""
        if held:
            self._holding = threading.Event()
        start_thread(self._thread)
        self._ready.wait()

    def stop(self) -> None:
        """Make the vCPU leave the guest, and wait until its thread has ended."""
        self.begin_stop()
        if self._thread.ident is not None:
            self._thread.join()

    def begin_stop(self) -> None:
        """Begin what :meth:`stop` does, and do not wait for it."""
        self._stopping = True
        self.resume()
        self._kick()

    @property
    def is_current(self) -> bool:
        """Whether the caller runs on the thread of this vCPU, out of the guest."""
        return self._thread.ident == threading.get_ident()

    @property
    def paused(self) -> bool:
        """Whether the vCPU is held out of the guest."""
        return self._holding is not None

    def pause(self) -> None:
        """Hold the vCPU out of the guest until :meth:`resume`; returns when it is out."""
        self.begin_pause()
        self.wait_paused()

    def begin_pause(self) -> None:
        """Begin what :meth:`pause` does, and do not wait for it."""
        with self._lock:
            if not self._running or self._holding is not None:
                return
            self._holding = threading.Event()
            self._released.clear()
        self._kick()

    def hold(self) -> bool:
        """As :meth:`pause`, from a handler on the vCPU's own thread; returns when it may go on."""
        with self._lock:
            if self._holding is None and not self._stopping:
                self._holding = threading.Event()
                self._released.clear()
        return self._serve_calls()

    def wait_paused(self) -> None:
        """Wait until a vCPU that is to be held is out of the guest."""
        held = self._holding
        if held is not None:
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

    def watch(self, wrap: Callable[[int, Handler], Handler] | None) -> None:
        """Serve exits by what ``wrap`` makes of reason and handler, or by the handlers alone.

        A debugger may have put handlers of its own over these, or under them: they stay.
        """
        for reason, (wrapper, inner) in self._watched.items():
            if self._handlers.get(reason) is wrapper:
                self._handlers[reason] = inner  # in place, as the thread looks there
        self._watched = {}
        if wrap is not None:
            for reason, inner in tuple(self._handlers.items()):
                self._handlers[reason] = wrapper = wrap(reason, inner)
                self._watched[reason] = wrapper, inner

    def _kick(self) -> None:
        with self._lock:
            if self._running and self._thread.ident is not None:
                kvm.kick(self._thread.ident)

    def _main(self) -> None:
        try:
            use_exact_timers()
            if self._begin is not None:
                self._begin()
            self.vcpu.accept_kicks()
            self.cpu_clock = time.pthread_getcpuclockid(threading.get_ident())
            self._running = True
            self._ready.set()
            self.vcpu.tell_clock()  # one that was restored stood still since it was saved
            if self._holding is not None:
                self._serve_calls()
            self._run()
        except HostError as error:
            self._on_end(End.VCPU_FAILED, f"vCPU {self.vcpu.index}: {error}", [])
        except Exception as error:
            logger.exception("vCPU %d: a bug in serving an exit", self.vcpu.index)
            # A log that keeps the record must not keep the guest's memory with it.
            from virtio.frames import clear_frames

            clear_frames(error.__traceback__)
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
                self._serving.fail(End.VCPU_FAILED, f"unexpected exit {name}")
                return
            if not handler():
                return

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
        self.vcpu.tell_clock()
        return True


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
