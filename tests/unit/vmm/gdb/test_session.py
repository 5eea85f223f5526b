"""What a debugger is answered, from the protocol's own description, with a machine made up."""

from xml.etree import ElementTree

import pytest

from tests.unit.vmm.gdb.fake_target import FakeTarget
from virtio.errors import ConfigurationError
from vmm.ending.ending import End, Ending
from vmm.gdb.session import Session
from vmm.gdb.stop import Stop


def monitor(text: str) -> str:
    if text == "bad":
        raise ConfigurationError("no command 'bad'")
    return f"{text}!\n"


@pytest.fixture
def target() -> FakeTarget:
    return FakeTarget()


@pytest.fixture
def session(target: FakeTarget) -> Session:
    return Session(target, Stop(1), monitor)


def test_a_debugger_learns_of_the_stop_and_its_thread(session: Session) -> None:
    assert session.answer(b"?") == b"T05thread:2;"
    assert session.answer(b"qC") == b"QC2"
    assert session.answer(b"qfThreadInfo") == b"m1,2"
    assert session.answer(b"qsThreadInfo") == b"l"
    assert session.answer(b"qThreadExtraInfo,1") == b"vCPU 0".hex().encode()


def test_the_target_description_is_a_document_that_comes_in_parts(session: Session) -> None:
    text, part = b"", b"m"
    while part[:1] == b"m":
        part = session.answer(b"qXfer:features:read:target.xml:%x,100" % len(text)) or b""
        text += part[1:].replace(b"}\n", b"*").replace(b"}\x03", b"#").replace(b"}]", b"}")
    root = ElementTree.fromstring(text)

    assert [one.get("name") for one in root.iter("feature")] == [
        *("org.gnu.gdb.i386.core", "org.gnu.gdb.i386.sse", "org.gnu.gdb.i386.segments"),
        *("org.gnu.gdb.i386.avx", "org.pyvmm.x86.system"),
    ]
    # GDB "i386 Features" and gdb/features/i386/64bit-core.xml.
    assert [one.get("name") for one in root.iter("reg")][:24] == [
        *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11"),
        *("r12", "r13", "r14", "r15", "rip", "eflags", "cs", "ss", "ds", "es", "fs", "gs"),
    ]


def test_all_registers_come_in_the_sizes_that_the_description_tells(session: Session) -> None:
    described = session.answer(b"qXfer:features:read:target.xml:0,4000") or b""
    bits = [
        int(one.get("bitsize", "0")) for one in ElementTree.fromstring(described[1:]).iter("reg")
    ]

    assert len(session.answer(b"g") or b"") == sum(bits) // 4
    assert session.answer(b"p0") == b"08" * 8


def test_a_register_is_set_by_its_number_and_only_whole(
    session: Session, target: FakeTarget
) -> None:
    assert session.answer(b"P10=0011223344556677") == b"OK"
    assert session.answer(b"P10=0011") == b"E16"
    assert session.answer(b"Pfff=0011223344556677") == b"E16"
    assert {one.name: data.hex() for one, data in target.written.items()} == {
        "rip": "0011223344556677"
    }


def test_memory_is_read_as_far_as_it_is_there(session: Session) -> None:
    assert session.answer(b"mffff800000000000,4") == b"00010203"
    assert session.answer(b"mffff800000001ffe,4") == b"feff"
    assert session.answer(b"m0,4") == b"E0e"


def test_memory_is_written_in_hexadecimal_and_in_binary(
    session: Session, target: FakeTarget
) -> None:
    assert session.answer(b"Mffff800000000000,2:abcd") == b"OK"
    assert session.answer(b"Xffff800000000002,2:}\x03}]") == b"OK"
    assert session.answer(b"M0,2:abcd") == b"E0e"
    assert target.memory[:5] == b"\xab\xcd#}\x04"


