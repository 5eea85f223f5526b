"""Which tests run in the hardware host: those that touch KVM or boot a guest, and which do not.

The folders of guest tests are chosen as a whole, so that a new file runs there by itself.
"""

from __future__ import annotations

from typing import Final

CHOSEN: Final = (
    # Of the unit tests, those of the code that talks to KVM, and of the sandbox: another kernel.
    "tests/unit/vmm/kvm",
    "tests/unit/vmm/sandbox",
    "tests/unit/vmm/x86",
    "tests/guest",
    "tests/workflow",
    "tests/examples",
)

LEFT_OUT: Final = {
    "tests/workflow/test_wheel.py": "builds the package, and that host has no compiler",
}
"""The files of these folders that do not run there, and why."""

SHORT: Final = (
    "tests/unit/vmm/kvm",
    "tests/guest/test_vcpu.py",
    "tests/guest/test_endings.py",
    "tests/guest/test_messages.py",
    "tests/guest/test_pci.py",
    "tests/guest/test_snapshot.py",
    "tests/guest/test_linux_agent.py",
    "tests/guest/test_linux_snapshot.py",
    "tests/examples/test_kernel.py",
)
"""What continuous integration runs there each time: at most five minutes on two idle processors."""
