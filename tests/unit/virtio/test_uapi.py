"""The numbers and layouts of virtio, against the headers that Linux's drivers are built from."""

import shutil
import subprocess
from pathlib import Path

import pytest

from transport import VirtioMmio, status
from transport.mmio import interrupt
from transport.mmio import registers as mmio
from transport.testing import RecordingLine
from virtio import Balloon, Block, Console, Device, Entropy, Vsock, features
from virtio.balloon import hints, pages, statistics
from virtio.block import device as block_device
from virtio.block import ranges, request
from virtio.console import control
from virtio.testing import ManualLoop, SplitDriver, flat_memory
from virtio.virtqueue import chain, packed, split
from virtio.virtqueue.ring import DESCRIPTOR_BYTES
from virtio.vsock import packet
from virtio.vsock.device import TRANSPORT_RESET
from vmm.disk.raw import RawDisk

HEADERS = ("config", "ring", "mmio", "blk", "console", "vsock", "fs", "balloon", "ids")
INCLUDE = Path("/usr/include/linux")

# The specification's names where they are not the kernel's.
OTHER_NAMES = {
    "VIRTQ_DESC_F_NEXT": "VRING_DESC_F_NEXT",
    "VIRTQ_DESC_F_WRITE": "VRING_DESC_F_WRITE",
    "VIRTQ_DESC_F_INDIRECT": "VRING_DESC_F_INDIRECT",
    "VIRTQ_AVAIL_F_NO_INTERRUPT": "VRING_AVAIL_F_NO_INTERRUPT",
    "VIRTQ_USED_F_NO_NOTIFY": "VRING_USED_F_NO_NOTIFY",
    "VRING_PACKED_DESC_F_AVAIL": "(1 << VRING_PACKED_DESC_F_AVAIL)",
    "VRING_PACKED_DESC_F_USED": "(1 << VRING_PACKED_DESC_F_USED)",
    "VIRTIO_CONSOLE_DEVICE_ADD": "VIRTIO_CONSOLE_PORT_ADD",
    "VIRTIO_CONSOLE_DEVICE_REMOVE": "VIRTIO_CONSOLE_PORT_REMOVE",
}
PREFIXES = ("VIRTIO_", "VIRTQ_", "VRING_")
MODULES = (features, status, interrupt, chain, split, packed, request, ranges, control)
# Headers before Linux 6.6 lack some of these.
RECENT = {
    "VIRTIO_F_NOTIFICATION_DATA",
    "VIRTIO_F_NOTIF_CONFIG_DATA",
    "VIRTIO_F_ADMIN_VQ",
    "VIRTIO_F_SUSPEND",
}

