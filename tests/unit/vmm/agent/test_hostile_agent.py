"""The host against an agent that lies, floods or stands still: the clock, the bounds, the errors.

The test plays the guest, whose answers are there before the call that asked returns.
"""

import struct
import threading
import tracemalloc
from collections.abc import Callable

import pytest

from tests.unit.vmm.agent.fake_guest import (
    CONSUMED,
    ERRORS,
    EXITED_0,
    OUTPUT,
    READY,
    READY_BODY,
    REFUSED,
    STATUS,
    FakeGuest,
    frame,
)
from vmm.agent import (
    Agent,
    AgentLostError,
    AgentProtocolError,
    AgentTimeoutError,
    CommandTimeoutError,
)

RUN, READ, CREDIT, KILL = 2, 3, 7, 8
CREDIT_BYTES = 256 << 10


@pytest.fixture
def guest() -> FakeGuest:
    return FakeGuest()


@pytest.fixture
def agent(guest: FakeGuest) -> Agent:
    made = Agent(guest)
    guest.ready()
    return made


def ask(agent: Agent, request: str) -> object:
    """Ask for one thing of each kind."""
    calls: dict[str, Callable[[], object]] = {
        "run": lambda: agent.run(["true"], timeout=5),
        "read": lambda: agent.read_file("/x", 5),
        "write": lambda: agent.write_file("/x", b"data", timeout=5),
        "ping": lambda: agent.ping(5),
        "refresh": lambda: agent.refresh(b"", 1, 5),
        "power_off": lambda: agent.power_off(5),
    }
    return calls[request]()


def number(value: int) -> bytes:
    return struct.pack("<I", value)


def status(how: int, value: int) -> bytes:
    return struct.pack("<BI", how, value)


LIES = {
    "ready instead of a status": ("run", READY, READY_BODY),
    "ready instead of a file": ("read", READY, READY_BODY),
    "a status instead of ready": ("ping", STATUS, EXITED_0),
    "output of a question": ("refresh", OUTPUT, b"x"),
    "output of a file that is written": ("write", OUTPUT, b"x"),
    "errors of a file that is read": ("read", ERRORS, b"x"),
    "space in a file that is read": ("read", CONSUMED, number(1)),
    "exit status 300": ("run", STATUS, status(0, 300)),
    "exit status of a file": ("read", STATUS, status(0, 1)),
    "signal 0": ("run", STATUS, status(1, 0)),
    "signal 65": ("run", STATUS, status(1, 65)),
    "a file that a signal killed": ("read", STATUS, status(1, 9)),
    "a file that is out of time": ("write", STATUS, status(5, 9)),
    "a clock that is not found": ("refresh", STATUS, status(3, 2)),
    "a machine that exits with 3": ("power_off", STATUS, status(0, 3)),
    "errno 0": ("run", STATUS, status(2, 0)),
    "errno 4096": ("read", STATUS, status(4, 4096)),
    "errno 2^32-1": ("run", STATUS, status(4, 0xFFFFFFFF)),
    "a way that there is not": ("run", STATUS, status(6, 0)),
    "a status cut short": ("run", STATUS, bytes(4)),
    "a status with a tail": ("run", STATUS, bytes(6)),
    "ready cut short": ("ping", READY, READY_BODY[:15]),
    "another version": ("ping", READY, READY_BODY.replace(b"agent\x02", b"agent\x01")),
    "refused without an errno": ("run", REFUSED, b"no"),
    "a kind that there is not": ("run", 0x87, b""),
    "a request": ("run", RUN, b""),
    "output without bytes": ("run", OUTPUT, b""),
    "a file without bytes": ("read", OUTPUT, b""),
    "space for nothing": ("write", CONSUMED, number(0)),
    "space for what was not sent": ("run", CONSUMED, number(1)),
    "space beyond all numbers": ("write", CONSUMED, number(0xFFFFFFFF)),
    "space cut short": ("write", CONSUMED, b"\1\0"),
}


@pytest.mark.parametrize(("request_name", "kind", "data"), LIES.values(), ids=list(LIES))
def test_lie_is_a_protocol_error(
    request_name: str, kind: int, data: bytes, agent: Agent, guest: FakeGuest
) -> None:
    guest.reply = lambda job, request, body: guest.frame(job, kind, data)

    with pytest.raises(AgentProtocolError):
        ask(agent, request_name)


