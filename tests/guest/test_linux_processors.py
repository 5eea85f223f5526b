"""Linux runs on each of several processors, each takes interrupts, and all of them stop."""

import os
import re
from collections.abc import Iterator

import pytest

from vmm import CpuTopology, Machine, MachineConfig
from vmm.disk.disk import DiskConfig
from vmm.image import default_kernel
from vmm.x86 import is_emulated_host

READY_SECONDS = 200
COMMAND_SECONDS = 120
DISK_BYTES = 1 << 20

pytestmark = pytest.mark.timeout(READY_SECONDS + 100)


@pytest.fixture(
    scope="module",
    params=[CpuTopology(sockets=2, threads=2), CpuTopology(sockets=2, cores=4, threads=2)],
    ids=str,
)
def machine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    topology: CpuTopology = request.param
    if is_emulated_host():
        pytest.skip("takes minutes on a host that emulates guest kernels")
    disk = tmp_path_factory.mktemp("processors") / "disk.img"
    disk.write_bytes(os.urandom(DISK_BYTES))
    default_kernel(cpus=topology.cpus)  # which takes minutes, once
    config = MachineConfig(
        cpus=topology.cpus, cpu_topology=topology, agent="init", disks=(DiskConfig(str(disk)),)
    )
    with Machine(config) as machine:
        machine.boot()
        machine.agent.wait_ready(READY_SECONDS)
        yield machine


def told(machine: Machine, script: str) -> str:
    done = machine.agent.run(["sh", "-ec", script], timeout=COMMAND_SECONDS)
    assert done.returncode == 0, str(done.stderr)
    return str(done.stdout)


def interrupts(machine: Machine, name: str) -> list[int]:
    """Return how many interrupts of this name each processor took."""
    [line] = re.findall(
        rf"^ *(?:\d+:.*{name}|{name}:.*)$", told(machine, "cat /proc/interrupts"), re.M
    )
    return [int(word) for word in line.split()[1 : 1 + machine.config.cpus]]


def test_each_processor_runs_programs(machine: Machine) -> None:
    numbers = range(machine.config.cpus)
    where = "cut -d' ' -f39 /proc/self/stat"
    found = told(machine, f"for n in $(seq 0 {numbers[-1]}); do taskset -c $n {where}; done")

    assert [int(word) for word in found.split()] == list(numbers)


def test_each_processor_takes_interrupts_of_its_timer_and_of_others(machine: Machine) -> None:
    assert all(interrupts(machine, "LOC"))
    assert all(interrupts(machine, "CAL"))


def test_interrupts_of_a_disk_come_to_the_processor_that_was_chosen(machine: Machine) -> None:
    read = "dd if=/dev/vda of=/dev/null bs=4096 count=16 iflag=direct 2>&1"
    irq = told(machine, "grep virtio /proc/interrupts | cut -d: -f1").split()
    for number in range(machine.config.cpus):
        for one in irq:
            told(machine, f"echo {1 << number:x} > /proc/irq/{one}/smp_affinity; {read}")
        before = interrupts(machine, "virtio0")
        told(machine, read)
        after = interrupts(machine, "virtio0")
        moved = [b - a for a, b in zip(before, after, strict=True)]

        assert moved[number] >= 16
        assert sum(moved) == moved[number]


def test_linux_finds_the_packages_cores_and_threads_that_were_asked_for(machine: Machine) -> None:
    topology = machine.config.cpu_topology
    assert topology is not None
    files = "physical_package_id core_id thread_siblings_list"
    folder = "/sys/devices/system/cpu/cpu$n/topology"
    script = f"for n in $(seq 0 {topology.cpus - 1}); do cd {folder}; echo $(cat {files}); done"
    found = [line.split() for line in told(machine, script).splitlines()]
    places = [
        (socket, core)
        for socket in range(topology.sockets)
        for core in range(topology.cores)
        for _ in range(topology.threads)
    ]
    siblings = [f"{n - n % 2}-{n - n % 2 + 1}" for n in range(topology.cpus)]

    assert [(int(line[0]), int(line[1])) for line in found] == places
    assert [line[2].replace(",", "-") for line in found] == siblings


def test_all_processors_go_on_after_a_restore_and_stop(machine: Machine) -> None:
    with machine.snapshot() as snapshot, Machine.restore(snapshot) as restored:
        restored.resume()
        found = told(restored, "nproc; grep -c x2apic /proc/cpuinfo").split()
        before = interrupts(restored, "LOC")
        spin = "taskset -c $n sh -c 'i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done' &"
        told(restored, f"for n in $(seq 0 {restored.config.cpus - 1}); do {spin} done; wait")
        after = interrupts(restored, "LOC")
        restored.stop()
        alive = [thread for thread in restored.threads if thread._thread.is_alive()]

    assert found == [str(machine.config.cpus)] * 2
    assert all(b > a for a, b in zip(before, after, strict=True))
    assert alive == []
