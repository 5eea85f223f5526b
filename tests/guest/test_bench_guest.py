"""The guest of the benchmarks: it does what it is asked, and notices what is wrong."""

import socket
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.perf.peers.contender import MAC
from tests.perf.peers.guest import bench_kernel, has_bench_kernel, write_image
from tests.perf.peers.nets import packet_to
from tests.perf.peers.workload import GuestFailed, Workload, parse
from virtio.block import Block, BlockBackend
from virtio.device.lifecycle import VirtioDevice
from vmm.config import MachineConfig, Transport
from vmm.disk.disk import DiskConfig
from vmm.image.progress import silent
from vmm.machine import Machine
from vmm.net import NetConfig

pytestmark = [
    pytest.mark.skipif(not has_bench_kernel(), reason="needs gcc"),
    pytest.mark.timeout(300),
]

DEADLINE = 280.0
IMAGE_BYTES = 8 << 20
HALF = IMAGE_BYTES // 2

SHORT = [
    Workload("blk-read", 4096, 1, 40, random=True),
    Workload("blk-read", 4096, 64, 400, random=True, event_idx=True),
    Workload("blk-read", 128 << 10, 4, 40),
    Workload("blk-write", 4096, 32, 200, random=True),
    Workload("blk-write", 1 << 20, 4, 8, event_idx=True),
    Workload("entropy", 4096, 1, 50),
    Workload("entropy", 4096, 1, 50, event_idx=True),
]

Devices = tuple[Callable[[], VirtioDevice], ...]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    write_image(tmp_path / "disk.img", IMAGE_BYTES)
    return tmp_path / "disk.img"


def run(
    words: str,
    image: Path | None = None,
    devices: Devices = (),
    transport: Transport = "mmio",
    nets: tuple[NetConfig, ...] = (),
) -> tuple[int, str]:
    """Return the status that the guest reports, and all that it said."""
    config = MachineConfig(
        kernel=bench_kernel(silent),
        memory_bytes=64 << 20,
        default_cmdline=False,
        cmdline=words if transport == "mmio" else f"bus=pci {words}",
        transport=transport,
        disks=(DiskConfig(str(image)),) if image else (),
        devices=devices,
        nets=nets,
    )
    with Machine(config) as machine:
        machine.boot()
        ending = machine.wait(DEADLINE)
        return ending.status, machine.console.history().decode()


def corrupt(image: Path, word: int, value: int) -> None:
    with image.open("r+b") as file:
        file.seek(8 * word)
        file.write(value.to_bytes(8, "little"))


class Medium(BlockBackend):
    """A block backend in memory whose words are numbered; ``writev`` may be made to lie."""

    may_wait = False
    read_only = False
    can_unmap = False
    size_bytes = IMAGE_BYTES

    def __init__(self, image: Path, *, keeps: bool) -> None:
        self.data = bytearray(image.read_bytes())
        self.keeps = keeps

    def readv(self, views: Sequence[memoryview], offset: int) -> None:
        for view in views:
            view[:] = self.data[offset : offset + len(view)]
            offset += len(view)

    def writev(self, views: Sequence[memoryview], offset: int) -> None:
        for view in views if self.keeps else ():
            self.data[offset : offset + len(view)] = view
            offset += len(view)

    def flush(self) -> None:
        pass

    def discard(self, offset: int, length: int) -> None:
        raise AssertionError("nothing is discarded here")

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        raise AssertionError("no zeroes are written here")


@pytest.mark.parametrize("transport", ["mmio", "pci"])
def test_every_workload_is_done_and_verified(image: Path, transport: Transport) -> None:
    words = " ".join(workload.word for workload in SHORT)
    status, console = run(words, image, transport=transport)
    measured = parse(console)

    assert status == 0
    assert [one.workload for one in measured] == SHORT
    assert all(one.cycles > 0 for one in measured)
    assert all(one.kicks <= 1 for one in measured if one.workload.kind != "entropy")


