"""Threads in the sandbox: what they start is confined too, and nobody else is."""

import subprocess
import sys

import pytest

from virtio.errors import ConfigurationError
from vmm.config import MachineConfig
from vmm.machine import Machine
from vmm.sandbox.host import missing
from vmm.sandbox.threads import thread_confinement

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"sandbox: {'; '.join(missing())}")

PROGRAM = """
import os, socket, threading
from vmm.sandbox.threads import thread_confinement
confine = thread_confinement("require")
found = []
def attempt(call):
    try:
        call()
    except OSError as error:
        found.append(error.errno)
    else:
        found.append(0)
def inner():
    attempt(lambda: open("/etc/passwd"))
    attempt(lambda: os.waitpid(os.fork() or os._exit(0), 0))
    attempt(lambda: socket.socket().close())
def outer():
    confine()
    thread = threading.Thread(target=inner); thread.start(); thread.join()
thread = threading.Thread(target=outer); thread.start(); thread.join()
attempt(lambda: open("/etc/passwd").close())
attempt(lambda: os.waitpid(os.fork() or os._exit(0), 0))
print(found)
"""


def test_thread_and_those_it_starts_are_refused_and_others_are_not() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)

    assert (done.stdout, done.stderr) == ("[1, 1, 1, 0, 0]\n", "")


def test_landlock_refuses_files_by_itself() -> None:
    program = "from vmm.sandbox import host\nhost.has_seccomp = lambda: False\n"
    program += PROGRAM.replace("require", "auto")

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert (done.stdout, done.stderr) == ("[13, 0, 0, 0, 0]\n", "")


def test_log_is_not_for_threads() -> None:
    with pytest.raises(ConfigurationError, match="vmm run --sandbox=log"):
        thread_confinement("log")


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="sandbox 'on': must be one of auto, require"):
        MachineConfig(sandbox="on")  # type: ignore[arg-type]


def test_library_use_is_not_confined() -> None:
    assert Machine(MachineConfig()).config.sandbox == "off"
