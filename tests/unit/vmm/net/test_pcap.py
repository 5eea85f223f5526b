"""Packets in files."""

import struct
from pathlib import Path

import pytest

from tests.unit.vmm.net.cards import MAC_A, MAC_B, Card, frame
from vmm.net import Switch
from vmm.net.pcap import Capture


def read(path: Path) -> list[bytes]:
    """Return the frames in a file of packets."""
    data = path.read_bytes()
    assert struct.unpack_from("<IHHiIII", data) == (0xA1B23C4D, 2, 4, 0, 0, 262144, 1)
    at, frames = 24, []
    while at < len(data):
        _, nanoseconds, kept, size = struct.unpack_from("<IIII", data, at)
        assert nanoseconds < 10**9
        assert kept == size
        frames.append(data[at + 16 : at + 16 + kept])
        at += 16 + kept
    return frames


def test_packets_of_both_ways_are_written_in_order(tmp_path: Path) -> None:
    with Switch() as switch, Capture(switch.open(), tmp_path / "file") as capture:
        card, port = Card(capture), switch.port()
        card.send_frames(frame(MAC_B, MAC_A))
        port.send(frame(MAC_A, MAC_B, 1514))
        came = card.frames()

    assert came == [frame(MAC_A, MAC_B, 1514)]
    assert read(tmp_path / "file") == [frame(MAC_B, MAC_A), frame(MAC_A, MAC_B, 1514)]


def test_file_that_is_full_ends_the_capture_and_not_the_network(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Switch() as switch:
        port = switch.port()
        capture = Capture(switch.open(), Path("/dev/null"))
        import os

        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, capture._fd)
        os.close(full)
        card = Card(capture)

        card.send_frames(frame(MAC_B, MAC_A), frame(MAC_B, MAC_A))
        capture.close()

        assert len(port.frames()) == 2
    assert len(caplog.messages) == 1
    assert "no more packets are written" in caplog.text
