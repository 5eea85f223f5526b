"""A qcow2 image as a disk: qemu-nbd(8) reads and writes it, and we are its only client.

It listens on a socket in a folder of its own, which is gone when we have connected, and goes into
the background when it is ready: a confined machine waits for no process. It ends when its client
leaves, however that came about, and then writes what it has.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final

from virtio.errors import ConfigurationError
from virtio.log import Logger
from vmm.disk.lock import check_image
from vmm.disk.nbd.disk import NbdDisk
from vmm.disk.nbd.place import NbdPlace
from vmm.disk.nbd.server import NbdServer
from vmm.disk.qcow2 import Layer, open_layers

if TYPE_CHECKING:
    from vmm.disk.disk import DiskConfig

logger = Logger(__name__)

PROGRAM: Final = "qemu-nbd"
START_SECONDS: Final = 30.0
END_SECONDS: Final = 30.0
"""How long the end of a machine waits for what the program has yet to write."""


class Qcow2Disk(NbdDisk):
    """An :class:`NbdDisk` of a program that serves an image; ``files`` are those it consists of."""

    def __init__(
        self, server: NbdServer, files: tuple[int, ...], *, read_only: bool = False
    ) -> None:
        super().__init__(server, read_only=read_only)
        self._files = files

    @property
    def files(self) -> tuple[int, ...]:
        """The image, and its backing files."""
        return self._files

    def share(self) -> Qcow2Disk:
        """Return another owner of the same program, which only reads."""
        server, _ = self._checked(0, 0)
        return Qcow2Disk(server.own(), tuple(map(os.dup, self._files)), read_only=True)

    def close(self) -> None:
        """Leave the program, which ends if nobody else has it; harmless the second time."""
        files, self._files = self._files, ()
        for fd in files:
            os.close(fd)
        super().close()


class QemuNbd(NbdServer):
    """An NBD server that is our child's, and ends with its last owner."""

    def __init__(self, name: str, socket_fd: int, alive: int) -> None:
        self._alive = alive
        super().__init__(NbdPlace(path=name), name, socket_fd=socket_fd)

    def _left(self) -> None:
        """Wait until the program has ended: then all is written, and the image free for others."""
        alive, self._alive = self._alive, -1
        poll = select.poll()
        poll.register(alive, 0)
        if not poll.poll(END_SECONDS * 1000):
            logger.warning("disk %s: %s has not ended yet", self.name, PROGRAM)
        os.close(alive)


def open_qcow2(config: DiskConfig, *, read_only: bool) -> Qcow2Disk:
    """Open an image and its backing files. Raises :class:`ConfigurationError`."""
    path = config.path
    program = shutil.which(PROGRAM)
    if program is None:
        raise ConfigurationError(f"disk {path}: {PROGRAM} is needed: apt install qemu-utils")
    with ExitStack() as on_failure:
        layers = open_layers(path, config.backing, on_failure)
        if config.lock:
            for index, one in enumerate(layers):
                check_image(one.fd, one.path, writes=not (read_only or index))
        command = [program, "--fork", "--shared=1", "--discard=unmap"]
        command += ["--read-only"] if read_only else []
        image = json.dumps(_node(layers, lock=config.lock))
        server = _start(path, [*command, f"json:{image}"])
        on_failure.callback(server.close)
        disk = Qcow2Disk(server, tuple(one.fd for one in layers), read_only=read_only)
        on_failure.pop_all()
    return disk


def _node(layers: list[Layer], *, lock: bool) -> dict[str, Any]:
    """Return what QEMU is to open, all of it: QMP reference "BlockdevOptions"."""
    top, *below = layers
    is_device = stat.S_ISBLK(os.fstat(top.fd).st_mode)
    file = {
        "driver": "host_device" if is_device else "file",
        "filename": top.path,
        "locking": "on" if lock else "off",
    }
    node: dict[str, Any] = {"driver": top.format, "file": file}
    if top.format == "qcow2":
        node["backing"] = _node(below, lock=lock) if below else None
    return node


def _start(path: str, command: list[str]) -> QemuNbd:
    with ExitStack() as ours:
        folder = tempfile.mkdtemp(prefix="vmm-disk-")
        ours.callback(shutil.rmtree, folder, ignore_errors=True)
        place, number = f"{folder}/socket", f"{folder}/pid"
        alive, theirs = os.pipe()
        on_failure = ours.enter_context(ExitStack())
        on_failure.callback(os.close, alive)
        try:
            on_failure.callback(_end, number)
            _run(path, [*command, "--socket", place, "--pid-file", number], theirs)
        finally:
            os.close(theirs)
        sock = ours.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        sock.settimeout(START_SECONDS)
        try:
            sock.connect(place)
        except OSError as error:
            raise ConfigurationError(f"disk {path}: {PROGRAM}: {error.strerror}") from None
        server = QemuNbd(path, sock.detach(), alive)
        on_failure.pop_all()
    return server


def _run(path: str, command: list[str], alive: int) -> None:
    """Start the program, which keeps ``alive`` open; raise what it has to say."""
    with tempfile.TemporaryFile() as said:
        try:
            done = subprocess.run(
                command,
                pass_fds=[alive],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,  # so that Ctrl-C, which is the guest's, leaves it alone
                timeout=START_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ConfigurationError(
                f"disk {path}: {PROGRAM}: not ready in {START_SECONDS:g} s"
            ) from None
        if done.returncode:
            said.seek(0)
            lines = said.read(65536).decode("utf-8", "replace").strip().splitlines()
            why = lines[-1] if lines else f"exit status {done.returncode}"
            raise ConfigurationError(f"disk {path}: {why}")


def _end(number: str) -> None:
    """End the program after a failure, if it was started."""
    with suppress(OSError, ValueError), open(number, encoding="ascii") as file:
        os.kill(int(file.read()), signal.SIGTERM)
