"""Part of ``make bench-nets``: the same guest, through a tap, under our VMM and under QEMU.

Frames of 64 and 1500 bytes and of 64 KiB uncut, both ways, in a network namespace of its own; QEMU
without vhost. Prints a table, and writes it and the figures to ``tests/perf/results``.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from contextlib import closing, suppress
from fcntl import ioctl
from pathlib import Path
from typing import Final

from tests.perf.peers import host
from tests.perf.peers.comparison import Row, as_json, compare, table
from tests.perf.peers.contender import CONTENDERS, MAC, Contender, Job
from tests.perf.peers.guest import bench_kernel
from tests.perf.peers.workload import GuestFailed, Measurement, Workload
from virtio.errors import ConfigurationError
from vmm.image import ProgressLine

RESULTS: Final = Path(__file__).parent.parent / "results"
NAMES: Final = ("pyvmm native", "pyvmm python", "qemu threads")
TAP: Final = "bench0"
CLONE_NEWNET: Final = 0x40000000
SOL_PACKET, PACKET_VNET_HDR = 263, 15
SIOCETHTOOL, ETHTOOL_GTSO = 0x8946, 0x1E
UNCUT_BYTES: Final = 54 + 45 * 1448
DEADLINE_SECONDS: Final = 100.0

WORKLOADS: Final = (
    Workload("net-send", 64, 64, 16_000, event_idx=True),
    Workload("net-send", 1500, 64, 16_000, event_idx=True),
    Workload("net-send", UNCUT_BYTES, 64, 2_000, event_idx=True),
    Workload("net-receive", 64, 120, 16_000, event_idx=True),
    Workload("net-receive", 1500, 120, 16_000, event_idx=True),
    Workload("net-receive", UNCUT_BYTES, 64, 2_000, event_idx=True),
)


def main() -> int:
    """Measure, compare, tell; 0 unless something failed."""
    parser = argparse.ArgumentParser(prog="bench-nets", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="times that each of them runs (3)")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="FOLDER", help="where files are written"
    )
    options = parser.parse_args()
    try:
        _enter_namespace()
        with closing(ProgressLine(sys.stderr)) as progress:
            kernel = bench_kernel(progress)
            contenders = [one for one in CONTENDERS if one.name in NAMES]
            about = host.describe(contenders, options.rounds)
            rounds = _rounds(contenders, kernel, options.rounds)
        _publish(compare(rounds, contenders, host.tsc_khz()), about, options.results)
    except (ConfigurationError, GuestFailed) as error:
        print(f"bench-nets: {error}", file=sys.stderr)
        return 1
    return 0


def _enter_namespace() -> None:
    """Leave the host's network."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        why = os.strerror(ctypes.get_errno())
        raise ConfigurationError(f"a network namespace of its own: {why}; root is needed")
    # Nobody but the benchmark shall send there.
    for name in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")


def _make_tap() -> None:
    """Make the tap that a contender is given, one in which no frame waits."""
    subprocess.run(["ip", "link", "del", TAP], capture_output=True)
    for words in (f"tuntap add {TAP} mode tap vnet_hdr", f"link set {TAP} up"):
        done = subprocess.run(["ip", *words.split()], capture_output=True, text=True)
        if done.returncode:
            raise ConfigurationError(f"ip {words}: {done.stderr.strip()}")


def _rounds(
    contenders: list[Contender], kernel: Path, count: int
) -> dict[str, list[list[Measurement]]]:
    rounds: dict[str, list[list[Measurement]]] = {one.name: [] for one in contenders}
    for _ in range(count):
        measured: dict[str, list[Measurement]] = {one.name: [] for one in contenders}
        for workload in WORKLOADS:
            job = Job(kernel, Path(), workload.word, TAP)
            for contender in contenders:
                _make_tap()
                with closing(Sender(workload)):
                    measured[contender.name] += contender.run(job, DEADLINE_SECONDS)
        for name, found in measured.items():
            rounds[name].append(found)
    return rounds


class Sender:
    """Sends frames into the tap, as fast as it takes them, until it is closed."""

    def __init__(self, workload: Workload) -> None:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._send, args=(workload.bytes,), daemon=True)
        if workload.kind == "net-receive":
            self._thread.start()

    def close(self) -> None:
        """Send nothing more."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def _send(self, size: int) -> None:
        to = bytes.fromhex(MAC.replace(":", ""))
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as made:
            made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            made.bind((TAP, 0))
            packet = packet_to(to, size)
            # What is sent before the guest takes large frames is cut for it.
            while size >= 2048 and not self._done.wait(0.05) and not is_uncut(made):
                continue
            while not self._done.is_set():
                for _ in range(256):
                    with suppress(OSError):  # the queue is full, or nobody has the tap
                        made.send(packet)


def is_uncut(made: socket.socket) -> bool:
    """Whether the tap gets large frames as they are: ETHTOOL_GTSO of linux/ethtool.h."""
    wish = ctypes.create_string_buffer(struct.pack("=II", ETHTOOL_GTSO, 0))
    ioctl(made, SIOCETHTOOL, struct.pack("16sP16x", TAP.encode(), ctypes.addressof(wish)))
    return bool(struct.unpack_from("=II", wish)[1])


def packet_to(to: bytes, size: int) -> bytes:
    """Return a frame of so many bytes behind virtio's header; a large one is to be cut."""
    source = b"\2\0\0\0\0\2"
    if size < 2048:
        return bytes(10) + (to + source + b"\x88\xb5").ljust(size, b"\0")
    ip = struct.pack(">BBHHHBBH8s", 0x45, 0, size - 14, 1, 0, 64, 6, 0, b"\n\0\0\2\n\0\0\3")
    tcp = struct.pack(">HHIIBBHHH", 1, 2, 3, 0, 0x50, 0x10, 512, 0, 0)
    header = struct.pack("<BBHHHH", 1, 1, 54, 1448, 34, 16)
    return header + (to + source + b"\x08\x00" + ip + tcp).ljust(size, b"\0")


def _publish(rows: list[Row], about: dict[str, object], folder: Path) -> None:
    title = f"{about['kind']}, {about['processors']} processors, {about['date']}"
    text = f"{title}\n\n{table(rows)}\n"
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / f"{about['date']}-{host.short_kind()}-net"
    base.with_suffix(".txt").write_text(text)
    base.with_suffix(".json").write_text(json.dumps(as_json(rows, about), indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
