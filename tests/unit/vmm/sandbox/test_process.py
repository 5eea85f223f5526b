"""A process in the sandbox: each call that is not a machine's is refused, as promised."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from vmm.sandbox.host import landlock_abi, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"sandbox: {'; '.join(missing())}")

SETTING = """
import ctypes, errno, fcntl, os, signal, socket, sys, threading, time, mmap
from vmm.sandbox.process import ProcessSandbox
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")
sandbox = ProcessSandbox("require")
"""
ENTER = "sandbox.enter()\n"
BY_LANDLOCK = """
from vmm.sandbox import host
host.has_seccomp = lambda: False
def attempt(call):
    try:
        call()
    except OSError as error:
        return error.errno
"""


def confined(code: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process that is confined, after what is done ``before`` that."""
    program = f"{SETTING}{before}\n{ENTER}{code}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def refused_with(number: int, code: str) -> None:
    done = confined(f"try:\n    {code}\nexcept OSError as error:\n    print(error.errno)")
    assert (done.stdout, done.stderr) == (f"{number}\n", "")


@pytest.mark.parametrize(
    "code",
    [
        "open('/etc/passwd')",
        "open('/dev/kvm')",
        "open('/tmp/new', 'w')",
        "os.stat('/etc/passwd')",
        "os.listdir('/')",
        "os.unlink('/tmp/none')",
        "os.rename('/tmp/none', '/tmp/other')",
        "os.mkdir('/tmp/none')",
        "os.chmod('/tmp/none', 0)",
        "os.readlink('/proc/self/exe')",
        "os.truncate('/tmp/none', 0)",
        "os.symlink('/tmp/none', '/tmp/other')",
        "os.getcwd()",
        "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
        "call(10, ctypes.c_void_p(0), 4096, 4)",
        "fcntl.ioctl(0, 0x5412, b'x')",
        "fcntl.fcntl(0, 8, os.getpid())",
        "call(157, 38, 1, 0, 0, 0)",
    ],
)
def test_call_fails_with_eperm(code: str) -> None:
    refused_with(1, code)


def test_call_of_a_later_kernel_does_not_exist() -> None:
    refused_with(38, "call(499)")


@pytest.mark.parametrize(
    "code",
    [
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "socket.socket()",
        "socket.socketpair()",
        "os.kill(1, 0)",
        "os.kill(os.getppid(), signal.SIGKILL)",
        "call(101, 0, 0, 0, 0)",  # ptrace
        "call(425, 1, 0)",  # io_uring_setup
        "call(321, 0, 0, 0)",  # bpf
        "call(272, 0x10000000)",  # unshare
        "call(0x40000000)",  # read, of x32
        "call(16, 0, 0xAE01, 0)",  # KVM_CREATE_VM
        "call(310, os.getppid(), 0, 0, 0, 0, 0)",  # process_vm_readv
        "call(438, 0, 0, 0)",  # pidfd_getfd
    ],
)
def test_call_ends_the_process(code: str) -> None:
    assert confined(code).returncode == -signal.SIGSYS


def test_call_of_a_thread_ends_the_process() -> None:
    code = "thread = threading.Thread(target=os.fork); thread.start(); thread.join(); print('here')"

    assert confined(code).returncode == -signal.SIGSYS


def test_thread_from_before_is_confined_too() -> None:
    before = (
        "go = threading.Event()\n"
        "def late():\n    go.wait()\n    os.fork()\n"
        "thread = threading.Thread(target=late); thread.start()"
    )

    assert confined("go.set(); thread.join(); print('here')", before).returncode == -signal.SIGSYS


def test_what_a_machine_does_still_works() -> None:
    code = (
        "thread = threading.Thread(target=lambda: time.sleep(0.001)); thread.start()\n"
        "thread.join()\n"
        "fd = os.memfd_create('x'); os.ftruncate(fd, 8192); os.pwrite(fd, b'1', 5)\n"
        "os.fsync(fd); os.fstat(fd); os.close(os.dup(fd)); os.eventfd_write(os.eventfd(0), 1)\n"
        "memory = mmap.mmap(fd, 8192); memory[0] = 1\n"
        "os.urandom(9); os.kill(os.getpid(), signal.SIGCONT); signal.raise_signal(signal.SIGCONT)\n"
        "print('done', bytearray(1 << 24)[5])\n"
        "1 / 0"
    )

    done = confined(code)

    assert done.stdout == "done 0\n"
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_log_shows_the_traceback_of_a_failure() -> None:
    before = "from virtio import log\nlog.show(log.WARNING)\n"
    code = "try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.Logger('here').exception('failed')"

    lines = confined(code, before).stderr.splitlines()

    assert lines[:2] == ["vmm: ERROR: here: failed", "Traceback (most recent call last):"]
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_process_gains_no_privileges_and_is_filtered() -> None:
    before = "status = open('/proc/self/status')"
    code = "print([line for line in status if line.startswith(('NoNewPrivs', 'Seccomp:'))])"

    assert confined(code, before).stdout == "['NoNewPrivs:\\t1\\n', 'Seccomp:\\t2\\n']\n"


