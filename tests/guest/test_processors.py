"""A kernel of our own starts up to 16 processors, and interrupts each of them.

It reads their IDs from ACPI's MADT, and compares them with those of CPUID and of the local APICs.
"""

import re
from dataclasses import replace

import pytest

from tests.guest.own_kernel import own_kernel
from virtio.errors import ConfigurationError
from vmm import CpuTopology, Machine, MachineConfig
from vmm.kvm.system import KVM_CAP_MAX_VCPU_ID, KVM_CAP_MAX_VCPUS, Kvm

DEADLINE = 120.0
LINE = re.compile(r".+\n")


def machine_of(topology: CpuTopology) -> MachineConfig:
    kernel = own_kernel("processors", bits=32)
    return MachineConfig(
        kernel=kernel, cpus=topology.cpus, cpu_topology=topology, memory_bytes=32 << 20, rng=False
    )


def answer(cpus: int) -> str:
    others = cpus - 1
    return (
        f"{cpus} processors, {others} started, 0 with another id in CPUID,"
        f" {others} reached by x2APIC\n"
    )


@pytest.mark.parametrize("topology", [CpuTopology(2, 4, 2), CpuTopology(cores=16)])
def test_sixteen_processors_start_take_interrupts_and_stop(topology: CpuTopology) -> None:
    with Machine(machine_of(topology)) as machine:
        machine.boot()
        seen = machine.console.wait_for(LINE, timeout=DEADLINE)
        positions = [line for line in machine.describe() if line.startswith("vCPU ")]
        machine.stop()
        alive = [thread for thread in machine.threads if thread._thread.is_alive()]

    assert seen == answer(16)
    assert [line.partition(":")[0] for line in positions] == [f"vCPU {n}" for n in range(16)]
    assert sum("halted" in line for line in positions) == 15
    assert alive == []


def test_ids_with_gaps_are_the_same_everywhere_and_after_a_restore() -> None:
    with Machine(machine_of(CpuTopology(sockets=2, cores=3))) as machine:
        machine.boot()
        assert machine.console.wait_for(LINE, timeout=DEADLINE) == answer(6)
        snapshot = machine.snapshot()
    with snapshot, Machine.restore(snapshot) as restored:
        restored.resume()
        for _ in range(2):
            restored.console.send("x")
            found = restored.console.wait_for(LINE, timeout=DEADLINE)
            assert found == "5 interrupted again\n"


def test_processors_that_nobody_started_are_told_and_saved() -> None:
    config = replace(machine_of(CpuTopology(cores=3)), kernel=own_kernel("disk", bits=32))
    with Machine(config) as machine:
        machine.load()
        with machine.snapshot() as snapshot, Machine.restore(snapshot) as restored:
            restored.resume()
            assert restored.wait(DEADLINE).status == 3
            positions = [line for line in restored.describe() if line.startswith("vCPU ")]

    assert [", not started)" in line for line in positions] == [False, True, True]


@pytest.mark.parametrize(
    ("capability", "extent", "message"),
    [
        (KVM_CAP_MAX_VCPUS, 5, "6 processors: this host allows 1 to 5"),
        (KVM_CAP_MAX_VCPU_ID, 6, "have IDs up to 6, this host takes 0 to 5"),
    ],
)
def test_a_host_that_takes_fewer_says_so(
    monkeypatch: pytest.MonkeyPatch, capability: int, extent: int, message: str
) -> None:
    check = Kvm.check
    monkeypatch.setattr(
        Kvm, "check", lambda kvm, number: extent if number == capability else check(kvm, number)
    )

    with pytest.raises(ConfigurationError, match=message):
        Machine(machine_of(CpuTopology(sockets=2, cores=3))).__enter__()
