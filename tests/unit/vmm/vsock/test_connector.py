"""A process outside of the sandbox connects to the host's programs, and to nothing else."""

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.spec.threads import wait_until
from vmm.vsock.connector import Connector


@pytest.fixture
def path(tmp_path: Path) -> str:
    """The path that the sockets are named after."""
    return str(tmp_path / "v.sock")


def test_who_listens_for_a_port_is_reached(path: str) -> None:
    with Connector(path) as connector, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}_1234")
        listener.listen()
        for number in range(2):
            with connector.connect(1234) as ours, listener.accept()[0] as theirs:
                ours.send(b"%d" % number)
                assert theirs.recv(10) == b"%d" % number


def test_nobody_there_is_an_error_and_no_end(path: str) -> None:
    with Connector(path) as connector:
        for _ in range(2):
            with pytest.raises(OSError, match="No such file") as error:
                connector.connect(1234)
            assert error.value.errno == errno.ENOENT


def test_socket_is_removed_in_the_end_when_it_was_made(path: str) -> None:
    for asked in (False, True):
        Path(path).touch()
        with Connector(path) as connector:
            if asked:
                connector.remove_at_end()
        assert os.path.exists(path) is not asked
    with Connector(path) as connector:
        connector.remove_at_end()  # somebody else removed it before


def test_process_has_nothing_of_ours_but_its_socket(path: str, tmp_path: Path) -> None:
    program = f"""
import os
from pathlib import Path
from vmm.vsock.connector import Connector
secret = open({str(tmp_path / "secret")!r}, "w")
os.dup2(secret.fileno(), 200)  # behind the socket, too
with Connector({path!r}) as connector:
    try:
        connector.connect(1)
    except FileNotFoundError:
        pass  # it has begun, as it answers
    child = int(Path("/proc/self/task", str(os.getpid()), "children").read_text())
    held = [os.readlink(one) for one in Path(f"/proc/{{child}}/fd").iterdir()]
    print(sum("secret" in one for one in held), sum("socket:" in one for one in held))
"""
    command = [sys.executable, "-c", program]

    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout == "0 1\n"


def test_process_ends_with_ours_however_that_ends(path: str) -> None:
    program = f"""
import os, signal
from pathlib import Path
from vmm.vsock.connector import Connector
connector = Connector({path!r})
print(Path("/proc/self/task", str(os.getpid()), "children").read_text(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", program]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: not os.path.exists(f"/proc/{int(done.stdout)}"))
