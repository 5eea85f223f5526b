"""Guest tests need /dev/kvm; where it is absent they are skipped with that reason."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.guest.bare_metal import write_kernel
from vmm.config import MachineConfig
from vmm.x86 import kvm_fault


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = str(Path(__file__).parent)
    fault = kvm_fault()
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.guest)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(300))
            if fault is not None:
                item.add_marker(pytest.mark.skip(reason=fault))


@pytest.fixture
def bare_metal(tmp_path: Path) -> Callable[[bytes], MachineConfig]:
    """Return a maker of configurations that boot the machine code they are given."""

    def configure(code: bytes) -> MachineConfig:
        kernel = write_kernel(tmp_path / "kernel", code)
        return MachineConfig(kernel=kernel, memory_bytes=32 << 20, rng=False)

    return configure
