"""The kernel's log as it comes from the agent: records, the taint, and what cannot be."""

import pytest

from tests.unit.vmm.agent.fake_guest import EXITED_0, OUTPUT, STATUS, FakeGuest
from vmm.agent import Agent, AgentProtocolError, GuestFileNotFoundError
from vmm.agent.kernel_log import KernelLog, KernelRecord

LOG = 13


@pytest.fixture
def guest() -> FakeGuest:
    return FakeGuest()


@pytest.fixture
def agent(guest: FakeGuest) -> Agent:
    made = Agent(guest)
    guest.ready()
    return made


def answer(guest: FakeGuest, *pieces: bytes, status: bytes = EXITED_0) -> None:
    """Have the guest answer each LOG with these pieces of output."""

    def reply(job: int, kind: int, body: bytes) -> None:
        if kind != LOG:  # credit, of which an agent takes no notice here
            return
        for piece in pieces:
            guest.frame(job, OUTPUT, piece)
        guest.frame(job, STATUS, status)

    guest.reply = reply


def test_records_say_who_printed_them(agent: Agent, guest: FakeGuest) -> None:
    answer(guest, b"512\n", b"4,17,1500000,-;bad\\x0aworse\n SUBSYSTEM=pci\n", b"12,18,2,c,x=1;\n")

    log = agent.kernel_log(5)

    assert log == KernelLog(
        512,
        [KernelRecord(0, 4, 17, 1_500_000, "bad\nworse"), KernelRecord(1, 4, 18, 2, "")],
        False,
    )
    assert log.records[0].lines == ["[    1.500000] bad", "[    1.500000] worse"]


def test_taint_that_the_guest_cannot_tell_is_unknown(agent: Agent, guest: FakeGuest) -> None:
    answer(guest, b"\n")

    assert agent.kernel_log(5) == (None, [], False)


@pytest.mark.parametrize("taint", [b"-1\n", b"x\n", b"9" * 21 + b"\n", b"\xb2\n"])
def test_taint_that_is_no_number_is_unknown(agent: Agent, guest: FakeGuest, taint: bytes) -> None:
    answer(guest, taint)

    assert agent.kernel_log(5).tainted is None


@pytest.mark.parametrize(
    "line", [b"x", b"4,1;x", b"99999999999,1,1,-;x", b" 4,1,1,-;x", b"4,1,1,-"]
)
def test_lines_that_are_no_records_are_passed_over(
    agent: Agent, guest: FakeGuest, line: bytes
) -> None:
    answer(guest, b"0\n", line + b"\n")

    assert agent.kernel_log(5).records == []


def test_log_that_does_not_end_is_cut(agent: Agent, guest: FakeGuest) -> None:
    record = b"4,1,1,-;" + b"x" * 991 + b"\n"
    answer(guest, b"0\n", *[record] * 132)

    log = agent.kernel_log(5)

    assert log.cut
    assert len(log.records) == 8 * 132


def test_answer_longer_than_an_agent_gives_is_refused(agent: Agent, guest: FakeGuest) -> None:
    answer(guest, b"0\n", *[bytes(60_000)] * 4)

    with pytest.raises(AgentProtocolError, match="over 139264 bytes of the kernel's log"):
        agent.kernel_log(5)


def test_kernel_without_a_log_is_an_error_of_the_guest(agent: Agent, guest: FakeGuest) -> None:
    answer(guest, b"0\n", status=b"\x04\x02\0\0\0")

    with pytest.raises(GuestFileNotFoundError, match='cannot read "the kernel\'s log"'):
        agent.kernel_log(5)


def test_sixteen_commands_at_work_do_not_hold_up_the_log(agent: Agent, guest: FakeGuest) -> None:
    for _ in range(16):
        agent.start(["sleep", "1000"])
    answer(guest, b"0\n")

    assert agent.kernel_log(5).tainted == 0
