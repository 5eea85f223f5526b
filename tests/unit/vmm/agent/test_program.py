"""The agent's program, run on this host over a pseudo-terminal and driven by its client."""

import errno
import os
import select
import signal
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.unit.vmm.agent.rig import PtyPort, running_agent
from virtio.errors import ConfigurationError
from vmm.agent import (
    Agent,
    AgentLostError,
    CommandFailed,
    CommandTimeoutError,
    GuestFileNotFoundError,
    GuestOSError,
    GuestPermissionError,
    User,
)
from vmm.image.agent import agent_program
from vmm.image.debian import find_tool

pytestmark = pytest.mark.skipif(find_tool("gcc") is None, reason="gcc is not installed")

Rig = tuple[Agent, PtyPort, int]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running_agent(agent_program(), tmp_path_factory.mktemp("agent")) as running:
        yield running


@pytest.fixture
def agent(rig: Rig) -> Agent:
    return rig[0]


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # the latter when it goes meanwhile
        return False
    return state != "Z"


def wait_for_end_of(process: int) -> None:
    with suppress(ProcessLookupError):  # it has gone already
        handle = os.pidfd_open(process)
        ended = select.select([handle], [], [], 30)[0]
        os.close(handle)
        assert ended


def test_agent_says_who_it_is(rig: Rig) -> None:
    agent, _, process = rig

    assert agent.ping() == (2, process, os.uname().release)


def test_output_errors_and_exit_status_are_told_apart(agent: Agent) -> None:
    result = agent.run(["sh", "-c", "echo out; echo err >&2; exit 42"])

    assert result.args == ["sh", "-c", "echo out; echo err >&2; exit 42"]
    assert (result.returncode, result.stdout, result.stderr) == (42, "out\n", "err\n")
    assert result.duration_s > 0


def test_death_by_a_signal_is_its_negative(agent: Agent) -> None:
    assert agent.run(["sh", "-c", "kill -SEGV $$"]).returncode == -11


def test_failing_command_is_an_error_on_demand(agent: Agent) -> None:
    with pytest.raises(CommandFailed) as caught:
        agent.run(["sh", "-c", "echo why >&2; exit 3"], check=True)

    assert str(caught.value) == "guest: sh -c 'echo why >&2; exit 3': exit status 3:\n    why"
    assert (caught.value.returncode, caught.value.stderr) == (3, "why\n")


def test_merged_errors_keep_their_place(agent: Agent) -> None:
    result = agent.run(["sh", "-c", "echo 1; echo 2 >&2; echo 3"], merge_stderr=True)

    assert (result.stdout, result.stderr) == ("1\n2\n3\n", "")


def test_arguments_of_any_bytes_arrive(agent: Agent) -> None:
    words = ["ä€😀", "", "a b", "'\"\n\\$x", "\udcff"]
    result = agent.run(["printf", "%s|", *words], text=False)

    assert result.stdout == "ä€😀||a b|'\"\n\\$x|".encode() + b"\xff|"


def test_environment_is_added_or_replaced(agent: Agent) -> None:
    shown = 'echo "$BASE-$OWN"'

    added = agent.run(["/bin/sh", "-c", shown], env={"OWN": "mine"})
    overridden = agent.run(["/bin/sh", "-c", shown], env={"BASE": "other"})
    replaced = agent.run(["/bin/sh", "-c", shown], env={"OWN": "only"}, replace_env=True)

    assert added.stdout == "from the agent-mine\n"
    assert overridden.stdout == "other-\n"
    assert replaced.stdout == "-only\n"


def test_command_runs_in_the_folder_asked_for(agent: Agent, tmp_path: Path) -> None:
    assert agent.run(["pwd"], cwd=str(tmp_path)).stdout == f"{tmp_path}\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_command_runs_as_the_user_asked_for(agent: Agent) -> None:
    user = User(1234, 567, (89, 10))

    with agent.start(["sh", "-c", "id -u; id -g; id -G; pwd"], user=user, cwd="/") as process:
        output = b"".join(one.data for one in process)

    assert output.split() == [b"1234", b"567", b"567", b"10", b"89", b"/"]
    assert agent.run(["id", "-u"]).stdout == "0\n"


@pytest.mark.parametrize("user", [User(-1, 0), User(0, 1 << 32), User(0, 0, (0,) * 65)])
def test_a_user_that_there_cannot_be_is_refused(agent: Agent, user: User) -> None:
    with pytest.raises(ConfigurationError, match="must be"):
        agent.start(["true"], user=user)


def test_command_has_no_signals_blocked_and_a_session_of_its_own(agent: Agent) -> None:
    fields = dict(
        line.split(":", 1) for line in agent.read_file("/proc/self/status").decode().splitlines()
    )
    own = agent.run(["sh", "-c", "cat /proc/self/status; ps -o sid= -p $$; echo $$"])

    assert fields["SigBlk"].strip() != "0000000000000000"
    assert "SigBlk:\t0000000000000000" in own.stdout
    session, process = own.stdout.split()[-2:]
    assert session == process


