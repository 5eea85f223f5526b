"""The client of the agent, against a guest that the test plays."""

import struct
import threading

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
)
from virtio.errors import Error
from vmm.agent import (
    Agent,
    AgentLostError,
    AgentProtocolError,
    AgentTimeoutError,
    GuestFileNotFoundError,
    GuestPermissionError,
    OutputLimitError,
)


@pytest.fixture
def guest() -> FakeGuest:
    return FakeGuest()


@pytest.fixture
def agent(guest: FakeGuest) -> Agent:
    made = Agent(guest)
    guest.ready()
    return made


def test_host_end_is_opened_at_once(guest: FakeGuest) -> None:
    Agent(guest)

    assert guest.is_open


def test_agent_that_does_not_come_is_a_timeout(guest: FakeGuest) -> None:
    with pytest.raises(AgentTimeoutError, match="the agent is not ready"):
        Agent(guest).wait_ready(0.01)


def test_guest_that_takes_one_byte_at_a_time_gets_all(agent: Agent, guest: FakeGuest) -> None:
    guest.takes = 1
    guest.reply = lambda job, kind, body: guest.frame(job, STATUS, EXITED_0)
    process = agent.start(["echo", "a" * 1000])
    for _ in range(2000):
        guest.takes = 1
        assert guest.on_space
        guest.on_space()

    assert process.wait(5) == 0


def test_input_waits_for_what_the_guest_consumes(agent: Agent, guest: FakeGuest) -> None:
    received = bytearray()

    def reply(job: int, kind: int, body: bytes) -> None:
        received.extend(body if kind == 5 else b"")

    guest.reply = reply
    process = agent.start(["cat"], stdin=True)
    with pytest.raises(AgentTimeoutError, match=r"guest: cat: does not take its input after 0\.05"):
        process.write(bytes(100_000), timeout=0.05)
    assert len(received) == 32768

    guest.frame(1, CONSUMED, struct.pack("<I", 16384))
    with pytest.raises(AgentTimeoutError):
        process.write(bytes(100_000), timeout=0.05)

    assert len(received) == 32768 + 16384


def test_credit_is_given_for_what_is_taken(agent: Agent, guest: FakeGuest) -> None:
    credits: list[tuple[int, int]] = []

    def reply(job: int, kind: int, body: bytes) -> None:
        credits.extend(struct.iter_unpack("<IB", body) if kind == 7 else ())

    guest.reply = reply
    process = agent.start(["yes"])
    for _ in range(8):
        guest.frame(1, OUTPUT, bytes(32768))
    assert credits == []

    assert len(next(iter(process)).data) == 262144
    assert credits == [(262144, 0)]


def test_seventeenth_command_waits_for_a_place(agent: Agent, guest: FakeGuest) -> None:
    processes = [agent.start(["sleep", "1"]) for _ in range(16)]
    seventeenth: list[int] = []
    thread = threading.Thread(target=lambda: seventeenth.append(agent.start(["true"]).wait(30)))
    thread.start()
    guest.reply = lambda job, kind, body: guest.frame(job, STATUS, EXITED_0)
    guest.frame(5, STATUS, EXITED_0)
    thread.join(30)

    assert seventeenth == [0]
    assert processes[4].wait(5) == 0
    assert processes[5].returncode is None


def test_hello_has_an_answer(agent: Agent, guest: FakeGuest) -> None:
    guest.reply = lambda job, kind, data: guest.frame(job, READY, READY_BODY)

    assert agent.ping(5).release == "6.1"


def test_refused_request_is_an_error_of_its_call(agent: Agent, guest: FakeGuest) -> None:
    guest.reply = lambda job, kind, body: guest.frame(job, REFUSED, b"\x10\0\0\0too many")

    with pytest.raises(AgentProtocolError, match="refused a request: too many"):
        agent.read_file("/x")


def test_agent_that_begins_anew_has_lost_its_commands(agent: Agent, guest: FakeGuest) -> None:
    process = agent.start(["sleep", "1"])
    guest.ready()

    with pytest.raises(AgentLostError, match="began anew"):
        process.wait(5)
    assert agent.wait_ready(1).pid == 42


def test_guest_that_closes_the_port_has_lost_its_commands(agent: Agent, guest: FakeGuest) -> None:
    process = agent.start(["sleep", "1"])
    guest.guest_closes()

    with pytest.raises(AgentLostError, match="closed the port"):
        process.wait(5)


def test_reset_waits_until_the_guest_has_closed_its_end(agent: Agent, guest: FakeGuest) -> None:
    process = agent.start(["sleep", "1"])
    guest.notices = False

    with pytest.raises(AgentTimeoutError, match="did not notice"):
        agent.reset(0.05)
    with pytest.raises(AgentLostError, match="was reset"):
        process.wait(5)


def test_reset_passes_over_what_still_comes_of_before(agent: Agent, guest: FakeGuest) -> None:
    def reopened() -> None:
        assert guest.on_data
        guest.on_data(b"\xff\xff\xff\xff old frame cut in the middle")
        guest.ready()

    guest.open = reopened  # type: ignore[method-assign]

    assert agent.reset(5).pid == 42


