"""``vmm doctor``: tell whether this host can run guests, and what to do if not."""

import argparse
import os
import shutil
from collections.abc import Iterator

from virtio.engine import current
from virtio.errors import Error
from vmm.ending.ending import STATUS_HOST
from vmm.image.agent import agent_finding
from vmm.kvm.system import KVM_API_VERSION, KVM_CAP_MAX_VCPUS
from vmm.x86 import host_kind, open_kvm

_IMAGE_TOOLS = {
    "cc": "gcc",
    "make": "make",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "mke2fs": "e2fsprogs",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command: none."""


def execute(options: argparse.Namespace) -> int:
    """Print the findings, and return 0 when guests can run here, else 125."""
    usable = _print_kvm()
    print(f"rings:  served by the {current()} engine")
    print(f"agent:  {agent_finding()}")
    for line in _sandbox_lines():
        print(line)
    for line in _image_lines():
        print(line)
    print("this host can run guests" if usable else "this host cannot run guests as it is")
    return 0 if usable else STATUS_HOST


def _print_kvm() -> bool:
    try:
        with open_kvm() as kvm:
            vcpus = kvm.check(KVM_CAP_MAX_VCPUS)
            kvm.create_vm().close()
    except Error as error:
        print(f"kvm:    {error}")
        return False
    print(f"kvm:    API version {KVM_API_VERSION}, up to {vcpus} vCPUs a guest")
    print(f"host:   {host_kind()}")
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    print(f"        {os.cpu_count()} processors, {free} MiB of memory free")
    return True


def _sandbox_lines() -> Iterator[str]:
    from vmm.sandbox.host import landlock_abi, missing

    if abi := landlock_abi():
        yield f"sandbox: Landlock ABI {abi}"
    faults = missing()
    for fault in faults:
        yield f"sandbox: {fault}"
    if not faults:
        yield "sandbox: seccomp filters for all threads; --sandbox=require can be had"
    from vmm.sandbox import cgroup, jail

    yield jail.missing() or f"jail:   namespaces of all kinds; {cgroup.finding()}"


def _image_lines() -> Iterator[str]:
    from vmm.image import entries, unfinished
    from vmm.image.kernel import cached_kernel

    for entry in entries():
        yield f"image:  {entry.name}"
    for entry in unfinished():
        yield f"image:  {entry.name} (unfinished: vmm cache tells more)"
    try:
        if cached_kernel() is None:
            yield "kernel: the default guest's is not built yet; vmm image build does it"
    except Error as error:
        yield f"kernel: {error}"
    missing = sorted({package for tool, package in _IMAGE_TOOLS.items() if not shutil.which(tool)})
    if missing:
        yield f"tools:  to build images, install the Debian packages {' '.join(missing)}"
