"""The user's terminal as the console of a guest: whose it is, its keys, stop and continue."""

import pytest

from tests.guest import bare_metal as bare
from tests.workflow.command import VMM, on_terminal
from tests.workflow.conftest import MakeKernel

SHELL = ("bash", "--norc", "--noprofile", "--noediting", "-i")
UP = bare.say("up\n")


def test_job_in_the_background_ends_and_leaves_the_terminal_alone(kernel: MakeKernel) -> None:
    path = kernel(UP + bare.out8(0xF4, 7))
    with on_terminal(*SHELL) as terminal:
        terminal.type(f"$vmm run --no-rng --kernel {path} & wait $!; echo status=$?\n".encode())
        terminal.read_until(b"status=7")
        raw = terminal.is_raw()

    assert not raw


def test_escape_key_works_behind_a_paste_that_the_guest_does_not_read(kernel: MakeKernel) -> None:
    with on_terminal(VMM, "run", "--no-rng", "--kernel", kernel(UP)) as terminal:
        terminal.read_until(b"up")
        terminal.type(b"a" * 68_000)
        terminal.type(b"\x01x")
        status = terminal.wait()

    assert (status, b"ended by Ctrl-A x" in terminal.seen) == (130, True)


def test_terminal_is_the_shells_while_the_run_is_stopped_and_raw_again_after(
    kernel: MakeKernel,
) -> None:
    with on_terminal(*SHELL) as terminal:
        terminal.type(f"$vmm run --no-rng --kernel {kernel(UP)}\n".encode())
        terminal.read_until(b"up\r\n")
        terminal.wait_until(raw=True)
        terminal.type(b"\x01z")
        terminal.read_until(b"Stopped")
        stopped = terminal.is_raw()
        terminal.type(b"fg\n")
        terminal.wait_until(raw=True)
        terminal.type(b"\x01x")
        terminal.read_until(b"ended by Ctrl-A x")
        terminal.type(b"echo status=$?\n")
        terminal.read_until(b"status=130")
        ended = terminal.is_raw()

    assert (stopped, ended) == (False, False)


def test_run_that_goes_on_in_the_background_takes_the_terminal_when_it_gets_it_back(
    kernel: MakeKernel,
) -> None:
    with on_terminal(*SHELL) as terminal:
        terminal.type(f"$vmm run --no-rng --kernel {kernel(UP)}\n".encode())
        terminal.read_until(b"up\r\n")
        terminal.wait_until(raw=True)
        terminal.type(b"\x01z")
        terminal.read_until(b"Stopped")
        terminal.type(b"bg; echo in the back''ground\n")
        terminal.read_until(b"in the background")
        terminal.type(b"jobs -r; echo list''ed\n")
        running = terminal.read_until(b"listed")
        in_background = terminal.is_raw()
        terminal.type(b"fg\n")
        terminal.wait_until(raw=True)
        terminal.type(b"\x01x")
        terminal.read_until(b"ended by Ctrl-A x")

    assert b"Running" in running
    assert not in_background


def test_failed_start_leaves_the_terminal_as_it_was() -> None:
    with on_terminal(*SHELL) as terminal:
        terminal.type(b"$vmm run --kernel /nonexistent; echo status=$?\n")
        terminal.read_until(b"status=2")
        raw = terminal.is_raw()

    assert not raw


@pytest.mark.timeout(600)
def test_size_of_the_window_is_that_of_a_virtio_console() -> None:
    with on_terminal(VMM, "run", "--console", "virtio", size=(101, 33)) as terminal:
        terminal.read_until(b"guest:/# ")
        terminal.type(b"trap 'stty size' WINCH; stty size\n")
        terminal.read_until(b"33 101")
        terminal.read_until(b"guest:/# ")
        terminal.resize(77, 22)
        terminal.type(b"until stty size | grep '22 77'; do :; done; poweroff\n")
        terminal.read_until(b"\n22 77")
        status = terminal.wait()

    assert status == 0
