"""Imports point one way: vmm to transport to virtio, and what is x86 stays where it belongs."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "virtio": {"virtio"},
    "transport": {"virtio", "transport"},
    "vmm": {"virtio", "transport", "vmm"},
}


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("package", ALLOWED)
def test_package_imports_only_what_lies_below_it(package: str) -> None:
    ours = {"virtio", "transport", "vmm", "tests"}
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for module in imported_modules(path)
        if module.split(".")[0] in ours - ALLOWED[package]
    ]

    assert wrong == []


def test_only_the_wiring_knows_x86() -> None:
    users = {
        path.relative_to(ROOT / "vmm").as_posix()
        for path in (ROOT / "vmm").rglob("*.py")
        if any(module.startswith("vmm.x86") for module in imported_modules(path))
    }

    assert {user for user in users if not user.startswith("x86/")} == {
        "cli/doctor.py",
        "guest.py",
        "hardware.py",
        "machine.py",
        "snapshot/state.py",
    }


def test_kvm_layer_knows_nothing_of_the_machine() -> None:
    wrong = [
        module
        for path in (ROOT / "vmm" / "kvm").glob("*.py")
        for module in imported_modules(path)
        if module.startswith("vmm") and not module.startswith(("vmm.kvm", "vmm.resource"))
    ]

    assert wrong == []