def test_file_that_is_written_before_its_end_was_sent_is_a_lie(
    agent: Agent, guest: FakeGuest
) -> None:
    def reply(job: int, kind: int, body: bytes) -> None:
        if kind == 4:
            guest.frame(job, STATUS, EXITED_0)

    guest.reply = reply
    with pytest.raises(AgentProtocolError, match="written before all of it was sent"):
        agent.write_file("/x", b"data")


def test_command_without_a_time_is_not_out_of_time(agent: Agent, guest: FakeGuest) -> None:
    guest.reply = lambda job, kind, body: guest.frame(job, STATUS, status(5, 9))

    with pytest.raises(AgentProtocolError, match="without a time"):
        agent.start(["true"]).wait(5)


def test_second_end_of_a_command_breaks_all_others(agent: Agent, guest: FakeGuest) -> None:
    other = agent.start(["sleep", "1"])
    ended = agent.start(["true"])
    guest.frame(2, STATUS, EXITED_0)
    guest.frame(2, STATUS, EXITED_0)

    assert ended.wait(5) == 0
    with pytest.raises(AgentProtocolError, match="0x85 for no job"):
        other.wait(5)


@pytest.mark.parametrize(
    "data",
    [
        frame(7, OUTPUT, b"for a job that never was"),
        frame(0, OUTPUT, b"for none"),
        frame(1, OUTPUT, b"x" * 65532),
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
    ],
)
def test_agent_that_broke_the_protocol_is_not_waited_for(
    data: bytes, agent: Agent, guest: FakeGuest
) -> None:
    process = agent.start(["true"])
    guest.give(data + bytes(9))

    for call in (process.wait, agent.wait_ready, agent.ping):
        with pytest.raises(AgentProtocolError):
            call(600)


def test_agent_of_another_version_is_not_waited_for(guest: FakeGuest) -> None:
    agent = Agent(guest)
    guest.frame(0, READY, READY_BODY.replace(b"agent\x02", b"agent\x01"))

    with pytest.raises(AgentProtocolError, match="version 1 in the guest, the host's is 2"):
        agent.wait_ready(600)


def test_agent_that_broke_the_protocol_may_begin_anew(agent: Agent, guest: FakeGuest) -> None:
    guest.frame(7, OUTPUT, b"x")
    guest.ready()  # not listened to: its end of the port is still open
    with pytest.raises(AgentProtocolError):
        agent.wait_ready(0)

    guest.guest_closes()
    guest.ready()

    assert agent.wait_ready(0).pid == 42


def test_warnings_of_breaches_are_few(
    agent: Agent, guest: FakeGuest, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1000):
        guest.frame(7, OUTPUT, b"x")
        guest.guest_closes()
        guest.ready()

    assert 1 <= len(caplog.messages) <= 20


def test_text_of_the_guest_is_escaped_and_cut(agent: Agent, guest: FakeGuest) -> None:
    guest.reply = lambda job, kind, body: guest.frame(
        job, REFUSED, number(1) + b"\x1b[2J\nvmm: " + b"x" * 60000
    )

    with pytest.raises(AgentProtocolError) as caught:
        agent.read_file("/x")

    assert r"request: \x1b[2J\nvmm: xxx" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_more_output_than_credit_is_a_breach(agent: Agent, guest: FakeGuest) -> None:
    process = agent.start(["yes"])
    for _ in range(9):
        guest.frame(1, OUTPUT, bytes(32768))

    with pytest.raises(AgentProtocolError, match="more output than it had credit for"):
        process.wait(5)


# Floods


