"""What people do every day, through the installed commands; needs ``/dev/kvm`` and the kernel."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.guest import bare_metal as bare
from vmm import Machine, MachineConfig

BOOT_SECONDS = 600.0
MakeKernel = Callable[[bytes], str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = str(Path(__file__).parent)
    usable = os.access("/dev/kvm", os.R_OK | os.W_OK)
    for item in items:
        if str(item.path).startswith(here):
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(900))
            if not usable:
                item.add_marker(pytest.mark.skip(reason="needs a usable /dev/kvm"))


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder with the default guest, saved when its agent was ready: one for all processes."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    folder = shared / "ready"
    with open(shared / "ready.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with Machine(MachineConfig(agent="beside")) as machine:
                machine.boot()
                machine.agent.wait_ready(BOOT_SECONDS)
                with machine.snapshot() as snapshot:
                    snapshot.save(folder)
    return folder


@pytest.fixture
def kernel(tmp_path: Path) -> MakeKernel:
    """Return a maker of kernels of a few instructions, which spin in the end."""
    return lambda code: str(bare.write_kernel(tmp_path / "kernel", code + bare.SPIN))
