"""All vCPUs of a machine, each with its thread: made, started, held and stopped together."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from vmm.exits import OnEnd
from vmm.hardware import Hardware
from vmm.vcpu import VcpuThread
from vmm.x86 import Vcpu


class Vcpus:
    """The vCPUs of a machine, in the order of their indices, in ``threads``.

    ``on_end`` is called on the thread of a vCPU that cannot go on, ``begin`` on each thread first.
    """

    def __init__(self, on_end: OnEnd, begin: Callable[[], object] | None = None) -> None:
        self._begin = begin
        self.threads: list[VcpuThread] = []
        self._on_end = on_end

    def add(self, hardware: Hardware, resources: ExitStack) -> Vcpu:
        """Create the next vCPU; ``resources`` closes it."""
        vcpu = resources.enter_context(hardware.platform.create_vcpu(len(self.threads)))
        emulator = hardware.platform.emulator(vcpu)
        thread = VcpuThread(
            vcpu, hardware.ports, hardware.mmio, emulator, self._on_end, self._begin
        )
        self.threads.append(thread)
        return vcpu

    def start(self, *, held: bool = False) -> None:
        """Enter the guest on every vCPU, or hold each before its first entry."""
        for thread in self.threads:
            thread.start(held=held)

    def stop(self) -> None:
        """Make every vCPU leave the guest for good, and wait until it has."""
        for thread in self.threads:
            thread.begin_stop()
        for thread in self.threads:
            thread.stop()

    def pause(self) -> None:
        """Hold every vCPU out of the guest until :meth:`resume`."""
        _pause(self.threads)

    def resume(self) -> None:
        """Let every vCPU that is held go on."""
        for thread in self.threads:
            thread.resume()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the vCPUs out of the guest for the block, unless they are already."""
        running = [thread for thread in self.threads if not thread.paused]
        _pause(running)
        try:
            yield
        finally:
            for thread in running:
                thread.resume()

    def call(self, function: Callable[[Vcpu], Any]) -> list[Any]:
        """Return what ``function`` returns for each vCPU, run while that is out of the guest."""
        return [thread.call(function) for thread in self.threads]


def _pause(threads: Sequence[VcpuThread]) -> None:
    """Hold vCPUs out of the guest, all at the same time.

    One after the other, those that still run would wait for locks that a held one has.
    """
    for thread in threads:
        thread.begin_pause()
    for thread in threads:
        thread.wait_paused()