def test_no_descriptors_but_the_standard_ones_are_inherited(agent: Agent) -> None:
    listed = agent.run(["sh", "-c", "ls /proc/$$/fd"])

    assert listed.stdout.split() == ["0", "1", "2"]


@pytest.mark.parametrize("program", ["/nosuch/program", "no-such-program", ""])
def test_missing_program_is_an_error(program: str, agent: Agent) -> None:
    with pytest.raises(GuestFileNotFoundError, match="cannot execute") as caught:
        agent.run([program])

    assert caught.value.errno == errno.ENOENT


def test_file_that_is_no_program_is_an_error(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    with pytest.raises(GuestPermissionError):
        agent.run([str(tmp_path / "text")])

    (tmp_path / "text").chmod(0o755)
    with pytest.raises(GuestOSError, match="Exec format error"):
        agent.run([str(tmp_path / "text")])


def test_missing_folder_is_an_error(agent: Agent) -> None:
    with pytest.raises(GuestFileNotFoundError, match="cannot enter '/nosuch'"):
        agent.run(["true"], cwd="/nosuch")


def test_timeout_kills_the_whole_group_and_gives_the_output(agent: Agent) -> None:
    with pytest.raises(CommandTimeoutError) as caught:
        agent.run(["sh", "-c", "sleep 1000 & echo $!; wait"], timeout=1)

    wait_for_end_of(int(caught.value.stdout))
    assert "killed after 1 s" in str(caught.value)


def test_command_in_the_background_delays_nothing_and_goes_on(agent: Agent) -> None:
    result = agent.run(["sh", "-c", "sleep 1000 & echo $!"])
    background = int(result.stdout)

    assert is_alive(background)
    os.kill(background, signal.SIGKILL)


def test_background_command_that_never_stops_writing_delays_nothing(agent: Agent) -> None:
    result = agent.run(["sh", "-c", "yes & echo $! >&2"])

    wait_for_end_of(int(result.stderr))
    assert len(result.stdout) < 4 << 20


def test_large_output_arrives_whole(agent: Agent) -> None:
    result = agent.run(["sh", "-c", "head -c 8388608 /dev/zero; echo end"], timeout=200, text=False)

    assert result.stdout == bytes(8388608) + b"end\n"


def test_large_input_arrives_whole(agent: Agent) -> None:
    data = os.urandom(1 << 20)
    result = agent.run(["cat"], input=data, timeout=200, text=False)

    assert result.stdout == data


def test_input_that_is_not_read_holds_nothing_up(agent: Agent) -> None:
    with agent.start(["sleep", "1000"], stdin=True) as process:
        writer = threading.Thread(target=process.write, args=(bytes(97 << 10),))
        writer.start()
        other = agent.run(["echo", "meanwhile"])
        process.kill()
        writer.join(30)

    assert other.stdout == "meanwhile\n"
    assert not writer.is_alive()


def test_command_that_ends_without_reading_its_input_is_well(agent: Agent) -> None:
    assert agent.run(["echo", "done"], input=bytes(1 << 20)).stdout == "done\n"


def test_output_that_is_not_taken_makes_the_command_wait(rig: Rig) -> None:
    agent, _, agents_process = rig
    with agent.start(["yes"]) as process:
        other = agent.run(["echo", "meanwhile"])
        status = Path(f"/proc/{agents_process}/status").read_text()
        first = next(iter(process))

    assert other.stdout == "meanwhile\n"
    assert first.data.startswith(b"y\ny\n")
    assert int(status.partition("VmRSS:")[2].split()[0]) < 2048


def test_conversation_with_a_command(agent: Agent) -> None:
    with agent.start(["cat"], stdin=True, timeout=60) as process:
        output = iter(process)
        process.write("one")
        first = next(output)
        process.write("two")
        second = next(output)
        process.close_stdin()

        assert (first.data, second.data) == (b"one", b"two")
        assert list(output) == []
        assert process.wait(30) == 0


def test_signals_reach_a_command(agent: Agent) -> None:
    with agent.start(["sleep", "1000"]) as process:
        process.terminate()

        assert process.wait(30) == -15
        assert process.returncode == -15


def test_two_commands_that_end_at_once_are_both_told_of(rig: Rig) -> None:
    agent, _, agent_process = rig
    children = Path(f"/proc/{agent_process}/task/{agent_process}/children")
    with agent.start(["sleep", "1000"]) as first, agent.start(["sleep", "1000"]) as second:
        while len(children.read_text().split()) < 2:
            agent.ping()
        os.kill(agent_process, signal.SIGSTOP)  # so that one signal tells of both ends
        try:
            for child in map(int, children.read_text().split()):
                os.kill(child, signal.SIGKILL)
                wait_for_end_of(child)
        finally:
            os.kill(agent_process, signal.SIGCONT)

        assert (first.wait(30), second.wait(30)) == (-9, -9)


def test_more_threads_than_places_are_all_served(agent: Agent) -> None:
    def run(number: int) -> str | bytes:
        return agent.run(["sh", "-c", f"head -c 20000 /dev/zero; echo {number}"]).stdout

    with ThreadPoolExecutor(24) as pool:
        outputs = list(pool.map(run, range(48)))

    assert outputs == ["\0" * 20000 + f"{number}\n" for number in range(48)]


@pytest.mark.parametrize("size", [0, 1, 4096, 100_000, 300_000])
def test_files_are_copied_there_and_back(size: int, agent: Agent, tmp_path: Path) -> None:
    data = os.urandom(size)
    agent.write_file(tmp_path / "copy", data, 0o751)

    assert (tmp_path / "copy").read_bytes() == data
    assert (tmp_path / "copy").stat().st_mode == 0o100751
    assert agent.read_file(tmp_path / "copy") == data


def test_shorter_content_replaces_longer(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1000))
    agent.write_file(tmp_path / "file", "new")

    assert (tmp_path / "file").read_text() == "new"


