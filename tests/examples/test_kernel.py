"""What the fixture ``guest`` gives a test: a real Linux, clean for each test, in milliseconds."""

import pytest

from vmm.testing import Guest


def test_a_command_runs_in_the_guest(guest: Guest) -> None:
    result = guest.run(["uname", "-s"])

    assert result.returncode == 0
    assert result.stdout == "Linux\n"


@pytest.mark.parametrize("attempt", [1, 2])
def test_each_test_has_a_guest_of_its_own(guest: Guest, attempt: int) -> None:
    assert guest.run(["ls", "/tmp"]).stdout == ""

    guest.write_file("/tmp/seen", f"attempt {attempt}")

    assert guest.read_file("/tmp/seen") == f"attempt {attempt}".encode()


@pytest.mark.guest(files={"/etc/greeting": "hello\n"})
def test_a_guest_can_be_given_files(guest: Guest) -> None:
    assert guest.sh("cat /etc/greeting; echo $?") == "hello\n0"


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param("-1", id="default"),
        pytest.param("7", id="panic=7", marks=pytest.mark.guest(cmdline="panic=7")),
    ],
)
def test_a_sysctl_follows_the_kernel_command_line(guest: Guest, seconds: str) -> None:
    assert guest.read_file("/proc/sys/kernel/panic").decode().strip() == seconds
