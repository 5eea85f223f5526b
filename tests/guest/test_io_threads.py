"""Which devices have a thread of their own, and that a slow one holds up only itself."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.guest.bare_metal import SPIN, store32
from tests.perf.exits import go_live
from virtio import DescriptorChain, Device, queue
from virtio.errors import ConfigurationError
from vmm import DiskConfig, Machine, MachineConfig
from vmm.config import IoThreads

BareMetal = Callable[[bytes], MachineConfig]

PATIENCE = 30.0
FIRST_WINDOW, SECOND_WINDOW = 0xC000_1000, 0xC000_2000
QUEUE_NOTIFY = 0x50


def thread_names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    ("policy", "own"),
    [("shared", set()), ("disks", {"block0"}), ("devices", {"block0", "entropy"})],
)
def test_who_has_a_thread_is_configured(
    bare_metal: BareMetal, tmp_path: Path, policy: IoThreads, own: set[str]
) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4096))
    disks = (DiskConfig(str(image)),)
    config = replace(bare_metal(SPIN), disks=disks, rng=True, io_threads=policy)
    before = thread_names()
    with Machine(config) as machine:
        assert thread_names() == before
        machine.boot()
        assert thread_names() - before == {"vcpu-0", "event-loop", "halt-watch", *own}
        machine.stop()
        assert thread_names() == before


class Stuck(Device):
    """A device whose handler does not return before it is let go."""

    device_id = 42
    entered = threading.Event()
    let_go = threading.Event()

    @queue(size=16)
    def requestq(self, chain: DescriptorChain) -> int:
        return 0

    def handle_queue(self, index: int) -> bool:
        self.entered.set()
        assert self.let_go.wait(PATIENCE)
        return False


class Prompt(Device):
    """A device that tells that it was called."""

    device_id = 42
    entered = threading.Event()

    @queue(size=16)
    def requestq(self, chain: DescriptorChain) -> int:
        return 0

    def handle_queue(self, index: int) -> bool:
        self.entered.set()
        return False


def test_a_slow_device_holds_up_only_itself(bare_metal: BareMetal) -> None:
    code = go_live() + store32(FIRST_WINDOW + QUEUE_NOTIFY, 0)
    code += go_live(SECOND_WINDOW) + store32(SECOND_WINDOW + QUEUE_NOTIFY, 0) + SPIN
    config = replace(bare_metal(code), devices=(Stuck, Prompt), io_threads="devices")
    with Machine(config) as machine:
        machine.boot()
        try:
            assert Stuck.entered.wait(PATIENCE)
            assert Prompt.entered.wait(PATIENCE)
            assert not Stuck.let_go.is_set()
        finally:
            Stuck.let_go.set()


@pytest.mark.parametrize("poll_us", [-1, 1001])
def test_a_polling_time_out_of_bounds_is_refused(poll_us: int) -> None:
    with pytest.raises(ConfigurationError, match=r"polling for .* must be 0 to 1000"):
        MachineConfig(poll_us=poll_us)
