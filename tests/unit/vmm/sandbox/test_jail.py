"""A process in the jail, seen from outside and from inside; and hosts that give no jail."""

import os
import re
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from vmm.sandbox.jail import missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

DEADLINE = 60.0
ORDINARY_USER = 65534
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")

# Everything is imported before another user, who may not read it, takes over.
PROGRAM = """
import ctypes, fcntl, os, signal, socket, struct, sys
from vmm.cli.keeper import run_confined
from vmm.sandbox.jail import Jail
if {user!r} is not None:
    os.setgroups([]); os.setresgid({user!r}, {user!r}, {user!r})
    os.setresuid({user!r}, {user!r}, {user!r})
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, so that /proc/self is that user's
def in_jail():
    jail.begin()
    number = os.readlink("/proc/self")
    jail.enter()
    print(number, flush=True)
{code}
    return 7
with Jail(None) as jail:
    status = run_confined(in_jail)
sys.exit(status)
"""
WAIT = "sys.stdin.read(1)"


@dataclass
class Prisoner:
    """A process in the jail, and the one outside that keeps it."""

    number: int
    keeper: "subprocess.Popen[str]"

    def read(self, name: str) -> str:
        return Path(f"/proc/{self.number}/{name}").read_text()

    @property
    def first(self) -> int:
        """The first process of its namespace of process numbers."""
        children = Path(f"/proc/{self.keeper.pid}/task/{self.keeper.pid}/children").read_text()
        return next(int(one) for one in children.split() if int(one) != self.number)


def program(code: str, user: int | None = None) -> list[str]:
    return [sys.executable, "-c", PROGRAM.format(user=user, code=textwrap.indent(code, "    "))]


@contextmanager
def jailed(user: int | None = None) -> Iterator[Prisoner]:
    pipe = subprocess.PIPE
    with subprocess.Popen(program(WAIT, user), stdin=pipe, stdout=pipe, text=True) as keeper:
        assert keeper.stdout is not None
        yield Prisoner(int(keeper.stdout.readline()), keeper)
        keeper.communicate("x", DEADLINE)


@pytest.fixture(
    scope="module", params=[None, ORDINARY_USER] if os.geteuid() == 0 else [None], ids=str
)
def prisoner(request: pytest.FixtureRequest) -> Iterator[Prisoner]:
    with jailed(request.param) as found:
        yield found


def told_inside(code: str) -> str:
    done = subprocess.run(program(code), capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stderr) == (7, "")
    return done.stdout.partition("\n")[2].strip()


