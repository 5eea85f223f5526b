"""What the host lacks is said as ``vmm doctor`` says it, and what it does for long is shown."""

from pathlib import Path

import pytest

from tests.workflow.child_pytest import run_pytest
from vmm.x86 import kvm_fault

WITHOUT_KVM = """
from functools import partial

import vmm.x86.host

vmm.x86.host.Kvm = partial(vmm.x86.host.Kvm, path={path!r})
"""

SLOW_KERNEL = """
import pytest

import vmm.testing.snapshots
from virtio.errors import ConfigurationError


def build(progress, **machine):
    progress("building the guest kernel", "12 of 34 files")
    print("captured")
    raise ConfigurationError("no space is left")


vmm.testing.snapshots.default_kernel = build
"""

ONE = """
def test_one(guest):
    pass


def test_session(session_guest):
    pass
"""


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("/nonexistent/kvm", "there is no such device: load kvm_intel or kvm_amd, or turn on"),
        ("/dev/null", "/dev/null is not a KVM device"),
    ],
)
def test_a_test_is_skipped_with_the_fault_of_the_host_or_fails_with_it(
    tmp_path: Path, path: str, fault: str
) -> None:
    (tmp_path / "conftest.py").write_text(WITHOUT_KVM.format(path=path))
    (tmp_path / "test_one.py").write_text(ONE)

    skipped = run_pytest(tmp_path, "-rs")
    failed = run_pytest(tmp_path, "--guest-required")

    assert skipped.outcomes == {"test_one": "skipped", "test_session": "skipped"}
    assert fault in skipped.output
    assert skipped.status == 0
    assert failed.outcomes == {"test_one": "error", "test_session": "error"}
    assert fault in failed.report_of("test_one")
    assert failed.status == 1


@pytest.mark.skipif(kvm_fault() is not None, reason=str(kvm_fault()))
@pytest.mark.parametrize("workers", [0, 1])
def test_the_build_of_a_kernel_is_shown_while_output_is_captured(
    tmp_path: Path, workers: int
) -> None:
    (tmp_path / "conftest.py").write_text(SLOW_KERNEL)
    (tmp_path / "test_one.py").write_text(ONE)

    run = run_pytest(tmp_path, "-n", str(workers), plugins=("xdist",))

    assert run.outcomes == {"test_one": "error", "test_session": "error"}
    assert "\nbuilding the guest kernel: 12 of 34 files, 0 s\n" in "\n" + run.output
    shown, _, captured = run.report_of("test_one").partition("Captured stdout")
    assert "ConfigurationError: no space is left" in shown
    assert "captured" in captured
    assert "12 of 34 files" not in captured


MISSING = """
from pathlib import Path

import pytest

pytestmark = pytest.mark.guest(kernel=["nowhere", Path("/nonexistent/vmlinuz")])


def test_one(guest):
    pass
"""


@pytest.mark.skipif(kvm_fault() is not None, reason=str(kvm_fault()))
def test_a_kernel_that_is_not_to_be_had_is_an_error_or_skips_its_tests_when_asked(
    tmp_path: Path,
) -> None:
    (tmp_path / "test_missing.py").write_text(MISSING)

    failed = run_pytest(tmp_path)
    skipped = run_pytest(tmp_path, "--guest-kernel-missing=skip", "-rs")
    named = run_pytest(tmp_path, "--guest-kernel=/also/none")

    assert set(failed.outcomes.values()) == {"error"}
    assert "kernel 'nowhere': " in failed.report_of(r"test_one\[nowhere\]")
    assert "kernel: /nonexistent/vmlinuz: No such file" in failed.report_of(r"test_one\[vmlinuz\]")
    assert set(skipped.outcomes.values()) == {"skipped"}
    assert "kernel: /nonexistent/vmlinuz: No such file" in skipped.output
    assert named.outcomes == {"test_one[none]": "error"}