STRUCTURES = {
    "sizeof(struct vring_desc)": DESCRIPTOR_BYTES,
    "sizeof(struct vring_packed_desc)": DESCRIPTOR_BYTES,
    "sizeof(struct vring_packed_desc_event)": 4,
    "sizeof(struct virtio_blk_outhdr)": request.HEADER.size,
    "__builtin_offsetof(struct virtio_blk_outhdr, sector)": 8,
    "sizeof(struct virtio_blk_discard_write_zeroes)": ranges.SEGMENT.size,
    "__builtin_offsetof(struct virtio_blk_discard_write_zeroes, num_sectors)": 8,
    "__builtin_offsetof(struct virtio_blk_discard_write_zeroes, flags)": 12,
    "VIRTIO_BLK_ID_BYTES": block_device.SERIAL_BYTES,
    "sizeof(struct virtio_console_control)": control.HEADER.size,
    "__builtin_offsetof(struct virtio_console_control, event)": 4,
    "__builtin_offsetof(struct virtio_console_control, value)": 6,
    "sizeof(struct virtio_vsock_hdr)": packet.HEADER.size,
    "__builtin_offsetof(struct virtio_vsock_hdr, dst_port)": 20,
    "__builtin_offsetof(struct virtio_vsock_hdr, type)": 28,
    "__builtin_offsetof(struct virtio_vsock_hdr, fwd_cnt)": 40,
    "sizeof(struct virtio_vsock_event)": len(TRANSPORT_RESET),
    "VIRTIO_VSOCK_EVENT_TRANSPORT_RESET": int.from_bytes(TRANSPORT_RESET, "little"),
    "VIRTIO_VSOCK_TYPE_STREAM": packet.STREAM,
    "VIRTIO_VSOCK_TYPE_SEQPACKET": packet.SEQPACKET,
    "VIRTIO_VSOCK_OP_REQUEST": packet.OP_REQUEST,
    "VIRTIO_VSOCK_OP_RESPONSE": packet.OP_RESPONSE,
    "VIRTIO_VSOCK_OP_RST": packet.OP_RST,
    "VIRTIO_VSOCK_OP_SHUTDOWN": packet.OP_SHUTDOWN,
    "VIRTIO_VSOCK_OP_RW": packet.OP_RW,
    "VIRTIO_VSOCK_OP_CREDIT_UPDATE": packet.OP_CREDIT_UPDATE,
    "VIRTIO_VSOCK_OP_CREDIT_REQUEST": packet.OP_CREDIT_REQUEST,
    "VIRTIO_VSOCK_SHUTDOWN_RCV": packet.SHUTDOWN_RECEIVE,
    "VIRTIO_VSOCK_SHUTDOWN_SEND": packet.SHUTDOWN_SEND,
    "VIRTIO_VSOCK_SEQ_EOM": packet.SEQ_EOM,
    "VIRTIO_VSOCK_F_SEQPACKET": Vsock.VIRTIO_VSOCK_F_SEQPACKET.bit,
    "VIRTIO_ID_VSOCK": Vsock.device_id,
    "__builtin_offsetof(struct virtio_vsock_config, guest_cid)": Vsock.guest_cid.offset,
    "1 << VIRTIO_BALLOON_PFN_SHIFT": pages.PAGE_BYTES,
    "VIRTIO_BALLOON_CMD_ID_STOP": hints.STOP,
    "VIRTIO_BALLOON_CMD_ID_DONE": hints.DONE,
    "sizeof(struct virtio_balloon_stat)": statistics.ENTRY.size,
    "__builtin_offsetof(struct virtio_balloon_config, actual)": Balloon.actual.offset,
    "__builtin_offsetof(struct virtio_balloon_config, poison_val)": Balloon.poison_val.offset,
    "VIRTIO_BALLOON_F_STATS_VQ": Balloon.VIRTIO_BALLOON_F_STATS_VQ.bit,
    "VIRTIO_BALLOON_F_FREE_PAGE_HINT": Balloon.VIRTIO_BALLOON_F_FREE_PAGE_HINT.bit,
    "VIRTIO_BALLOON_F_REPORTING": Balloon.VIRTIO_BALLOON_F_REPORTING.bit,
    "VIRTIO_BALLOON_S_MEMFREE": statistics.BalloonStatistics._fields.index("free_bytes"),
    "VIRTIO_BALLOON_S_CACHES": statistics.BalloonStatistics._fields.index("caches_bytes"),
    "VIRTIO_BALLOON_S_HTLB_PGFAIL": statistics.BalloonStatistics._fields.index("hugetlb_failures"),
    "VIRTIO_ID_BALLOON": Balloon.device_id,
    "VIRTIO_ID_RNG": Entropy.device_id,
    "VIRTIO_ID_BLOCK": Block.device_id,
    "VIRTIO_ID_CONSOLE": Console.device_id,
    "VIRTIO_MMIO_CONFIG": mmio.CONFIG,
    "VIRTIO_MMIO_QUEUE_NOTIFY": VirtioMmio.QUEUE_NOTIFY,
}


def evaluate(expressions: list[str], directory: Path) -> dict[str, int]:
    """Return the values of C expressions over the kernel's headers; skip where there is no way."""
    compiler = shutil.which("cc")
    missing = [name for name in HEADERS if not (INCLUDE / f"virtio_{name}.h").exists()]
    if compiler is None or missing:
        pytest.skip("needs a C compiler and linux-libc-dev")
    includes = [f"#include <linux/virtio_{name}.h>\n" for name in HEADERS]
    lines = [f'printf("{one}=%lu\\n", (unsigned long)({one}));\n' for one in expressions]
    guarded = [
        f"#ifdef {one}\n{line}#endif\n" if one in RECENT else line
        for one, line in zip(expressions, lines, strict=True)
    ]
    source = directory / "probe.c"
    text = ["#include <stdio.h>\n", *includes, "int main(void) {\n", *guarded, "}\n"]
    source.write_text("".join(text))
    subprocess.run([compiler, "-o", directory / "probe", source], check=True)
    output = subprocess.run([directory / "probe"], check=True, capture_output=True, text=True)
    pairs = (line.rsplit("=", 1) for line in output.stdout.splitlines())
    return {name: int(value) for name, value in pairs}


def constants() -> dict[str, int]:
    """Return every constant of ours with a published name, under the kernel's name for it."""
    found = {
        name: value
        for module in MODULES
        for name, value in vars(module).items()
        if name.startswith(PREFIXES) and isinstance(value, int)
    }
    return {OTHER_NAMES.get(name, name): value for name, value in found.items()}


def layout(device: type[Device], config: str) -> dict[str, int]:
    """Return the feature bits of a device, and where its fields are and end in its structure."""
    names = {feature: name for name, feature in vars(device).items() if feature in device.features}
    expected = {names[one]: one.bit for one in device.features}
    for one in device.fields:
        name = {"writeback": "wce"}.get(one.name, one.name)
        member = f"((struct {config} *)0)->{name}"
        expected[f"__builtin_offsetof(struct {config}, {name})"] = one.offset
        expected[f"sizeof({member})"] = one.width
    return expected


