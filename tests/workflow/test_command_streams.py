"""A command's stdin, stdout, stderr and status are its own, byte for byte, in a restored guest."""

import hashlib
import os
from pathlib import Path

import pytest

from tests.workflow.command import shell


def test_output_of_a_substitution_is_what_the_command_wrote(ready: Path) -> None:
    done = shell('x=$($vmm run --restore "$1" -- echo hi); printf "<%s>" "$x"', ready)

    assert (done.stdout, done.stderr) == (b"<hi>", b"")


def test_streams_are_separate_and_exact_and_the_status_is_the_commands(ready: Path) -> None:
    script = r"printf 'out\r\n\0'; printf 'err\377' >&2; exit 7"
    done = shell('$vmm run --restore "$1" -- sh -c "$2"', ready, script)

    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\r\n\0", b"err\xff")


def test_input_and_its_end_reach_the_command(ready: Path) -> None:
    done = shell('echo hello | $vmm run --restore "$1" -- cat', ready)

    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello\n", b"")


def test_input_from_a_file_arrives_whole(ready: Path, tmp_path: Path) -> None:
    data = os.urandom(1_000_001)
    (tmp_path / "input").write_bytes(data)
    done = shell('$vmm run --restore "$1" -- sha256sum < "$2"', ready, tmp_path / "input")

    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_output_read_late_is_all_there(ready: Path) -> None:
    """More than pipes, credit and the old sink's megabyte hold together."""
    command = '$vmm run --restore "$1" -- dd if=/dev/zero bs=64k count=48'
    done = shell(f"set -o pipefail; {command} 2>/dev/null | (sleep 3; wc -c)", ready)

    assert (done.returncode, done.stdout) == (0, b"3145728\n")


def test_output_that_another_process_made_non_blocking_is_all_there(ready: Path) -> None:
    unblock = "import fcntl, os; fcntl.fcntl(1, fcntl.F_SETFL, os.O_NONBLOCK | os.O_WRONLY)"
    command = f"""python3 -c '{unblock}'; $vmm run --restore "$1" -- seq 100000"""
    done = shell(f"set -o pipefail; ({command}) | (sleep 3; tail -n 1)", ready)

    assert (done.returncode, done.stdout) == (0, b"100000\n")


def test_reader_that_goes_away_ends_the_writer_by_sigpipe(ready: Path) -> None:
    done = shell('$vmm run --restore "$1" -- yes | head -n 1; echo ${PIPESTATUS[0]}', ready)

    assert (done.stdout, done.stderr) == (b"y\n141\n", b"")


def test_command_that_bears_a_broken_pipe_goes_on(ready: Path) -> None:
    script = "trap '' PIPE; while echo y; do :; done 2>/dev/null; echo noticed >&2; exit 5"
    done = shell(
        '$vmm run --restore "$1" -- sh -c "$2" | true; echo ${PIPESTATUS[0]}', ready, script
    )

    assert (done.stdout, done.stderr) == (b"5\n", b"noticed\n")


def test_errors_pass_output_that_nobody_reads(ready: Path, tmp_path: Path) -> None:
    """One stream that stands still holds up only who writes to that."""
    script = "yes & sleep 1; echo passed >&2; kill $!; wait $!"
    run = '$vmm run --restore "$1" -- sh -c "$2" 2> "$3/err"'
    reader = 'until grep -q passed "$3/err"; do sleep 0.1; done; cat > /dev/null'
    done = shell(f"touch $3/err; {run} | ({reader}); echo $PIPESTATUS", ready, script, tmp_path)

    assert done.stdout == b"143\n"
    assert (tmp_path / "err").read_bytes().startswith(b"passed\n")


def test_full_device_is_a_failure_of_the_host(ready: Path) -> None:
    done = shell('$vmm run --restore "$1" -- echo hi > /dev/full', ready)

    assert done.returncode == 125
    assert done.stderr == b"vmm: stdout: No space left on device\n"


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("no-such-program", 127),
        ("/no/such/program", 127),
        ("/proc/version", 126),
        ("sh -c 'kill -9 $$'", 137),
    ],
)
def test_status_is_a_shells(ready: Path, command: str, status: int) -> None:
    done = shell(f'$vmm run --restore "$1" -- {command}', ready)

    assert (done.returncode, done.stdout) == (status, b"")
    assert bool(done.stderr) == (status in (126, 127))


@pytest.mark.parametrize("closed", ["<&-", ">&- 2>&-"])
def test_closed_stream_changes_no_other(ready: Path, closed: str) -> None:
    script = "cat; echo out; echo err >&2; exit 3"
    done = shell(f'$vmm run --restore "$1" -- sh -c "$2" {closed}', ready, script)

    assert done.returncode == 3
    assert done.stdout == (b"" if ">&-" in closed else b"out\n")
    assert done.stderr == (b"" if "2>&-" in closed else b"err\n")


def test_last_words_before_the_end_of_the_guest_are_passed_on(ready: Path) -> None:
    done = shell('$vmm run --restore "$1" -- sh -c "echo bye; poweroff -f"', ready)

    assert (done.returncode, done.stdout) == (0, b"bye\n")
    assert done.stderr == b"vmm: the guest powered off\n"


def test_time_ends_a_run_whose_output_nobody_reads(ready: Path) -> None:
    run = '$vmm run --restore "$1" --timeout 4 -- yes 2>/dev/null'
    done = shell(f"exec 3>&1; ({run}; echo $? >&3) | (read -u 3 || sleep 15)", ready)

    assert done.stdout == b"124\n"


def test_console_goes_where_it_is_sent(ready: Path, tmp_path: Path) -> None:
    words = "sh -c 'echo on the console > /dev/console; echo out'"
    done = shell(
        f'$vmm run --restore "$1" --console-to "$2" -- {words}', ready, tmp_path / "console"
    )

    assert (done.stdout, done.stderr) == (b"out\n", b"")
    assert b"on the console\r\n" in (tmp_path / "console").read_bytes()


def test_place_of_the_console_that_cannot_be_opened_is_refused(ready: Path) -> None:
    done = shell('$vmm run --restore "$1" --console-to /nonexistent/file -- true', ready)

    assert done.returncode == 2
    assert done.stderr == b"vmm: --console-to /nonexistent/file: No such file or directory\n"
