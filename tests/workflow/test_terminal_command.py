"""A command of somebody at a terminal: the guest gives it one, of the window's size."""

from pathlib import Path

from tests.workflow.command import VMM, on_terminal
from tests.workflow.test_terminal_console import SHELL


def test_shell_in_the_guest_is_interactive(ready: Path) -> None:
    with on_terminal(VMM, "run", "--restore", ready, "--", "sh") as terminal:
        terminal.read_until(b"# ")
        terminal.type(b"tty; cat\n")
        terminal.read_until(b"/dev/pts/")
        terminal.type(b"again\n")
        terminal.read_until(b"again")
        terminal.read_until(b"again")
        terminal.type(b"\x03")
        terminal.read_until(b"# ")
        terminal.type(b"exit 5\n")
        status = terminal.wait()

    assert status == 5
    assert b"vmm:" not in terminal.seen


def test_size_of_the_window_is_the_terminals_in_the_guest(ready: Path) -> None:
    script = 'trap "stty size" WINCH; stty size; echo set; while :; do sleep 0.1; done'
    command = (VMM, "run", "--restore", ready, "--", "sh", "-c", script)
    with on_terminal(*command, size=(97, 31)) as terminal:
        terminal.read_until(b"31 97")
        terminal.read_until(b"set")
        terminal.resize(120, 40)
        terminal.read_until(b"40 120")
        terminal.type(b"\x03")
        status = terminal.wait()

    assert status == 130


def test_streams_that_are_no_terminal_stay_exact(ready: Path, tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    words = "sh -c 'test -t 1 && ! test -t 2 && echo to''gether; echo err >&2'"
    with on_terminal(*SHELL) as terminal:
        terminal.type(f"$vmm run --restore {ready} -- {words} 2> {errors}\n".encode())
        terminal.read_until(b"together")
        terminal.read_until(b"$ ")

    assert errors.read_bytes() == b"err\n"


def test_command_in_the_background_of_a_terminal_runs_to_its_end(ready: Path) -> None:
    with on_terminal(*SHELL) as terminal:
        terminal.type(f"$vmm run --restore {ready} -- echo o''k & wait $!; echo =$?\n".encode())
        terminal.read_until(b"ok")
        terminal.read_until(b"=0")


def test_escape_key_ends_a_command_that_reads_nothing(ready: Path) -> None:
    command = (VMM, "run", "--restore", ready, "--", "sh", "-c", "stty raw; echo up; sleep 1000")
    with on_terminal(*command) as terminal:
        terminal.read_until(b"up")
        terminal.type(b"a" * 300_000)
        terminal.type(b"\x01x")
        status = terminal.wait()

    assert (status, b"ended by Ctrl-A x" in terminal.seen) == (130, True)


def test_command_without_a_terminal_on_request(ready: Path) -> None:
    with on_terminal(
        VMM, "run", "--no-tty", "--restore", ready, "--", "sh", "-c", "test -t 0 || echo pi''pe"
    ) as terminal:
        terminal.read_until(b"pipe")


def test_output_of_a_command_with_a_terminal_for_input_only_is_exact(ready: Path) -> None:
    script = "x=$($vmm run --restore \"$1\" -- printf 'a\\n'); printf '<%s>' \"$x\""
    with on_terminal("bash", "-c", script, "bash", ready) as terminal:
        terminal.read_until(b"<a>")
