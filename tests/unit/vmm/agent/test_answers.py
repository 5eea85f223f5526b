"""The answers of the agent's protocol, against bytes written down by hand."""

import pytest

from vmm.agent import AgentProtocolError, answers
from vmm.agent.answers import Decoder
from vmm.agent.protocol import Frame

READY = (
    bytes.fromhex("17000000 00000000 81") + b"vmmagent" + bytes.fromhex("02000000 2a000000 36 2e")
)


def cut(data: bytes) -> list[Frame]:
    return Decoder().feed(data)[0]


def test_ready_says_version_process_and_release() -> None:
    [frame] = cut(READY)

    assert answers.ready(frame) == (2, 42, "6.")


def test_ready_of_another_version_is_refused() -> None:
    [frame] = cut(READY.replace(b"agent\x02", b"agent\x01"))

    with pytest.raises(AgentProtocolError, match="version 1 in the guest, the host's is 2"):
        answers.ready(frame)


def test_status_is_how_and_value() -> None:
    assert answers.status(Frame(1, 0x85, bytes.fromhex("01 0b000000"))) == (1, 11)


def test_consumed_is_a_number() -> None:
    assert answers.number(Frame(1, 0x84, bytes.fromhex("00400000"))) == 16384


def test_refusal_is_its_text_behind_an_errno() -> None:
    assert answers.refusal(Frame(1, 0x86, bytes.fromhex("10000000") + b"busy")) == "busy"


@pytest.mark.parametrize("data", [b"", b"\0" * 4])
def test_answer_shorter_than_its_layout_is_refused(data: bytes) -> None:
    with pytest.raises(AgentProtocolError, match=f"with {len(data)} bytes: must be 5"):
        answers.status(Frame(1, 0x85, data))


def test_frames_are_cut_wherever_the_stream_was() -> None:
    stream = READY + bytes.fromhex("07000000 01000000 82 6162 05000000 02000000 82")
    decoder = Decoder()

    frames = [frame for at in range(len(stream)) for frame in decoder.feed(stream[at : at + 1])[0]]

    assert [frame[:2] for frame in frames] == [(0, 0x81), (1, 0x82), (2, 0x82)]
    assert [frame.data for frame in frames[1:]] == [b"ab", b""]


def test_remains_of_an_earlier_conversation_are_passed_over() -> None:
    decoder = Decoder()

    assert decoder.feed(b"\xff" * 5000 + READY[:10])[0] == []
    assert [frame.kind for frame in decoder.feed(READY[10:])[0]] == [0x81]


def test_ready_to_a_question_is_not_where_a_conversation_begins() -> None:
    answer = READY[:4] + b"\x05" + READY[5:]

    assert cut(answer) == []


@pytest.mark.parametrize("length", ["00000000", "04000000", "01000100", "ffffffff"])
def test_length_out_of_range_is_refused(length: str) -> None:
    decoder = Decoder()
    decoder.feed(READY)

    with pytest.raises(AgentProtocolError, match="must be 5 to 65536"):
        decoder.feed(bytes.fromhex(length) + bytes(5))