def has_ended(number: int) -> bool:
    """Whether a process runs no more, whoever has yet to take its status."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def ends(handle: int) -> bool:
    """Whether the process of a pidfd ends in time."""
    return bool(select.select([handle], [], [], DEADLINE)[0])


@pytest.mark.parametrize("kind", NAMESPACES)
def test_process_has_a_namespace_of_its_own(prisoner: Prisoner, kind: str) -> None:
    assert os.readlink(f"/proc/{prisoner.number}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


def test_root_is_one_file_system_that_is_empty_and_only_to_be_read(prisoner: Prisoner) -> None:
    (mount,) = prisoner.read("mountinfo").splitlines()

    assert mount.split()[3:6] == ["/", "/", "ro,nosuid,nodev,noexec,relatime"]
    assert os.listdir(f"/proc/{prisoner.number}/root/") == []
    assert os.readlink(f"/proc/{prisoner.number}/cwd") == "/"


def test_process_has_no_capabilities_and_gains_none(prisoner: Prisoner) -> None:
    found = dict(re.findall(r"(Cap\w+|NoNewPrivs):\s+(\w+)", prisoner.read("status")))

    none = "0" * 16
    assert found == {
        "CapInh": none,
        "CapPrm": none,
        "CapEff": none,
        "CapBnd": none,
        "CapAmb": none,
        "NoNewPrivs": "1",
    }


def test_process_is_not_the_first_one_of_its_numbers(prisoner: Prisoner) -> None:
    numbers = re.findall(r"NSpid:\s+(.*)", prisoner.read("status"))[0].split()

    assert numbers == [str(prisoner.number), "2"]


def test_first_process_holds_nothing_and_may_do_nothing(prisoner: Prisoner) -> None:
    status = Path(f"/proc/{prisoner.first}/status").read_text()

    assert re.findall(r"Cap(?:Prm|Eff):\s+(\w+)", status) == ["0" * 16, "0" * 16]
    assert re.findall(r"NSpid:\s+\d+\s+(\d+)", status) == ["1"]


def test_no_network_is_there_but_a_loopback_that_is_down() -> None:
    code = (
        "asking = struct.pack('16sh', b'lo', 0)\n"
        "flags = fcntl.ioctl(socket.socket(), 0x8913, asking)\n"  # SIOCGIFFLAGS
        "print(socket.if_nameindex(), struct.unpack('16sh', flags)[1] & 1)"
    )

    assert told_inside(code) == "[(1, 'lo')] 0"


@pytest.mark.parametrize(
    ("code", "number"),
    [
        ("os.mkdir('/new')", 30),  # EROFS
        ("open('/proc/self/status')", 2),  # ENOENT
        ("os.chroot('/')", 1),
        ("os.sethostname = socket.sethostname; os.sethostname('x')", 1),
        ("os.kill(int(number), 0)", 3),  # ESRCH: by its number outside
    ],
)
def test_what_a_process_of_outside_may_fails(code: str, number: int) -> None:
    caught = f"try:\n    {code}\nexcept OSError as error:\n    print(error.errno)"

    assert told_inside(caught) == str(number)


def test_status_comes_out() -> None:
    assert subprocess.run(program(""), stdout=subprocess.DEVNULL).returncode == 7


def test_error_inside_comes_out_with_its_traceback() -> None:
    done = subprocess.run(program("1 / 0"), capture_output=True, text=True)

    assert done.returncode == 125
    assert "ZeroDivisionError: division by zero\n" in done.stderr


def test_machine_that_is_killed_leaves_nothing() -> None:
    with jailed() as found:
        first = found.first
        os.kill(found.number, signal.SIGKILL)
        found.keeper.wait(DEADLINE)

    assert found.keeper.returncode == 128 + signal.SIGKILL
    assert has_ended(first)


def test_keeper_that_is_killed_leaves_nothing_running() -> None:
    with jailed() as found:
        handles = [os.pidfd_open(one) for one in (found.number, found.first)]
        found.keeper.kill()

    assert all(ends(handle) for handle in handles)
    for handle in handles:
        os.close(handle)


def test_process_stops_and_continues_as_its_job_does() -> None:
    code = "os.kill(os.getpid(), signal.SIGSTOP)\nprint('on')"
    with subprocess.Popen(program(code), stdout=subprocess.PIPE, text=True) as keeper:
        _, status = os.waitpid(keeper.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        keeper.send_signal(signal.SIGCONT)
        output, _ = keeper.communicate(timeout=DEADLINE)

    assert output.endswith("\non\n")
    assert keeper.returncode == 7


# A limit of a user namespace's own, as sysctl sets it on a host.
NO_NAMESPACES = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
REFUSE_UNSHARE = """
import sys
from vmm.sandbox import host
from vmm.sandbox.program import INSTRUCTION
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 272), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)]
host.set_filter(b"".join(INSTRUCTION.pack(*one) for one in code), all_threads=True)
from vmm.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    from tests.guest import bare_metal as bare

    kernel = bare.write_kernel(tmp_path / "kernel", bare.say("up") + bare.SPIN)
    return ["run", "--jail", "--jail-limit=none", "--timeout=30", "--kernel", str(kernel)]


@pytest.mark.skipif(not os.access("/dev/kvm", os.W_OK), reason="needs a usable /dev/kvm")
def test_host_without_user_namespaces_gets_a_line_and_no_half_jail(command: list[str]) -> None:
    words = ["unshare", "--user", "--map-root-user", "sh", "-c", NO_NAMESPACES, "sh"]
    done = subprocess.run(
        [*words, sys.executable, "-m", "vmm", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )

    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == (
        "vmm: jail: unshare: No space left on device: namespaces are not allowed; set sysctl"
        " user.max_user_namespaces above 0, or take --jail away\n"
    )


@pytest.mark.skipif(not os.access("/dev/kvm", os.W_OK), reason="needs a usable /dev/kvm")
def test_container_that_refuses_namespaces_gets_a_line_and_no_half_jail(
    command: list[str],
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REFUSE_UNSHARE, *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )

    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == (
        "vmm: jail: unshare: Operation not permitted: namespaces are not allowed; have this host,"
        " or its container, allow this user namespaces, or take --jail away\n"
    )
