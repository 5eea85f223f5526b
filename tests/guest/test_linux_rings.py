"""Every form of the virtqueue that can be negotiated carries what the real Linux drivers send."""

import os
import re
from pathlib import Path

import pytest

from tests.guest.shell import BOOT_DEADLINE
from vmm.config import MachineConfig
from vmm.disk.disk import DiskConfig
from vmm.ending.ending import End
from vmm.machine import Machine

pytestmark = pytest.mark.timeout(1200)

MEBIBYTE = 1 << 20
INDIRECT_DESC, EVENT_IDX, VERSION_1, RING_PACKED, RING_RESET = 28, 29, 32, 34, 40

# One shell copies the disk, and tells what hwrng gave and what each driver negotiated.
SCRIPT = """
dd if=/dev/vda of=/dev/vdb bs=512k iflag=direct oflag=direct 2>&1 || exit
hexdump -n 16 -e '"random " 16/1 "%02x" "\\n"' /dev/hwrng
for device in /sys/bus/virtio/devices/*; do
    read features < $device/features
    echo "negotiated $features"
done
"""


def run(config: MachineConfig) -> tuple[str, set[str]]:
    """Run the guest's command; return its output, and the forms of the queues that it used."""
    with Machine(config) as machine:
        machine.boot()
        ending = machine.wait(BOOT_DEADLINE)
        output = machine.console.history().decode().replace("\r\n", "\n")
        queues = [
            one.queue for transport in machine.hardware.transports for one in transport.queues
        ]
        # At its end the guest resets its devices, and by now may have done so with some.
        forms = {type(queue._ring).__name__ for queue in queues if queue is not None}
    assert (ending.end, ending.status) == (End.REPORTED, 0), output
    return output, forms


@pytest.mark.parametrize("indirect", [0, 1], ids=["direct", "indirect"])
@pytest.mark.parametrize("event_idx", [0, 1], ids=["flags", "event-idx"])
@pytest.mark.parametrize(
    ("packed", "form"), [(0, "SplitRing"), (1, "PackedRing")], ids=["split", "packed"]
)
def test_disks_and_hwrng_work_with_each_form_of_the_ring(
    tmp_path: Path, packed: int, form: str, event_idx: int, indirect: int
) -> None:
    source, target = tmp_path / "source.img", tmp_path / "target.img"
    source.write_bytes(os.urandom(3 * MEBIBYTE))
    target.write_bytes(bytes(3 * MEBIBYTE))
    chosen = packed << RING_PACKED | event_idx << EVENT_IDX | indirect << INDIRECT_DESC
    config = MachineConfig(
        disks=(DiskConfig(str(source), read_only=True), DiskConfig(str(target))),
        ring_features=1 << VERSION_1 | 1 << RING_RESET | chosen,
        init_arguments=("sh", "-c", SCRIPT),
    )

    output, forms = run(config)

    negotiated = [
        (bits[RING_PACKED], bits[EVENT_IDX], bits[INDIRECT_DESC], bits[VERSION_1])
        for bits in re.findall(r"^negotiated ([01]{64})$", output, re.MULTILINE)
    ]
    assert negotiated == [(str(packed), str(event_idx), str(indirect), "1")] * 3
    assert forms <= {form}
    assert re.search(r"^random (?!0{32})[0-9a-f]{32}$", output, re.MULTILINE)
    assert target.read_bytes() == source.read_bytes()