def test_end_of_the_machine_is_raised_by_waiting_and_later_calls(
    agent: Agent, guest: FakeGuest
) -> None:
    process = agent.start(["sleep", "1"])
    agent.fail(Error("the machine ended"))

    with pytest.raises(Error, match="the machine ended"):
        process.wait(5)
    with pytest.raises(Error, match="the machine ended"):
        agent.run(["true"])
    with pytest.raises(Error, match="the machine ended"):
        agent.wait_ready(5)


def test_power_off_returns_when_the_machine_has_ended(agent: Agent, guest: FakeGuest) -> None:
    requests: list[bytes] = []

    def reply(job: int, kind: int, body: bytes) -> None:
        requests.append(bytes([kind]) + body)
        agent.fail(Error("the machine ended"))

    guest.reply = reply
    agent.power_off(5)

    assert requests == [b"\x0a\x00\x00"]


def test_power_off_is_not_over_when_the_port_closes(agent: Agent, guest: FakeGuest) -> None:
    ended = threading.Event()

    def end() -> None:
        ended.set()
        agent.fail(Error("the machine ended"))

    def reply(job: int, kind: int, body: bytes) -> None:
        guest.guest_closes()
        threading.Timer(0.05, end).start()

    guest.reply = reply
    agent.power_off(60)

    assert ended.is_set()


def test_power_off_that_the_guest_confirms_before_the_host_sees_it_is_not_over_yet(
    agent: Agent, guest: FakeGuest
) -> None:
    ended = threading.Event()

    def end() -> None:
        ended.set()
        agent.fail(Error("the machine ended"))

    def reply(job: int, kind: int, body: bytes) -> None:
        guest.frame(job, STATUS, b"\x00\0\0\0\0")
        threading.Timer(0.05, end).start()

    guest.reply = reply
    agent.report(0, 60)

    assert ended.is_set()


def test_power_off_of_a_machine_that_goes_on_is_an_error(agent: Agent, guest: FakeGuest) -> None:
    guest.reply = lambda job, kind, body: guest.guest_closes()

    with pytest.raises(AgentTimeoutError, match="the machine goes on"):
        agent.power_off(0.1)


def test_power_off_that_is_not_allowed_is_an_error(agent: Agent, guest: FakeGuest) -> None:
    guest.reply = lambda job, kind, body: guest.frame(job, STATUS, b"\x04\x01\0\0\0")

    with pytest.raises(GuestPermissionError, match="cannot end 'machine': Operation not permitted"):
        agent.report(7, 5)


def ends_with_127(guest: FakeGuest, stream: int, told: bytes) -> None:
    def reply(job: int, kind: int, body: bytes) -> None:
        guest.frame(job, stream, told)
        guest.frame(job, STATUS, b"\x00\x7f\0\0\0")

    guest.reply = reply


@pytest.mark.parametrize("stream", [OUTPUT, ERRORS])
def test_name_that_busybox_does_not_have_is_an_error(
    stream: int, agent: Agent, guest: FakeGuest
) -> None:
    ends_with_127(guest, stream, b"nosuch: applet not found\n")

    with pytest.raises(GuestFileNotFoundError, match="cannot execute 'nosuch'"):
        agent.run(["nosuch"])


def test_status_127_is_a_result_otherwise(agent: Agent, guest: FakeGuest) -> None:
    ends_with_127(guest, ERRORS, b"sh: nosuch: not found\n")

    assert agent.run(["sh", "-c", "nosuch"]).returncode == 127


def test_endless_output_ends_at_the_limit(agent: Agent, guest: FakeGuest) -> None:
    requests: list[int] = []

    def reply(job: int, kind: int, body: bytes) -> None:
        requests.append(kind)
        if kind == 2:
            guest.frame(job, OUTPUT, bytes(1001))

    guest.reply = reply
    with pytest.raises(OutputLimitError, match="yes: more than 1000 bytes"):
        agent.run(["yes"], limit_bytes=1000)

    assert requests == [2, 8, 7, 7]


@pytest.mark.parametrize(
    ("argv", "error"),
    [("ls -l", TypeError), (b"ls", TypeError), ([], ValueError), (["a\0b"], ValueError)],
)
def test_words_that_are_no_words_are_refused(
    argv: list[str], error: type[Exception], agent: Agent
) -> None:
    with pytest.raises(error):
        agent.run(argv)


@pytest.mark.parametrize("name", ["", "A=B"])
def test_variable_without_a_proper_name_is_refused(name: str, agent: Agent) -> None:
    with pytest.raises(ValueError, match="environment variable"):
        agent.run(["true"], env={name: "x"})


def test_calls_of_a_machine_that_stands_still_raise_until_it_goes_on(guest: FakeGuest) -> None:
    agent, stands = Agent(guest), Error("the machine stands still")
    agent.interrupt(stands)
    with pytest.raises(Error, match="stands still"):
        agent.wait_ready(60)
    agent.interrupt(None)
    guest.ready()
    process = agent.start(["sleep", "60"])
    raised: list[Error] = []

    def wait() -> None:
        try:
            process.wait(60)
        except Error as error:
            raised.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    agent.interrupt(stands)
    waiting.join(60)
    with pytest.raises(Error, match="stands still"):
        process.wait(60)
    with pytest.raises(Error, match="stands still"):
        agent.run(["true"], timeout=60)
    agent.interrupt(None)
    guest.frame(1, STATUS, EXITED_0)

    assert [str(error) for error in raised] == ["the machine stands still"]
    assert process.wait(60) == 0
