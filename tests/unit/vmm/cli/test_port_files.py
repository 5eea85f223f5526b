"""What a guest writes to its ports arrives in their files, whole and in order."""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from virtio.console import ConsolePort
from virtio.errors import ConfigurationError
from vmm.cli.port_files import PortFiles


def test_output_goes_to_the_file_of_its_port(tmp_path: Path) -> None:
    ports = {name: ConsolePort(name) for name in ("log", "other", "free")}
    with ExitStack() as stack:
        files = {"log": str(tmp_path / "log"), "other": str(tmp_path / "other"), "free": ""}
        PortFiles(files, stack).connect(ports, stack)
        for name, port in ports.items():
            assert port.offer(name.encode()) == len(name)

    assert (tmp_path / "log").read_bytes() == b"log"
    assert (tmp_path / "other").read_bytes() == b"other"
    assert len(os.listdir(tmp_path)) == 2


def test_guest_waits_for_a_slow_reader_and_loses_nothing(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    port = ConsolePort("log")
    block = bytes(range(256)) * 256
    sent = 0
    with ExitStack() as stack:
        PortFiles({"log": str(fifo)}, stack).connect({"log": port}, stack)
        while (taken := port.offer(block)) == len(block):
            sent += taken
        assert taken == 0
        assert 1 << 20 <= sent <= (1 << 20) + len(block)  # the pipe may have taken one
        read = bytearray()
        while len(read) < sent:
            read += os.read(reader, 65536)
    os.close(reader)

    assert read == block * (sent // len(block))


@pytest.mark.parametrize("kind", ["folder", "fifo", "missing"])
def test_file_that_cannot_be_written_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    path = tmp_path / "none" / "file" if kind == "missing" else tmp_path / kind

    with ExitStack() as stack, pytest.raises(ConfigurationError, match=r"--port log=.*cannot be"):
        PortFiles({"log": str(path)}, stack)
