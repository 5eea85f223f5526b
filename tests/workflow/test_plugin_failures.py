"""A failure shows what was waited for, how far it was, the guest, and the test's lines alone."""

import re
from pathlib import Path

import pytest

from tests.guest import bare_metal as bare
from tests.workflow.child_pytest import GENEROUS, Run, run_pytest
from vmm.x86 import kvm_fault

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(kvm_fault() is not None, reason=str(kvm_fault())),
]

BOOTS = """
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def booted(name, **options):
    return pytest.mark.guest(kernel=HERE / name, initrd=HERE / "initrd", **options)


@booted("spins", deadline=1)
def test_out_of_time(guest):
    pass


@booted("panics", deadline=1000)
def test_panics(guest):
    pass


@booted("powers-off", deadline=1000)
def test_powers_off(guest):
    pass


@booted("none", deadline=1000)
def test_no_kernel(guest):
    pass
"""

USES = """
import pytest


def helper(guest):
    guest.run(["sh", "-c", "echo reason >&2; exit 3"], check=True)


def test_checked_command(guest):
    helper(guest)


@pytest.mark.guest(deadline=30)
def test_text_that_does_not_come(guest):
    guest.sh("echo before >/dev/console")
    guest.console.wait_for("after", timeout=3600)


@pytest.mark.guest(files={"/opt/big": bytes(96 << 20)}, deadline=5)
def test_file_too_big_for_the_time(guest):
    pass


def test_guest_powers_off_under_a_command(guest):
    guest.sh("poweroff -f & sleep 1000")


def test_expected_crash(guest):
    assert guest.crash().end.name == "PANIC"


def test_end_that_does_not_come(guest):
    guest.wait(timeout=0.1)


def test_sh_takes_what_run_takes(guest):
    script = "echo $WHO; pwd; cat; echo more >&2; exit 4"
    output = guest.sh(
        script, env={"WHO": "me"}, cwd="/tmp", input="typed\\n", check=False, merge_stderr=True
    )
    assert output == "me\\n/tmp\\ntyped\\nmore"
    assert guest.sh("printf 'a\\\\377\\\\n'", text=False) == b"a\\xff\\n"
"""


def boot_failures(folder: Path) -> Run:
    words = bare.say("Booting\nVFS: no root\n")
    panic = bare.say("Kernel panic - not syncing: no init\n") + bare.out8(0x64, 0xFE)
    for name, code in {
        "spins": bare.SPIN,
        "panics": panic + bare.SPIN,
        "powers-off": bare.out8(0xF4, 0) + bare.SPIN,
    }.items():
        bare.write_kernel(folder / name, words + code)
    (folder / "initrd").write_bytes(b"")
    (folder / "test_boots.py").write_text(BOOTS)
    return run_pytest(folder)


def test_a_failed_boot_is_reported_as_a_failed_test_is(tmp_path: Path) -> None:
    run = boot_failures(tmp_path)

    assert set(run.outcomes.values()) == {"error"}, run.output
    told = {
        "test_out_of_time": "GuestEndedError: the test's deadline of 1 s passed",
        "test_panics": "GuestEndedError: the guest's kernel panicked: no init",
        "test_powers_off": "GuestEndedError: the guest reported status 0",
    }
    for test, message in told.items():
        report = run.report_of(test)
        assert report.lstrip().startswith("E   vmm.testing.errors."), report
        assert f"{message} " in report, report
        assert " while the guest booted (" in report, report
        assert "last console lines:\n  Booting\n  VFS: no root\n" in report, report
        assert "vCPU 0: rip 0x1000" in report, report
        assert ".py:" not in report, report
    refused = run.report_of("test_no_kernel")
    assert "none: No such file or directory" in refused
    assert ".py:" not in refused


def test_a_failure_is_shown_at_the_line_of_the_test(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(GENEROUS)
    (tmp_path / "test_uses.py").write_text(USES)

    run = run_pytest(tmp_path)

    assert run.outcomes == {
        "test_checked_command": "failure",
        "test_text_that_does_not_come": "failure",
        "test_file_too_big_for_the_time": "error",
        "test_guest_powers_off_under_a_command": "failure",
        "test_expected_crash": "passed",
        "test_end_that_does_not_come": "failure",
        "test_sh_takes_what_run_takes": "passed",
    }, run.output
    lines = {
        "test_checked_command": r"CommandFailed: guest: sh -c 'echo reason >&2; exit 3'",
        "test_text_that_does_not_come": "'after' not seen: the test's deadline of 30 s passed",
        "test_guest_powers_off_under_a_command": "GuestEndedError: the guest powered off while sh",
        "test_end_that_does_not_come": "no end within its time of 0.1 s while the test waited",
    }
    for test, message in lines.items():
        report = run.report_of(test)
        assert message in report, report
        assert "test_uses.py:" in report, report
        assert "/vmm/" not in report, report
        assert "contextlib" not in report, report
    assert "helper(guest)" in run.report_of("test_checked_command")
    assert "(waited" in run.report_of("test_text_that_does_not_come")
    assert re.search(r"^E +before$", run.report_of("test_text_that_does_not_come"), re.MULTILINE)
    big = run.report_of("test_file_too_big_for_the_time")
    assert "the test's deadline of 5 s passed while '/opt/big' was written, " in big
    assert " of 100663296 bytes (" in big
