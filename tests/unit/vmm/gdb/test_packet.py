"""Packets of GDB's remote protocol, whole, cut, garbled and too long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.gdb.packet import BadPacket, PacketReader, escaped, packet, unescaped


def whole(data: bytes) -> list[bytes | BadPacket]:
    return list(PacketReader().feed(data))


def test_packets_and_single_bytes_come_in_order() -> None:
    content = b"qSupported:swbreak+"

    assert whole(b"+" + packet(content) + b"-\x03$g#67") == [
        *(b"+", b"$" + content, b"-", b"\x03", b"$g"),
    ]


@given(st.lists(st.integers(1, 8), min_size=1, max_size=30))
def test_a_stream_means_the_same_however_it_is_cut(sizes: list[int]) -> None:
    stream = b"+" + packet(b"m1000,40") + b"\x03" + packet(b"X0,1:}]")
    reader, seen, at = PacketReader(), [], 0
    for size in [*sizes, len(stream)]:
        seen += list(reader.feed(stream[at : at + size]))
        at += size

    assert seen == [b"+", b"$m1000,40", b"\x03", b"$X0,1:}]"]


def test_a_wrong_checksum_is_a_bad_packet_and_the_next_one_is_good() -> None:
    first, second = whole(b"$g#00$g#67")

    assert isinstance(first, BadPacket)
    assert second == b"$g"


def test_a_packet_that_was_cut_is_lost_where_the_next_one_begins() -> None:
    first, second = whole(b"$m1000,4$g#67")

    assert isinstance(first, BadPacket)
    assert second == b"$g"


def test_bytes_that_belong_to_no_packet_are_dropped() -> None:
    assert whole(b"GET / HTTP/1.0\r\n\r\n$g#67") == [b"$g"]


def test_a_packet_without_an_end_takes_no_more_memory_than_a_packet() -> None:
    reader = PacketReader()
    seen = list(reader.feed(b"$" + b"m" * 20000))
    for _ in range(100):
        seen += list(reader.feed(b"m" * 20000))
    kept = len(reader._data)
    seen += list(reader.feed(b"m#00$g#67"))

    assert kept == 0
    assert [type(one) for one in seen] == [BadPacket, bytes]


@pytest.mark.parametrize("digits", [b"zz", b"6", b"-7"])
def test_a_checksum_that_is_no_number_is_no_packet(digits: bytes) -> None:
    assert b"$g" not in whole(b"$g#" + digits)


@given(st.binary())
def test_binary_data_survives_escaping(data: bytes) -> None:
    text = escaped(data)

    assert unescaped(text) == data
    assert not set(text) & set(b"$#*")
