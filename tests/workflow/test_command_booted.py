"""A command in a guest that is booted for it has the same streams as in a restored one."""

from tests.workflow.command import shell


def test_streams_of_a_booted_command_are_its_own_and_the_console_is_on_stderr() -> None:
    script = "cat; echo err >&2; echo console > /dev/console; exit 3"
    done = shell('echo hello | $vmm run -- sh -c "$1"', script)

    assert (done.returncode, done.stdout) == (3, b"hello\n")
    assert sorted(done.stderr.split()) == [b"console", b"err"]