def test_files_without_a_size_are_read_to_their_end(agent: Agent) -> None:
    assert agent.read_file("/proc/version") == Path("/proc/version").read_bytes()


@pytest.mark.parametrize(
    ("path", "number"), [("/nosuch/file", errno.ENOENT), ("/proc", errno.EISDIR)]
)
def test_files_that_cannot_be_read_say_why(path: str, number: int, agent: Agent) -> None:
    with pytest.raises(GuestOSError, match="cannot read") as caught:
        agent.read_file(path)

    assert caught.value.errno == number


@pytest.mark.parametrize(
    ("path", "number"), [("/nosuch/file", errno.ENOENT), ("/dev/full", errno.ENOSPC)]
)
def test_files_that_cannot_be_written_say_why(path: str, number: int, agent: Agent) -> None:
    with pytest.raises(GuestOSError, match="cannot write") as caught:
        agent.write_file(path, bytes(100_000))

    assert caught.value.errno == number


def test_endless_file_ends_at_the_limit_and_frees_its_place(agent: Agent) -> None:
    for _ in range(20):
        with pytest.raises(Exception, match="/dev/zero: more than 100000 bytes"):
            agent.read_file("/dev/zero", limit_bytes=100_000)

    assert agent.run(["true"]).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may seed the random generator")
def test_random_generator_is_seeded(agent: Agent) -> None:
    agent.refresh(os.urandom(64))


def test_time_that_the_kernel_refuses_is_an_error(agent: Agent) -> None:
    with pytest.raises(GuestOSError, match="cannot refresh"):
        agent.refresh(b"", 2**64 - 1)


@pytest.mark.parametrize("way", ["power_off", "reboot"])
def test_agent_that_is_not_in_a_guest_ends_no_machine(way: str, agent: Agent) -> None:
    with pytest.raises(GuestPermissionError, match="cannot end"):
        getattr(agent, way)(30)


def test_host_that_goes_away_and_comes_back_finds_a_clean_agent(tmp_path: Path) -> None:
    with running_agent(agent_program(), tmp_path) as (agent, _, _):
        process = agent.start(["sh", "-c", "echo $$; sleep 1000"])
        child = int(next(iter(process)).data)
        agent._link.send(struct.pack("<IIB", 100_000, 5, 2))  # the rest never comes
        agent.reset(60)

        wait_for_end_of(child)
        with pytest.raises(AgentLostError, match="was reset"):
            process.wait(30)
        assert agent.run(["echo", "again"]).stdout == "again\n"


def test_idle_agent_sleeps(rig: Rig) -> None:
    agent, _, process = rig

    def context_switches() -> int:
        status = Path(f"/proc/{process}/status").read_text()
        return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    agent.ping()
    before = context_switches()
    time.sleep(0.5)  # not for something to happen: one that looks again and again would wake now

    assert context_switches() - before <= 1


def test_command_with_a_terminal_has_the_size_and_hears_of_another(agent: Agent) -> None:
    script = 'trap "stty size; exit 3" WINCH; stty size; while :; do sleep 0.05; done'
    with agent.start(["sh", "-c", script], terminal=(97, 31), merge_stderr=True) as process:
        seen = b""
        while b"31 97\r\n" not in seen:
            output = process.take()
            assert output is not None
            seen += output.data
        process.resize(120, 40)
        rest = b"".join(output.data for output in process)

    assert b"40 120\r\n" in rest
    assert process.wait() == 3


def test_errors_of_a_command_with_a_terminal_may_be_apart(agent: Agent) -> None:
    script = "test -t 0 && test -t 1 && ! test -t 2 && echo out; echo err >&2"
    with agent.start(["sh", "-c", script], terminal=(80, 24)) as process:
        result = process.communicate(text=False)

    assert (result.stdout, result.stderr) == (b"out\r\n", b"err\n")


def test_writer_learns_that_nobody_reads(agent: Agent) -> None:
    with agent.start(["yes"]) as process:
        assert process.take() is not None
        process.close_output("stdout")

        assert process.wait(30) == -signal.SIGPIPE


def test_stream_without_credit_holds_up_no_other(agent: Agent) -> None:
    script = "yes & sleep 0.2; echo err >&2; kill $!"
    streams = set()
    with agent.start(["sh", "-c", script]) as process:
        while output := process.take():  # of which the guest is told nothing
            streams.add(output.stream)
            if output.stream == "stderr":
                break

    assert streams == {"stdout", "stderr"}
