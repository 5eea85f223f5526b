"""Every form of the virtqueue that can be negotiated carries what the real Linux drivers send.

The driver doctor, which looks on, finds no mistake of theirs in any form.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.guest.shell import BOOT_DEADLINE
from virtio import Block, Device, Entropy
from vmm.disk.raw import RawDisk
from vmm.testing import Guest, GuestConfig

pytestmark = pytest.mark.timeout(1200)

MEBIBYTE = 1 << 20
INDIRECT_DESC, EVENT_IDX, VERSION_1, RING_PACKED, RING_RESET = 28, 29, 32, 34, 40

# One shell copies the disk, and tells what hwrng gave and what each driver negotiated.
SCRIPT = """
echo virtio_rng.1 > /sys/class/misc/hw_random/rng_current || exit
dd if=/dev/vda of=/dev/vdb bs=512k iflag=direct oflag=direct 2>&1 || exit
hexdump -n 16 -e '"random " 16/1 "%02x" "\\n"' /dev/hwrng
for device in virtio2 virtio3 virtio4; do
    read features < /sys/bus/virtio/devices/$device/features
    echo "negotiated $features"
done
"""


@pytest.fixture
def guest_config() -> GuestConfig:
    """A guest that has an entropy device and a console already, virtio0 and virtio1."""
    return GuestConfig(deadline=BOOT_DEADLINE, explain=True)


def run(guest: Guest, devices: Iterable[Device], features: int) -> tuple[str, set[str]]:
    """Run the command with these devices; return its output, and the forms of their queues."""
    for device in devices:
        device.ring_features = features
        guest.plug(device)
    output = guest.sh(SCRIPT)
    plugged = guest.machine.hardware.transports[2:]
    queues = [one.queue for transport in plugged for one in transport.queues]
    forms = {type(queue._ring).__name__ for queue in queues if queue is not None}
    return output, {form.removeprefix("Watched") for form in forms}


@pytest.mark.parametrize("indirect", [0, 1], ids=["direct", "indirect"])
@pytest.mark.parametrize("event_idx", [0, 1], ids=["flags", "event-idx"])
@pytest.mark.parametrize(
    ("packed", "form"), [(0, "SplitRing"), (1, "PackedRing")], ids=["split", "packed"]
)
def test_disks_and_hwrng_work_with_each_form_of_the_ring(
    guest: Guest, tmp_path: Path, packed: int, form: str, event_idx: int, indirect: int
) -> None:
    source, target = tmp_path / "source.img", tmp_path / "target.img"
    source.write_bytes(os.urandom(3 * MEBIBYTE))
    target.write_bytes(bytes(3 * MEBIBYTE))
    chosen = packed << RING_PACKED | event_idx << EVENT_IDX | indirect << INDIRECT_DESC
    features = 1 << VERSION_1 | 1 << RING_RESET | chosen

    doctor = guest.explain()
    with RawDisk.open(str(source), read_only=True) as read, RawDisk.open(str(target)) as written:
        output, forms = run(guest, [Block(read), Block(written), Entropy()], features)

    negotiated = [
        (bits[RING_PACKED], bits[EVENT_IDX], bits[INDIRECT_DESC], bits[VERSION_1])
        for bits in re.findall(r"^negotiated ([01]{64})$", output, re.MULTILINE)
    ]
    assert negotiated == [(str(packed), str(event_idx), str(indirect), "1")] * 3
    assert forms <= {form}
    assert doctor.look_for_stalls() == []
    assert re.search(r"^random (?!0{32})[0-9a-f]{32}$", output, re.MULTILINE)
    assert target.read_bytes() == source.read_bytes()
