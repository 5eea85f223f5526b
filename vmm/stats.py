"""Counts of a machine: exits, emulated instructions, and each device's traffic."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from transport.stats import TransportStats
from vmm.hardware import Hardware
from vmm.kvm.vcpu import EXIT_NAMES
from vmm.vcpu import VcpuThread


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts since the machine booted.

    ``exits`` counts by reason, over all vCPUs; ``emulated`` by instruction that our own emulator
    executed, as KVM's lacks it; ``devices`` by name; ``unclaimed`` by port that no device answers.
    """

    exits: dict[str, int]
    emulated: dict[str, int]
    devices: dict[str, TransportStats]
    unclaimed: dict[int, int]

    @classmethod
    def collect(cls, threads: Sequence[VcpuThread], hardware: Hardware) -> "Statistics":
        """Add up the counts of a machine's parts."""
        exits: Counter[int] = Counter()
        emulated: Counter[str] = Counter()
        for thread in threads:
            exits.update(thread.exits)
            emulated.update(thread.emulated)
        return cls(
            exits={EXIT_NAMES.get(reason, str(reason)): n for reason, n in exits.most_common()},
            emulated=dict(emulated.most_common()),
            devices={transport.name: transport.stats for transport in hardware.transports},
            unclaimed=dict(hardware.ports.unclaimed.most_common()),
        )

    def lines(self) -> list[str]:
        """Return the counts as lines of text."""
        lines = [f"exits: {_pairs(self.exits)}"]
        if self.emulated:
            lines.append(f"emulated instructions: {_pairs(self.emulated)}")
        for name, stats in self.devices.items():
            lines.append(
                f"{name}: {stats.kicks} kicks, {stats.completions} completions,"
                f" {stats.bytes_read} bytes read, {stats.bytes_written} bytes written,"
                f" {stats.interrupts} interrupts, {stats.config_changes} configuration changes"
            )
        if self.unclaimed:
            ports = {f"{port:#x}": count for port, count in self.unclaimed.items()}
            lines.append(f"accesses to absent ports: {_pairs(ports)}")
        return lines


def _pairs(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