@pytest.mark.parametrize(
    ("expected", "least"),
    [
        (constants(), 48),
        (layout(Block, "virtio_blk_config"), 30),
        (layout(Console, "virtio_console_config"), 11),
        (STRUCTURES, 17),
    ],
    ids=["constants", "block", "console", "structures"],
)
def test_numbers_and_layouts_are_those_of_the_kernel_headers(
    expected: dict[str, int], least: int, tmp_path: Path
) -> None:
    found = evaluate(list(expected), tmp_path)

    known = {name: value for name, value in expected.items() if name in found}
    assert found == known
    assert len(expected) >= least
    assert set(expected) - set(found) <= RECENT


def test_a_driver_with_the_offsets_of_the_kernel_gets_a_disk_going(tmp_path: Path) -> None:
    steps = [
        ("VIRTIO_CONFIG_S_ACKNOWLEDGE", "VIRTIO_MMIO_STATUS"),
        ("VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER", "VIRTIO_MMIO_STATUS"),
        ("1", "VIRTIO_MMIO_DRIVER_FEATURES_SEL"),
        ("1 << (VIRTIO_F_VERSION_1 - 32)", "VIRTIO_MMIO_DRIVER_FEATURES"),
        ("VIRTIO_CONFIG_S_FEATURES_OK", "VIRTIO_MMIO_STATUS"),
        ("0", "VIRTIO_MMIO_QUEUE_SEL"),
        ("8", "VIRTIO_MMIO_QUEUE_NUM"),
        ("0", "VIRTIO_MMIO_QUEUE_DESC_HIGH"),
        ("0", "VIRTIO_MMIO_QUEUE_AVAIL_HIGH"),
        ("0", "VIRTIO_MMIO_QUEUE_USED_HIGH"),
        ("1", "VIRTIO_MMIO_QUEUE_READY"),
        ("VIRTIO_CONFIG_S_DRIVER_OK", "VIRTIO_MMIO_STATUS"),
        ("0", "VIRTIO_MMIO_QUEUE_NOTIFY"),
        ("VIRTIO_MMIO_INT_CONFIG", "VIRTIO_MMIO_INTERRUPT_ACK"),
    ]
    registers = {
        "VIRTIO_MMIO_MAGIC_VALUE": int.from_bytes(b"virt", "little"),
        "VIRTIO_MMIO_VERSION": 2,
        "VIRTIO_MMIO_DEVICE_ID": 2,
        "VIRTIO_MMIO_DEVICE_FEATURES": 1 << 8 | 1,
        "VIRTIO_MMIO_QUEUE_NUM_MAX": 256,
        "VIRTIO_MMIO_QUEUE_READY": 1,
        "VIRTIO_MMIO_INTERRUPT_STATUS": 1,
        "VIRTIO_MMIO_STATUS": 15,
        "VIRTIO_MMIO_SHM_LEN_LOW": 0xFFFF_FFFF,
        "VIRTIO_MMIO_SHM_LEN_HIGH": 0xFFFF_FFFF,
        "VIRTIO_MMIO_SHM_BASE_LOW": 0xFFFF_FFFF,
        "VIRTIO_MMIO_SHM_BASE_HIGH": 0xFFFF_FFFF,
        "VIRTIO_MMIO_CONFIG_GENERATION": 77,
        "VIRTIO_MMIO_CONFIG + __builtin_offsetof(struct virtio_blk_config, capacity)": 64,
    }
    areas = [f"VIRTIO_MMIO_QUEUE_{area}_LOW" for area in ("DESC", "AVAIL", "USED")]
    others = [*areas, "VIRTIO_MMIO_DEVICE_FEATURES_SEL", "VIRTIO_ID_BLOCK"]
    values = evaluate([*{name for step in steps for name in step}, *registers, *others], tmp_path)
    memory = flat_memory()
    queue = SplitDriver(memory, 8)
    queue.add([bytes(16)], [512, 1])
    with (
        RawDisk.scratch(64 * 512) as disk,
        VirtioMmio(Block(disk), memory, RecordingLine(), ManualLoop()) as transport,
    ):

        def write(offset: int, value: int) -> None:
            transport.write(offset, value.to_bytes(4, "little"))

        write(values["VIRTIO_MMIO_DEVICE_FEATURES_SEL"], 1)
        for area, address in zip(areas, queue.layout[1:], strict=True):
            write(values[area], address)
        for value, register in steps:
            write(values[register], values[value])
        transport.service()
        transport.device.config_generation = 77
        found = {
            name: int.from_bytes(transport.read(values[name], 4), "little") for name in registers
        }

    [used] = queue.collect()
    assert used.data == bytes(513)
    assert found == registers
