"""A drgn program that cannot be: each reason is one line that tells what to do."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from virtio.errors import ConfigurationError
from vmm.config import MachineConfig
from vmm.dump.program import drgn_program


@pytest.fixture
def machine() -> Any:
    return SimpleNamespace(config=MachineConfig())


def test_without_drgn_the_extra_is_named(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "drgn", None)
    with pytest.raises(ConfigurationError, match=r"^drgn is not installed: pip .*pyvmm\[drgn\]'$"):
        drgn_program(machine)


def test_without_symbols_the_kernel_that_has_them_is_named(
    machine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "drgn", SimpleNamespace())
    with pytest.raises(ConfigurationError, match=r"^no symbols of the guest's kernel: .*--debug"):
        drgn_program(machine)
    with pytest.raises(ConfigurationError, match=r"/none: no such file: no symbols"):
        drgn_program(machine, tmp_path / "none")
