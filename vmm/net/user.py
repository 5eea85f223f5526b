"""The host's own network for a guest, without root: passt(1), on a socket of ours.

The guest gets an address by DHCP and reaches what the host reaches; the host's loopback is at the
address of its gateway.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Sequence
from typing import Final

from virtio.errors import ConfigurationError
from vmm.net.stream import StreamNetwork

PROGRAM: Final = "passt"
START_SECONDS: Final = 10.0


class UserNetwork(StreamNetwork):
    """Starts passt, which ends when our end of its socket is closed, whoever closes it.

    ``forwards`` are ports of the host that lead into the guest, as :func:`parse_forward` reads
    them. Raises :class:`ConfigurationError` when passt is missing, or says what is wrong.
    """

    def __init__(self, forwards: Sequence[str] = ()) -> None:
        program = shutil.which(PROGRAM)
        if program is None:
            raise ConfigurationError("net user: passt is needed: apt install passt")
        options = [word for one in forwards for word in parse_forward(one)]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, theirs:
            # It goes into the background when it is ready: a confined machine waits for no process.
            _start([program, "--quiet", "--fd", str(theirs.fileno()), *options], theirs.fileno())
            super().__init__(ours.detach(), "net user: passt")


def _start(command: Sequence[str], fd: int) -> None:
    """Start passt, and raise what it has to say: ports in use, no route, no rights."""
    try:
        done = subprocess.run(
            command,
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that Ctrl-C, which is the guest's, leaves it alone
            timeout=START_SECONDS,
            text=True,
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigurationError(f"net user: passt: not ready in {START_SECONDS:g} s") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if "syslog" not in line]
        why = lines[-1] if lines else f"exit status {done.returncode}"
        raise ConfigurationError(f"net user: passt: {why}")


def parse_forward(text: str) -> list[str]:
    """Return the options of passt for ``PROTOCOL:HOST-PORT:GUEST-PORT``.

    >>> parse_forward("tcp:8080:80")
    ['--tcp-ports', '8080:80']
    """
    protocol, *ports = text.split(":")
    if protocol not in ("tcp", "udp") or len(ports) != 2 or not all(map(_is_port, ports)):
        raise ConfigurationError(
            f"net hostfwd={text}: must be tcp:HOST-PORT:GUEST-PORT or udp:..., ports 1 to 65535"
        )
    return [f"--{protocol}-ports", ":".join(ports)]


def _is_port(text: str) -> bool:
    return text.isdecimal() and len(text) <= 5 and 0 < int(text) < 1 << 16