def test_process_leaves_no_core_and_takes_no_debugger() -> None:
    before = (
        "from vmm.sandbox import host\n"
        "host.has_seccomp = lambda: False\n"  # for the filter keeps prctl(PR_GET_DUMPABLE) back
        "limits = open('/proc/self/limits')"
    )
    code = (
        "print([line.split()[4] for line in limits if 'core file' in line])\n"
        "print(libc.prctl(3, 0, 0, 0, 0))"
    )

    assert confined(code, before).stdout == "['0']\n0\n"


def test_landlock_refuses_files_and_network_by_itself() -> None:
    code = (
        "print(attempt(lambda: open('/etc/passwd')),"
        " host.landlock_abi() < 4 or attempt(lambda: socket.socket().bind(('127.0.0.1', 0))) == 13)"
    )

    assert confined(code, BY_LANDLOCK).stdout == "13 True\n"


@pytest.mark.skipif(landlock_abi() < 6, reason="this kernel's Landlock has no scopes")
def test_landlock_refuses_signals_to_others_and_their_sockets_by_itself() -> None:
    name = f"\0pyvmm-test-{os.getpid()}"
    code = (
        "print(attempt(lambda: os.kill(os.getppid(), 0)),"
        f" attempt(lambda: socket.socket(socket.AF_UNIX).connect({name!r})))"
    )
    with socket.socket(socket.AF_UNIX) as others:
        others.bind(name)
        others.listen()

        assert confined(code, BY_LANDLOCK).stdout == "1 1\n"


def test_what_is_imported_late_is_there() -> None:
    done = confined("import vmm.ending.oops, virtio.frames; print('there')")

    assert (done.stdout, done.stderr) == ("there\n", "")


def test_process_gets_few_descriptors_more() -> None:
    refused_with(24, "[os.dup(0) for _ in range(100)]")


def test_descriptors_from_before_are_closed() -> None:
    program = f"{SETTING}{ENTER}os.fstat(int(sys.argv[1]))"
    with open("/etc/passwd") as stranger:
        done = subprocess.run(
            [sys.executable, "-c", program, str(stranger.fileno())],
            pass_fds=[stranger.fileno()],
            capture_output=True,
            text=True,
        )

    assert "Bad file descriptor" in done.stderr


def test_mode_log_tells_what_would_be_refused_and_lets_it_happen() -> None:
    program = SETTING.replace("require", "log") + ENTER
    program += "print(open('/proc/version').fileno() > 2); socket.socket(); open('/proc/version')"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout == "True\n"
    lines = done.stderr.splitlines()
    assert lines[:1] == ["vmm: sandbox: would refuse openat /proc/version"]
    assert "vmm: sandbox: would refuse socket" in lines
    assert len(lines) == len(set(lines))


def test_mode_off_changes_nothing() -> None:
    program = SETTING.replace("require", "off") + ENTER + "open('/etc/passwd'); os._exit(7)"

    assert subprocess.run([sys.executable, "-c", program]).returncode == 7


def test_mode_require_wants_all_parts() -> None:
    program = (
        "import sys; sys.modules['vmm.sandbox._sandbox'] = None\n"
        "from vmm.cli import main; sys.exit(main(['run', '--sandbox=require', '--kernel=/none']))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.returncode == 125
    assert done.stderr.startswith("vmm: sandbox: its C part was not built")
    assert done.stderr.count("\n") == 1


def test_page_that_was_cut_off_ends_the_process_with_a_message() -> None:
    before = (
        "from vmm.sandbox.host import explain_bus_errors\n"
        "fd = os.memfd_create('x'); os.ftruncate(fd, 4096); memory = mmap.mmap(fd, 4096)\n"
        "os.ftruncate(fd, 0); explain_bus_errors('vmm: cut off\\n', 125)\n"
    )

    done = confined("memory[0]", before)

    assert (done.returncode, done.stderr) == (125, "vmm: cut off\n")
