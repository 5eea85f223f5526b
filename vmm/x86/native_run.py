"""Running a vCPU by ``run.c``, which comes back for what needs Python only.

Importing it raises ``ImportError`` where the C part was not built.
"""

from functools import partial

from vmm.kvm.vcpu import Vcpu
from vmm.x86._run import ffi, lib


class NativeRun:
    """Lets C enter the guest for ``vcpu``, and counts the instructions that it completed."""

    def __init__(self, vcpu: Vcpu) -> None:
        self._completed = ffi.new("struct completed *")
        with ffi.from_buffer("uint8_t[]", vcpu.run_area) as area:
            # The vCPU keeps its area where it is for as long as it can be entered.
            vcpu.enter = partial(lib.run_vcpu, vcpu.fd, ffi.cast("void *", area), self._completed)

    @property
    def counts(self) -> dict[str, int]:
        """How many instructions were completed, by mnemonic; without those that did not occur."""
        counts = {"clac": self._completed.clac, "stac": self._completed.stac}
        return {name: count for name, count in counts.items() if count}