class Flood:
    """A guest whose command has output again before the host looks, for far too long."""

    def __init__(self, guest: FakeGuest, piece: bytes) -> None:
        self.guest = guest
        self.piece = piece
        self.left = 20 * CREDIT_BYTES
        guest.reply = self.reply

    def reply(self, job: int, kind: int, body: bytes) -> None:
        if kind in (RUN, READ):
            self.give(job, CREDIT_BYTES)
        elif kind == CREDIT and self.left > 0:
            self.give(job, min(CREDIT_BYTES, *struct.unpack("<Ix", body)))
        elif kind == CREDIT:
            self.guest.frame(job, STATUS, EXITED_0)

    def give(self, job: int, count: int) -> None:
        self.left -= count
        self.guest.give(frame(job, OUTPUT, self.piece) * (count // len(self.piece)))


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmm.agent.process._GRACE_SECONDS", 0.0)


@pytest.mark.usefixtures("no_grace")
def test_time_of_a_command_ends_under_a_flood(agent: Agent, guest: FakeGuest) -> None:
    Flood(guest, bytes(1024))

    with pytest.raises(CommandTimeoutError, match="killed after 0 s"):
        agent.run(["yes"], timeout=0)


@pytest.mark.usefixtures("no_grace")
def test_time_of_an_iteration_ends_under_a_flood(agent: Agent, guest: FakeGuest) -> None:
    Flood(guest, bytes(1024))

    with pytest.raises(CommandTimeoutError):
        list(agent.start(["yes"], timeout=0))


def test_wait_for_a_command_ends_under_a_flood(agent: Agent, guest: FakeGuest) -> None:
    Flood(guest, bytes(1024))

    with pytest.raises(AgentTimeoutError):
        agent.start(["yes"]).wait(0)


def test_time_of_a_file_ends_under_a_flood(agent: Agent, guest: FakeGuest) -> None:
    Flood(guest, bytes(1024))

    with pytest.raises(AgentTimeoutError, match="read '/x' in 0 s"):
        agent.read_file("/x", 0)


def test_agent_that_begins_again_and_again_ends_calls(agent: Agent, guest: FakeGuest) -> None:
    guest.reply = lambda job, kind, body: guest.give(frame(0, READY, READY_BODY) * 1000)

    with pytest.raises(AgentLostError, match="began anew"):
        agent.run(["true"], timeout=30)


def test_round_of_the_event_loop_takes_few_frames(agent: Agent, guest: FakeGuest) -> None:
    process = agent.start(["yes"])
    many = frame(1, OUTPUT, b"x") * 5000

    taken = guest.offer(many)

    assert (taken, guest.resumed) == (256 * 10, 1)
    guest.give(many[taken:] + frame(1, STATUS, EXITED_0))
    assert process.communicate().stdout == "x" * 5000


def test_frame_cut_by_the_end_of_a_round_arrives_whole(agent: Agent, guest: FakeGuest) -> None:
    process = agent.start(["yes"])
    all_data = frame(1, OUTPUT, b"xyz") * 700 + frame(1, STATUS, EXITED_0)
    for at in range(0, len(all_data), 3001):
        guest.give(all_data[at : at + 3001])

    assert process.communicate().stdout == "xyz" * 700


def test_output_of_an_abandoned_command_is_not_kept(agent: Agent, guest: FakeGuest) -> None:
    with agent.start(["yes"]):
        guest.frame(1, OUTPUT, bytes(60000))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(200):
        guest.frame(1, OUTPUT, bytes(60000))
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    assert after - before < 1 << 20


# A guest that stands still, and whoever leaves


def test_places_of_commands_that_never_end_are_not_waited_for_beyond_the_time(
    agent: Agent, guest: FakeGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmm.agent.client.READY_SECONDS", 0.1)
    for _ in range(16):
        agent.start(["sleep", "1"])

    with pytest.raises(AgentTimeoutError, match="the agent is busy"):
        agent.start(["true"])


def test_questions_without_answers_are_not_many(agent: Agent, guest: FakeGuest) -> None:
    for _ in range(64):
        with pytest.raises(AgentTimeoutError, match="no answer"):
            agent.ping(0)

    with pytest.raises(AgentTimeoutError, match="the agent is busy"):
        agent.ping(0)


class Interruption(BaseException):
    """As pytest-timeout raises one inside of a wait, or Ctrl-C does."""


def interrupted_wait(*_: object) -> None:
    raise Interruption


WAITS: dict[str, Callable[[Agent], object]] = {
    "run": lambda agent: agent.run(["sleep", "1"]),
    "run with input": lambda agent: agent.run(["cat"], input=bytes(100_000)),
    "wait": lambda agent: agent.start(["sleep", "1"]).wait(),
    "write": lambda agent: agent.start(["cat"], stdin=True).write(bytes(100_000)),
    "communicate": lambda agent: agent.start(["sleep", "1"]).communicate(),
    "iteration": lambda agent: list(agent.start(["sleep", "1"])),
    "read_file": lambda agent: agent.read_file("/x"),
    "write_file": lambda agent: agent.write_file("/x", bytes(100_000)),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=list(WAITS))
def test_whatever_leaves_a_wait_abandons_the_job(
    wait: Callable[[Agent], object],
    agent: Agent,
    guest: FakeGuest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests: list[tuple[int, int]] = []
    guest.reply = lambda job, kind, body: requests.append((job, kind))
    with monkeypatch.context() as patch:
        patch.setattr("vmm.agent.job.Job._wait", interrupted_wait)
        with pytest.raises(Interruption):
            wait(agent)

    assert requests[-3:] == [(1, KILL), (1, CREDIT), (1, CREDIT)]
    guest.frame(1, STATUS, status(4, 125))
    guest.reply = lambda job, kind, body: guest.frame(job, STATUS, EXITED_0)
    assert agent.run(["true"]).returncode == 0


def test_caller_whose_own_time_is_over_may_wait_again(agent: Agent, guest: FakeGuest) -> None:
    process = agent.start(["sleep", "1"])
    told = r"guest: sleep 1: still runs after 0 s \(it began [0-9.e-]+ s ago\)"
    with pytest.raises(AgentTimeoutError, match=told):
        process.wait(0)

    guest.frame(1, STATUS, EXITED_0)

    assert process.wait(0) == 0


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda agent: agent.write_file("/big", bytes(100_000), timeout=0.1), r"write '/big' in"),
        (lambda agent: agent.read_file("/big", 0.1), r"read '/big' in 0\.1 s \(0 bytes went over"),
    ],
)
def test_file_that_takes_too_long_is_named(
    call: Callable[[Agent], object], told: str, agent: Agent
) -> None:
    with pytest.raises(AgentTimeoutError, match=told):
        call(agent)


def test_file_on_its_way_at_the_end_of_the_machine_is_named_with_what_was_over(
    agent: Agent, guest: FakeGuest
) -> None:
    def reply(job: int, kind: int, body: bytes) -> None:
        if kind == 5:
            agent.fail(AgentLostError("agent: the machine has ended: it was stopped"))

    guest.reply = reply
    with pytest.raises(AgentLostError) as caught:
        agent.write_file("/opt/big", bytes(100_000))

    assert "it was stopped (to write '/opt/big': " in str(caught.value)
    assert caught.value.doing.startswith("'/opt/big' was written, ")
    assert caught.value.doing.endswith(" of 100000 bytes")


def test_large_file_has_more_time(agent: Agent, guest: FakeGuest) -> None:
    from vmm.agent.files import Transfer

    transfer = Transfer("write", b"/big", None)
    assert transfer.seconds == 60
    transfer.moved = 48 << 20
    assert transfer.seconds == 60 + 768


# Restored guests


def test_held_calls_wait_each_for_its_time(agent: Agent) -> None:
    agent.hold()

    with pytest.raises(AgentTimeoutError, match="not ready"):
        agent.wait_ready(0)


def test_renewal_comes_before_calls_that_were_held(agent: Agent, guest: FakeGuest) -> None:
    kinds: list[int] = []

    def reply(job: int, kind: int, body: bytes) -> None:
        kinds.append(kind)
        guest.frame(job, STATUS, EXITED_0)

    guest.reply = reply
    guest.open = guest.ready  # type: ignore[method-assign]
    agent.hold()
    held = threading.Thread(target=agent.run, args=(["true"],))
    held.start()
    agent.renew(b"seed", 1)
    held.join(30)

    assert kinds == [9, RUN]


def test_failed_renewal_lets_calls_through(agent: Agent, guest: FakeGuest) -> None:
    guest.notices = False
    agent.hold()
    with pytest.raises(AgentTimeoutError, match="did not notice"):
        agent.renew(b"seed", 1, timeout=0)

    guest.guest_closes()  # it noticed after all
    guest.ready()

    assert guest.is_open
    assert agent.wait_ready(0).pid == 42
