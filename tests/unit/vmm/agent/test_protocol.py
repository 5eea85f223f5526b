"""The requests of the agent's protocol, against bytes written down by hand."""

import pytest

from virtio.errors import ConfigurationError
from vmm.agent import protocol
from vmm.agent.protocol import Flag, Request


def test_request_is_length_id_kind_and_data_in_little_endian() -> None:
    assert protocol.encode(0x01020304, Request.DATA, b"ab") == bytes.fromhex(
        "07000000 04030201 05 6162"
    )


def test_request_without_data_is_nine_bytes() -> None:
    assert protocol.encode(7, Request.HELLO) == bytes.fromhex("05000000 07000000 01")


def test_number_follows_the_head() -> None:
    killed = protocol.encode_number(1, Request.KILL, 0x40000)

    assert killed == bytes.fromhex("09000000 01000000 08 00000400")


def test_credit_is_for_one_stream() -> None:
    output = protocol.encode_credit(1, 0x40000, errors=False)
    errors = protocol.encode_credit(1, 0x40000, errors=True)

    assert output == bytes.fromhex("0a000000 01000000 07 00000400 00")
    assert errors == bytes.fromhex("0a000000 01000000 07 00000400 01")


def test_size_is_columns_and_rows() -> None:
    assert protocol.encode_size(1, (80, 25)) == bytes.fromhex("09000000 01000000 0b 5000 1900")


def test_command_is_limits_counts_flags_and_words_with_their_zeros() -> None:
    data = protocol.command(
        [b"ls", b"-l"],
        [b"A=b"],
        b"/tmp",
        flags=Flag.MERGE_ERRORS | Flag.REPLACE_ENVIRONMENT,
        timeout_ms=1000,
        credit=0x40000,
        size=(80, 25),
    )

    assert (
        data == bytes.fromhex("e8030000 00000400 0200 0100 05 5000 1900") + b"/tmp\0ls\0-l\0A=b\0"
    )


def test_file_is_a_number_and_a_path_with_its_zero() -> None:
    assert protocol.file(0o644, b"/etc/x") == bytes.fromhex("a4010000") + b"/etc/x\0"


def test_refreshment_is_nanoseconds_and_seed() -> None:
    assert protocol.refreshment(b"seed", 0x0102) == bytes.fromhex("0201000000000000") + b"seed"


def test_request_longer_than_the_guest_takes_is_refused() -> None:
    longest = protocol.encode(1, Request.DATA, bytes(131067))

    assert len(longest) == 131076
    with pytest.raises(ConfigurationError, match="131073 bytes: must be at most 131072"):
        protocol.encode(1, Request.DATA, bytes(131068))


def test_too_many_words_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="8190 arguments and variables: must be at most"):
        protocol.command([b"x"] * 8190, [], b"", flags=Flag(0), timeout_ms=0, credit=0)


def test_longer_seed_than_the_guest_takes_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="513 bytes: must be at most 512"):
        protocol.refreshment(bytes(513), 0)
