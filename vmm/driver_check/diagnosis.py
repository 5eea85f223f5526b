"""A diagnosis: what a driver did, which rule that is, and what to do next, in three lines."""

from __future__ import annotations

from dataclasses import dataclass

from vmm.driver_check.duties import Mistake
from vmm.trace.events import NO_QUEUE


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One mistake of a device's driver; ``at`` is in nanoseconds of ``CLOCK_MONOTONIC``."""

    mistake: Mistake
    device: str
    queue: int
    did: str
    expected: str
    next: str
    at: int = 0

    @property
    def id(self) -> str:
        """The name of the mistake, such as ``never-reset``."""
        return self.mistake.id

    @property
    def place(self) -> str:
        """Device and queue, as the trace has them."""
        return self.device if self.queue == NO_QUEUE else f"{self.device}/{self.queue}"

    @property
    def lines(self) -> tuple[str, str, str]:
        """The three lines."""
        duty = self.mistake.duty
        source = duty.section if duty.section.startswith("PCI") else f"VIRTIO 1.2, {duty.section}"
        return (
            f"{self.place}: the driver {self.did} [{self.id}]",
            f'rule {duty.id} ({source} "{duty.title}"): {duty.says}',
            f"the device expected {self.expected}; next: {self.next}",
        )