def test_breakpoints_of_all_kinds_come_and_go(session: Session, target: FakeTarget) -> None:
    place = b"ffff800000000010"
    answers = [session.answer(b"Z%d,%s,1" % (kind, place)) for kind in range(6)]

    assert answers == [b"OK", b"OK", b"OK", b"", b"OK", b""]
    assert session.answer(b"Z0,10,1") == b"E01"
    assert [session.answer(b"z%d,%s,1" % (kind, place)) for kind in range(5)] == [b"OK"] * 5
    assert target.breakpoints == []


def test_the_first_action_that_fits_is_a_threads(session: Session, target: FakeTarget) -> None:
    assert session.answer(b"vCont?") == b"vCont;c;C;s;S"
    assert session.answer(b"vCont;s:1;c") is None
    assert session.running
    assert session.stopped(Stop(0)) == b"T05thread:1;"
    assert session.answer(b"vCont;s:2") is None
    assert target.moves == [{0: "step", 1: "continue"}, {1: "step"}]


def test_stops_at_breakpoints_say_which(session: Session) -> None:
    assert session.stopped(Stop(0, kind="swbreak", address=5)) == b"T05thread:1;swbreak:;"
    assert session.stopped(Stop(0, kind="hwbreak", address=5)) == b"T05thread:1;hwbreak:;"
    assert session.stopped(Stop(0, kind="watch", address=0xAB)) == b"T05thread:1;watch:ab;"


def test_what_the_host_refuses_is_an_error_and_no_end(
    session: Session, target: FakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    def insert(*_: object) -> bool:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(target, "insert", insert)

    assert session.answer(b"Z2,0,4") == b"E16"
    assert not session.over


def test_an_interruption_stops_only_what_runs(session: Session) -> None:
    assert session.interrupt() is None
    session.answer(b"c")
    assert session.interrupt() == b"T02thread:1;"
    assert not session.running


def test_an_orderly_end_is_an_exit_and_a_crash_is_a_stop_to_look_at(session: Session) -> None:
    panicked = Ending(End.PANIC, "panic", [])

    assert session.ended(Ending(End.REPORTED, "7", reported=7)) == b"W07"
    assert session.ended(panicked) == b"T06thread:2;"


def test_who_goes_on_after_a_crash_is_told_of_the_end(session: Session, target: FakeTarget) -> None:
    target.ending = Ending(End.PANIC, "panic", [])

    assert session.answer(b"vCont;c") == b"W79"
    assert session.over
    assert target.moves == []


def test_who_detaches_goes_and_who_kills_ends_the_guest(target: FakeTarget) -> None:
    first, second = Session(target, Stop(0), monitor), Session(target, Stop(0), monitor)
    assert first.answer(b"D") == b"OK"
    assert not target.ended
    assert second.answer(b"k") is None
    assert (first.over, second.over, target.ended) == (True, True, True)


def test_our_commands_are_answered_with_text(session: Session) -> None:
    assert session.answer(b"qRcmd," + b"queues".hex().encode()) == b"queues!\n".hex().encode()
    assert bytes.fromhex((session.answer(b"qRcmd,626164") or b"").decode()) == b"no command 'bad'\n"


def test_acknowledgements_can_be_switched_off(session: Session) -> None:
    assert session.acknowledges
    assert session.answer(b"QStartNoAckMode") == b"OK"
    assert not session.acknowledges


@pytest.mark.parametrize(
    "content",
    [
        *(b"mzz,4", b"m1", b"m1,2,3", b"M0,2", b"Z0", b"Z0,1", b"p", b"pzz", b"P=", b"G00", b"T9"),
        *(b"vCont;x", b"vCont;s:9", b"Hg99", b"qRcmd,zz", b"qThreadExtraInfo,", b"X0,5:ab"),
        b"qXfer:features:read:target.xml:x,1",
    ],
)
def test_a_packet_that_makes_no_sense_is_an_error(session: Session, content: bytes) -> None:
    assert (session.answer(content) or b"").startswith(b"E")


@pytest.mark.parametrize("content", [b"", b"!", b"vMustReplyEmpty", b"qUnknown", b"QNonStop:1"])
def test_an_unknown_packet_has_the_empty_answer(session: Session, content: bytes) -> None:
    assert session.answer(content) == b""
