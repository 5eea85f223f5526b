"""Checksums as the Internet computes them, and frames that are cut in bounds."""

import pytest

from tests.spec.net import NEEDS_CSUM, TCPV4, header, ip_frame, word_sum
from virtio.net.offload import checksum, finished
from virtio.net.packet import sanitized


@pytest.mark.parametrize(
    "data", [b"", b"\1", b"\0\0", b"\xff\xff", b"\xff\xff\0", bytes(range(255))]
)
def test_checksum_is_that_of_adding_words(data: bytes) -> None:
    assert checksum(data) == 0xFFFF - word_sum(data) % 0xFFFF


def test_vlan_tags_are_stepped_over() -> None:
    plain = ip_frame(bytes(2000))
    tagged = plain[:12] + b"\x88\xa8\0\1\x81\0\0\2" + plain[12:]

    parts = finished(header(NEEDS_CSUM, TCPV4, 62, 1000, 42, 16) + tagged, 0)

    assert [len(one) for one in parts] == [12 + 62 + 1000] * 2


@pytest.mark.parametrize("cut_at", range(14, 60))
def test_short_frame_is_never_cut_beyond_its_end(cut_at: int) -> None:
    data = header(NEEDS_CSUM, TCPV4, 54, 10, 34, 16) + ip_frame(bytes(6))[:cut_at]

    trusted = sanitized(data, 0xFF)

    assert trusted is None or len(finished(trusted, 0)) <= 1


def test_frame_is_cut_into_a_thousand_segments_and_no_more() -> None:
    data = ip_frame(bytes(65481))

    trusted = sanitized(header(NEEDS_CSUM, TCPV4, 54, 64, 34, 16) + data, 0xFF)

    assert trusted is not None
    assert len(finished(trusted, 0)) == 1024
    assert sanitized(header(NEEDS_CSUM, TCPV4, 54, 63, 34, 16) + data, 0xFF) is None
