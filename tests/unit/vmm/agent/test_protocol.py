"""Frames of the agent's protocol, against bytes written down by hand."""

import pytest

from virtio.errors import ConfigurationError
from vmm.agent import protocol
from vmm.agent.protocol import Decoder, Flag, Frame, ProtocolError, Request

READY = (
    bytes.fromhex("17000000 00000000 81") + b"vmmagent" + bytes.fromhex("01000000 2a000000 36 2e")
)


def test_request_is_length_id_kind_and_data_in_little_endian() -> None:
    assert protocol.encode(0x01020304, Request.DATA, b"ab") == bytes.fromhex(
        "07000000 04030201 05 6162"
    )


def test_request_without_data_is_nine_bytes() -> None:
    assert protocol.encode(7, Request.HELLO) == bytes.fromhex("05000000 07000000 01")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Request.CREDIT, "09000000 01000000 07 00000400"),
        (Request.KILL, "09000000 01000000 08 00000400"),
    ],
)
def test_number_follows_the_head(kind: Request, expected: str) -> None:
    assert protocol.encode_number(1, kind, 0x40000) == bytes.fromhex(expected)


def test_command_is_limits_counts_flags_and_words_with_their_zeros() -> None:
    data = protocol.command(
        [b"ls", b"-l"],
        [b"A=b"],
        b"/tmp",
        flags=Flag.MERGE_ERRORS | Flag.REPLACE_ENVIRONMENT,
        timeout_ms=1000,
        credit=0x40000,
    )

    assert data == bytes.fromhex("e8030000 00000400 0200 0100 05") + b"/tmp\0ls\0-l\0A=b\0"


def test_file_is_a_number_and_a_path_with_its_zero() -> None:
    assert protocol.file(0o644, b"/etc/x") == bytes.fromhex("a4010000") + b"/etc/x\0"


def test_refreshment_is_nanoseconds_and_seed() -> None:
    assert protocol.refreshment(b"seed", 0x0102) == bytes.fromhex("0201000000000000") + b"seed"


def test_request_longer_than_the_guest_takes_is_refused() -> None:
    longest = protocol.encode(1, Request.DATA, bytes(131067))

    assert len(longest) == 131076
    with pytest.raises(ConfigurationError, match="131073 bytes: at most 131072"):
        protocol.encode(1, Request.DATA, bytes(131068))


def test_too_many_words_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="8190 arguments and variables: at most 8189"):
        protocol.command([b"x"] * 8190, [], b"", flags=Flag(0), timeout_ms=0, credit=0)


def test_longer_seed_than_the_guest_takes_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="513 bytes: at most 512"):
        protocol.refreshment(bytes(513), 0)


def test_ready_says_version_process_and_release() -> None:
    [frame] = Decoder().feed(READY)

    assert protocol.ready(frame) == (1, 42, "6.")


def test_ready_of_another_version_is_refused() -> None:
    [frame] = Decoder().feed(READY.replace(b"agent\x01", b"agent\x02"))

    with pytest.raises(ProtocolError, match="version 2 in the guest, the host's is 1"):
        protocol.ready(frame)


def test_status_is_how_and_value() -> None:
    assert protocol.status(Frame(1, 0x85, bytes.fromhex("01 0b000000"))) == (1, 11)


def test_consumed_is_a_number() -> None:
    assert protocol.number(Frame(1, 0x84, bytes.fromhex("00400000"))) == 16384


def test_refusal_is_its_text_behind_an_errno() -> None:
    assert protocol.refusal(Frame(1, 0x86, bytes.fromhex("10000000") + b"busy")) == "busy"


@pytest.mark.parametrize("data", [b"", b"\0" * 4])
def test_answer_shorter_than_its_layout_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match=f"with {len(data)} bytes: at least 5"):
        protocol.status(Frame(1, 0x85, data))


def test_frames_are_cut_wherever_the_stream_was() -> None:
    stream = READY + bytes.fromhex("07000000 01000000 82 6162 05000000 02000000 82")
    decoder = Decoder()

    frames = [frame for at in range(len(stream)) for frame in decoder.feed(stream[at : at + 1])]

    assert [frame[:2] for frame in frames] == [(0, 0x81), (1, 0x82), (2, 0x82)]
    assert [frame.data for frame in frames[1:]] == [b"ab", b""]


def test_remains_of_an_earlier_conversation_are_passed_over() -> None:
    decoder = Decoder()

    assert decoder.feed(b"\xff" * 5000 + READY[:10]) == []
    assert [frame.kind for frame in decoder.feed(READY[10:])] == [0x81]


def test_ready_to_a_question_is_not_where_a_conversation_begins() -> None:
    answer = READY[:4] + b"\x05" + READY[5:]

    assert Decoder().feed(answer) == []


@pytest.mark.parametrize("length", ["00000000", "04000000", "01000100", "ffffffff"])
def test_length_out_of_range_is_refused(length: str) -> None:
    decoder = Decoder()
    decoder.feed(READY)

    with pytest.raises(ProtocolError, match="5 to 65536 are allowed"):
        decoder.feed(bytes.fromhex(length) + bytes(5))
