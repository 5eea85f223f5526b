"""What a guest writes to its ports arrives in their files, whole and in order."""

import os
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from virtio.console import ConsolePort
from virtio.errors import ConfigurationError
from vmm.cli.port_files import PortFiles

BLOCK = bytes(range(256)) * 256
DEADLINE_SECONDS = 20


class Reader(threading.Thread):
    """Reads a FIFO to its end, once it is started; the FIFO can be opened for it before."""

    def __init__(self, fifo: Path) -> None:
        super().__init__()
        os.mkfifo(fifo)
        self.fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(self.fd, True)
        self.read = bytearray()

    def run(self) -> None:
        while data := os.read(self.fd, 65536):
            self.read += data
        os.close(self.fd)


def test_output_goes_to_the_file_of_its_port(tmp_path: Path) -> None:
    ports = {name: ConsolePort(name) for name in ("log", "other", "free")}
    (tmp_path / "log").write_bytes(b"what an earlier run wrote")
    with ExitStack() as stack:
        files = {"log": str(tmp_path / "log"), "other": str(tmp_path / "other"), "free": ""}
        PortFiles(files, stack).connect(ports, stack)
        for name, port in ports.items():
            assert port.offer(name.encode()) == len(name)

    assert (tmp_path / "log").read_bytes() == b"log"
    assert (tmp_path / "other").read_bytes() == b"other"
    assert len(os.listdir(tmp_path)) == 2


def test_guest_waits_for_a_slow_reader_and_loses_nothing(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "fifo")
    port = ConsolePort("log")
    told = threading.Event()
    port.attach(told.set, (0, 0))
    sent = 0
    with ExitStack() as stack:
        PortFiles({"log": str(tmp_path / "fifo")}, stack).connect({"log": port}, stack)
        while (taken := port.offer(BLOCK)) == len(BLOCK):
            sent += taken
        assert taken == 0
        assert 1 << 20 <= sent <= (1 << 20) + len(BLOCK)  # the pipe may have taken one
        reader.start()
        while not port.offer(b"last"):
            assert told.wait(DEADLINE_SECONDS)
            told.clear()
    reader.join()

    assert reader.read == BLOCK * (sent // len(BLOCK)) + b"last"


def test_what_waits_at_the_end_of_a_run_is_written(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "fifo")
    port = ConsolePort("log")
    with ExitStack() as stack:
        PortFiles({"log": str(tmp_path / "fifo")}, stack).connect({"log": port}, stack)
        for _ in range(10):
            assert port.offer(BLOCK) == len(BLOCK)
        stack.callback(reader.start)
    reader.join()

    assert reader.read == BLOCK * 10


@pytest.mark.parametrize("kind", ["folder", "fifo", "missing"])
def test_file_that_cannot_be_written_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    path = tmp_path / "none" / "file" if kind == "missing" else tmp_path / kind

    with ExitStack() as stack, pytest.raises(ConfigurationError, match=r"--port log=.*cannot be"):
        PortFiles({"log": str(path)}, stack)