def test_frames_are_sent_and_received_as_asked() -> None:
    workloads = [
        Workload("net-send", 64, 32, 400, event_idx=True),
        Workload("net-send", 1500, 64, 400),
        Workload("net-receive", 1500, 120, 400, event_idx=True),
    ]
    ours, peer = socket.socketpair()
    frame = packet_to(bytes.fromhex(MAC.replace(":", "")), 1500)[10:]
    with ThreadPoolExecutor(2) as others, ours, peer:
        sending = others.submit(send_for_ever, peer, struct.pack(">I", 1500) + frame)
        heard = others.submit(hear_all, peer)
        net = NetConfig("socket", f"fd:{ours.fileno()}", mac=MAC)
        status, console = run(" ".join(one.word for one in workloads), nets=(net,))
        ours.close()
        frames = heard.result(DEADLINE)
        sending.result(DEADLINE)

    assert status == 0
    assert [one.workload for one in parse(console)] == workloads
    # With the warm-up: as many as are under way, and an eighth more.
    assert [frames.count(64), frames.count(1500)] == [32 + 450, 64 + 450]


def send_for_ever(peer: socket.socket, data: bytes) -> None:
    """Send until the other end is closed."""
    with suppress(ConnectionError):
        while True:
            peer.sendall(data)


def hear_all(peer: socket.socket) -> list[int]:
    """Return the lengths of the frames that come until the other end is closed."""
    data = bytearray()
    with suppress(ConnectionError):
        while part := peer.recv(1 << 16):
            data += part
    lengths, at = list[int](), 0
    while at < len(data):
        lengths.append(int.from_bytes(data[at : at + 4], "big"))
        at += 4 + lengths[-1]
    return lengths
    # A device that is still at work when the next request is there wants no kick for it, perhaps
    # for none of them; a guest that did not kick a sleeping one would not come to its end.


def test_writes_change_the_second_half_only(image: Path) -> None:
    before = image.read_bytes()
    run(Workload("blk-write", 4096, 4, 20).word, image)
    after = image.read_bytes()

    assert after[:HALF] == before[:HALF]
    assert after[HALF : HALF + 26 * 4096] != before[HALF : HALF + 26 * 4096]
    assert after[HALF + 26 * 4096 :] == before[HALF + 26 * 4096 :]


def test_wrong_word_in_the_warm_up_is_noticed(image: Path) -> None:
    corrupt(image, 517, 4)
    status, console = run(Workload("blk-read", 4096, 4, 20).word, image)

    assert status == 1
    with pytest.raises(GuestFailed, match=r"word 5 of the request at sector 8 is 4, .* be 517"):
        parse(console)


def test_wrong_last_word_in_the_measurement_is_noticed(image: Path) -> None:
    corrupt(image, 512 * 21 - 1, 4)
    status, console = run(Workload("blk-read", 4096, 4, 40).word, image)

    assert status == 1
    with pytest.raises(GuestFailed, match="word 511 of the request at sector 160 is 4"):
        parse(console)


def test_medium_that_forgets_writes_is_noticed(image: Path) -> None:
    def disk() -> VirtioDevice:
        return Block(Medium(image, keeps=False))

    status, console = run(Workload("blk-write", 4096, 4, 20).word, devices=(disk,))

    assert status == 1
    with pytest.raises(GuestFailed, match="word 0 of the request at sector 8192 is 524288, "):
        parse(console)


def test_medium_that_keeps_writes_is_not_blamed(image: Path) -> None:
    def disk() -> VirtioDevice:
        return Block(Medium(image, keeps=True))

    status, _ = run(Workload("blk-write", 4096, 4, 20).word, devices=(disk,))

    assert status == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("quiet", "has no bench= word"),
        ("bench=swim", "no such workload"),
        ("bench=blk-read,width=3", "a key that there is not"),
        ("bench=blk-read,depth=4x", "goes on behind a number"),
        ("bench=blk-read", "no virtio-mmio device of type 2"),
        ("bench=entropy,bytes=0", "do not fit"),
        ("bench=entropy,depth=0", "do not fit"),
        ("bench=entropy,bytes=33554432,depth=2", "do not fit"),
    ],
)
def test_bad_words_are_refused(words: str, message: str) -> None:
    status, console = run(words)

    assert status == 1
    with pytest.raises(GuestFailed, match=message):
        parse(console)


def test_disk_too_small_is_told(tmp_path: Path) -> None:
    write_image(tmp_path / "small", 4096)
    _, console = run("bench=blk-read,bytes=4096", tmp_path / "small")

    with pytest.raises(GuestFailed, match=r"disk of 8 sectors is too small for .* 4096 bytes"):
        parse(console)
