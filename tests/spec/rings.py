"""What tests of the queues share: the gadget gone live, and what a ring error must look like."""

import pytest

from tests.spec.conftest import RigMaker
from tests.spec.devices import EVERY_RING, Gadget
from tests.spec.rig import SPLIT, Form, Rig
from virtio.memory import FlatMemory
from virtio.testing import PackedDriver, Segment, SplitDriver

INDIRECT_DESC = 1 << 28
EVENT_IDX = 1 << 29
IN_ORDER = 1 << 35
NEXT, WRITE, INDIRECT, AVAIL, USED = 1, 2, 4, 0x80, 0x8000
ECHO, SLOW = 0, 1
NEEDS_RESET = 0x40


class OrderlyGadget(Gadget):
    """The gadget, with the promise to complete in order."""

    in_order = True


def go_live(
    make_rig: RigMaker,
    form: Form = SPLIT,
    features: int = 0,
    size: int = 8,
    memory: FlatMemory | None = None,
) -> Rig:
    """Return the gadget live, with its two queues: one echoes, one holds its chains."""
    rig = make_rig(OrderlyGadget(ring_features=EVERY_RING | IN_ORDER), memory)
    rig.start(features, form, size)
    return rig


def gadget_of(rig: Rig) -> Gadget:
    """Return the device, which must be a gadget."""
    assert isinstance(rig.device, Gadget)
    return rig.device


def split_ring(rig: Rig, index: int = ECHO) -> SplitDriver:
    """Return the driver's side of a queue, which must be split."""
    ring = rig.rings[index]
    assert isinstance(ring, SplitDriver)
    return ring


def packed_ring(rig: Rig, index: int = ECHO) -> PackedDriver:
    """Return the driver's side of a queue, which must be packed."""
    ring = rig.rings[index]
    assert isinstance(ring, PackedDriver)
    return ring


def kick(rig: Rig, index: int = ECHO) -> None:
    """Notify the device, and let it serve."""
    rig.driver.notify(index)
    rig.serve()


def place(rig: Rig, data: bytes, index: int = ECHO) -> Segment:
    """Put readable bytes into guest memory."""
    ring = rig.rings[index]
    address = ring.arena.allocate(len(data))
    ring.write_bytes(address, data)
    return Segment(address, len(data), False)


def room(rig: Rig, length: int, fill: int = 0xA5, index: int = ECHO) -> Segment:
    """Make writable room in guest memory."""
    return place(rig, bytes([fill]) * length, index)._replace(writable=True)


def content(rig: Rig, segment: Segment) -> bytes:
    """Return the bytes of a segment."""
    return bytes(rig.memory.view(segment.address, segment.length))


def break_ring(rig: Rig, item: str, log: pytest.LogCaptureFixture) -> None:
    """Kick the echo queue, whose ring is bad, and check all that must come of it.

    Nothing is written but the device's notification suppression; DEVICE_NEEDS_RESET is set and
    announced; the log has one line, which names the item; no ring is touched any more, also not
    that of the other queue.
    """
    before = _image(rig)
    kick(rig)
    assert rig.driver.status & NEEDS_RESET, "the device goes on"
    assert rig.driver.interrupt_status & 2
    assert _image(rig) == before
    assert [item in line for line in log.messages] == [True], log.messages
    rig.add(SLOW, ([], [4]))
    frozen, edges = bytes(rig.memory.view(0, 4 << 20)), rig.line.edges
    kick(rig)
    kick(rig, SLOW)
    assert bytes(rig.memory.view(0, 4 << 20)) == frozen
    assert rig.line.edges == edges
    assert gadget_of(rig).held == []


def _image(rig: Rig) -> bytes:
    """Return guest memory without the echo queue's notification suppression."""
    image = bytearray(rig.memory.view(0, 4 << 20))
    size, _, _, device_area = rig.rings[ECHO].layout
    image[device_area : device_area + 2] = bytes(2)
    packed = isinstance(rig.rings[ECHO], PackedDriver)
    other_half = device_area + (2 if packed else 4 + 8 * size)
    image[other_half : other_half + 2] = bytes(2)
    return bytes(image)
