"""Sockets between the host and a Linux guest."""

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vmm import Machine, MachineConfig, Snapshot
from vmm.agent import Process
from vmm.image import build_initramfs
from vmm.image.kernel import recipe_folder
from vmm.image.program import compiled
from vmm.vsock.unix import UnixSockets

pytestmark = pytest.mark.timeout(1200)

BOOT_DEADLINE = 900.0
DEADLINE = 300.0
GUEST_CID = 9
FILE_BYTES = 256 << 10


@pytest.fixture(scope="module")
def initrd() -> bytes:
    """A root file system with a netcat for such sockets."""
    program = compiled(recipe_folder() / "vsock.c")
    if program is None:
        pytest.skip("no C compiler for the guest's program")
    return build_initramfs({"/bin/vsock": program})


@pytest.fixture(scope="module")
def snapshot(initrd: bytes) -> Iterator[Snapshot]:
    """A guest with such sockets, idle."""
    config = MachineConfig(agent="init", console="virtio", vsock=GUEST_CID, initrd=initrd)
    with Machine(config) as machine:
        machine.boot()
        machine.agent.wait_ready(BOOT_DEADLINE)
        saved = machine.snapshot()
    with saved:
        yield saved


@pytest.fixture
def machine(snapshot: Snapshot) -> Iterator[Machine]:
    """A guest that goes on from there."""
    with Machine.restore(snapshot) as clone:
        clone.resume()
        yield clone


def listening(machine: Machine, *arguments: str) -> Process:
    """Start a program that listens in the guest, and wait until it does."""
    process = machine.agent.start(["vsock", *arguments], stdin=True, merge_stderr=True)
    assert next(iter(process)).data == b"listening\n"
    return process


def read_all(sock: socket.socket) -> bytes:
    sock.settimeout(DEADLINE)
    parts = []
    while part := sock.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def test_files_go_both_ways_at_once_and_arrive_as_they_were(machine: Machine) -> None:
    ours, theirs = os.urandom(FILE_BYTES), os.urandom(FILE_BYTES)
    machine.agent.write_file("/tmp/file", theirs)
    script = "vsock listen 5 < /tmp/file | md5sum"
    with machine.agent.start(["sh", "-c", script], merge_stderr=True, timeout=DEADLINE) as process:
        assert next(iter(process)).data == b"listening\n"
        with machine.vsock.connect(5, timeout=DEADLINE) as sock, ThreadPoolExecutor(1) as others:
            reading = others.submit(read_all, sock)
            sock.sendall(ours)
            sock.shutdown(socket.SHUT_WR)
            received = reading.result(DEADLINE)
        told = str(process.communicate().stdout)

    assert received == theirs
    assert told.split()[0] == hashlib.md5(ours).hexdigest()


def test_guest_connects_to_the_host_and_speaks_with_it(machine: Machine) -> None:
    with (
        machine.vsock.listen(7) as listener,
        machine.agent.start(["vsock", "connect", "7"], stdin=True, timeout=DEADLINE) as process,
        listener.accept(DEADLINE) as sock,
    ):
        sock.sendall(b"who is there?")
        sock.shutdown(socket.SHUT_WR)
        result = process.communicate(b"a guest", text=False)
        heard = read_all(sock)

    assert (result.returncode, result.stdout, heard) == (0, b"who is there?", b"a guest")


def test_messages_keep_their_ends(machine: Machine) -> None:
    kind = socket.SOCK_SEQPACKET
    command = ["vsock", "connect-message", "7"]
    with (
        machine.vsock.listen(7, kind=kind) as listener,
        machine.agent.start(command, stdin=True, timeout=DEADLINE) as process,
        listener.accept(DEADLINE) as sock,
    ):
        sock.settimeout(DEADLINE)
        for word in (b"one", b"two"):
            process.write(word)
            assert sock.recv(100) == word
        sock.send(b"x" * 60000)
        sock.shutdown(socket.SHUT_WR)
        result = process.communicate(text=False)

    assert (result.returncode, result.stdout) == (0, b"x" * 60000)


def test_port_where_nobody_listens_is_an_error_on_both_sides(machine: Machine) -> None:
    result = machine.agent.run(["vsock", "connect", "99"], timeout=DEADLINE)

    assert (result.returncode, "errno 104" in str(result.stderr)) == (1, True)
    with pytest.raises(ConnectionRefusedError, match="port 99 of the guest: nobody listens there"):
        machine.vsock.connect(99, timeout=DEADLINE)


def test_connections_are_gone_in_a_clone_which_makes_new_ones(snapshot: Snapshot) -> None:
    waits = "(vsock connect 7 < /dev/zero > /tmp/out 2> /tmp/err; echo $? > /tmp/status) &"
    with Machine.restore(snapshot) as machine, machine.vsock.listen(7) as listener:
        machine.resume()
        machine.agent.run(["sh", "-c", waits], timeout=DEADLINE, check=True)
        with listener.accept(DEADLINE) as sock:
            assert sock.recv(4) == bytes(4)
            saved = machine.snapshot()
            assert sock.recv(4) == bytes(4), "the one that was saved goes on"

    with saved, Machine.restore(saved) as clone, clone.vsock.listen(7) as listener:
        clone.resume()
        ended = "until test -s /tmp/status; do :; done; cat /tmp/status /tmp/err"
        told = clone.agent.run(["sh", "-c", ended], timeout=DEADLINE).stdout
        again = clone.agent.start(["vsock", "connect", "7"], timeout=DEADLINE)
        with again, listener.accept(DEADLINE) as sock:
            sock.sendall(b"again")
            sock.shutdown(socket.SHUT_WR)
            heard = again.communicate().stdout

    assert (str(told).splitlines()[0], heard) == ("1", "again"), told


def test_programs_of_the_host_come_in_by_a_unix_socket(machine: Machine, tmp_path: Path) -> None:
    path = str(tmp_path / "v.sock")
    with (
        UnixSockets(path, machine.vsock),
        listening(machine, "listen", "5") as process,
        socket.socket(socket.AF_UNIX) as sock,
    ):
        sock.settimeout(DEADLINE)
        sock.connect(path)
        sock.sendall(b"CONNECT 5\n")
        greeting = sock.recv(100)
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        result = process.communicate(b"welcome", text=False)
        heard = read_all(sock)

    assert greeting.startswith(b"OK ")
    assert (result.returncode, result.stdout, heard) == (0, b"hello", b"welcome")


def test_confined_run_reaches_the_hosts_programs(initrd: bytes, tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(initrd)
    path = str(tmp_path / "v.sock")
    command = [sys.executable, "-m", "vmm", "run", "--sandbox=require", "--timeout=600"]
    command += [f"--vsock={path},cid={GUEST_CID}", f"--initrd={tmp_path / 'initrd'}"]
    command += ["--agent=init", "--", "sh", "-c", "vsock connect 99; vsock connect 1234"]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}_1234")
        listener.listen()
        listener.settimeout(BOOT_DEADLINE)
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(b"from the host")
                sock.shutdown(socket.SHUT_WR)
                output, errors = process.communicate(b"from the guest", timeout=DEADLINE)
                heard = read_all(sock)

    assert (process.returncode, output) == (0, b"from the host"), errors
    assert heard == b"from the guest"
    assert b"errno 104" in errors
    assert not os.path.lexists(path)
