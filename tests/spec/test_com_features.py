"""Feature negotiation: what is offered, what is accepted, and that only the accepted counts."""

import random

import pytest

from tests.spec.conftest import RigMaker
from tests.spec.devices import CASES, EVERY_RING, IN_ORDER, DeviceCase, Gadget
from tests.spec.rig import PACKED, SPLIT, VERSION_1, Form, Rig
from transport import VirtioMmio
from transport.testing import RecordingLine
from virtio.device.declaration import Device, feature, queue
from virtio.entropy import Entropy
from virtio.errors import ConfigurationError
from virtio.testing import ManualLoop, PackedDriver, Segment, SplitDriver, flat_memory

EVENT_IDX = 1 << 29
EXTRA = 1 << 1
BASE = 1 << 0


@pytest.mark.spec("COM-10")
def test_version_1_is_offered(device_case: DeviceCase, make_rig: RigMaker) -> None:
    rig = make_rig(device_case.make(ring_features=0))

    rig.driver.write(0x14, 1)

    assert rig.driver.read(0x10) & 1 == 1


@pytest.mark.spec("COM-11")
def test_features_ok_is_refused_without_version_1(
    device_case: DeviceCase, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())

    assert not rig.driver.negotiate(device_case.offer & ~VERSION_1)
    assert rig.driver.status == 0x03


@pytest.mark.spec("COM-12")
def test_every_offered_feature_has_its_prerequisites_offered(
    device_case: DeviceCase, make_rig: RigMaker
) -> None:
    offer = make_rig(device_case.make()).driver.offered_features()

    lacking = [
        (bit, needed)
        for bit, prerequisites in device_case.requires.items()
        for needed in prerequisites
        if offer >> bit & 1 and not offer >> needed & 1
    ]

    assert lacking == []


class HalfOffered(Device):
    """Has a feature whose prerequisite it withholds."""

    device_id = 0x7F
    FIRST = feature(3, when=lambda device: False)
    SECOND = feature(4, requires=(FIRST,))
    THIRD = feature(5, requires=(SECOND,))

    @queue(size=8)
    def workq(self, chain: object) -> int:
        return 0


@pytest.mark.spec("COM-12")
def test_feature_without_its_prerequisite_is_not_offered(make_rig: RigMaker) -> None:
    rig = make_rig(HalfOffered())

    assert rig.driver.offered_features() & 0xFFFFFF == 0


@pytest.mark.spec("COM-13", "COM-19")
def test_offer_is_what_the_device_type_and_the_transport_have_and_nothing_else(
    device_case: DeviceCase, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())
    words = []
    for word in range(8):
        rig.driver.write(0x14, word)
        words.append(rig.driver.read(0x10))

    offered = {32 * word + bit for word in range(8) for bit in range(32) if words[word] >> bit & 1}

    assert offered == device_case.features | {28, 29, 32, 40}


@pytest.mark.spec("COM-13", "COM-19")
@pytest.mark.parametrize("bit", [24, 25, 26, 27, 30, 31, 33, 36, 37, 39, 41, 42, 43, 44, 49, 128])
def test_device_cannot_offer_what_is_reserved_or_needs_another_transport(bit: int) -> None:
    class Overreaching(Gadget):
        @property
        def device_features(self) -> int:
            return VERSION_1 | 1 << bit

    with pytest.raises(ConfigurationError, match=rf"feature bits \[{bit}\]"):
        VirtioMmio(Overreaching(), flat_memory(), RecordingLine(), ManualLoop())


def random_subset(case: DeviceCase, chance: random.Random) -> int:
    """Return a set that is offered and holds all prerequisites."""
    ring = EVERY_RING & chance.getrandbits(64)
    bits = {bit for bit in case.features if chance.getrandbits(1)}
    for bit, needed in case.requires.items():
        if not bits.issuperset(needed):
            bits.discard(bit)
    for bit, one_of in case.requires_any.items():
        if bits.isdisjoint(one_of):
            bits.discard(bit)
    return VERSION_1 | ring | sum(1 << bit for bit in bits)


@pytest.mark.spec("COM-14")
def test_any_valid_subset_is_accepted_and_served(
    device_case: DeviceCase, make_rig: RigMaker
) -> None:
    chance = random.Random(14)
    rig = make_rig(device_case.make(ring_features=EVERY_RING))
    answers = []

    for _ in range(40):
        subset = random_subset(device_case, chance)
        rig.start(subset, form=(SPLIT, PACKED)[subset >> 34 & 1])
        answers.append(rig.request(device_case.queue, device_case.request).length)

    assert answers == [device_case.answer] * 40


@pytest.mark.spec("COM-14")
def test_set_that_the_device_cannot_serve_leaves_features_ok_clear(make_rig: RigMaker) -> None:
    class Picky(Gadget):
        def features_acceptable(self, features: int) -> bool:
            return not features >> 50 & 1 and super().features_acceptable(features)

    rig = make_rig(Picky())

    assert not rig.driver.negotiate(VERSION_1 | 1 << 50)
    assert rig.driver.status == 0x03
    assert rig.driver.negotiate(VERSION_1)


@pytest.mark.spec("COM-15")
def test_features_ok_is_refused_for_each_bit_that_is_not_offered(
    device_case: DeviceCase, make_rig: RigMaker
) -> None:
    driver = make_rig(device_case.make()).driver
    missing = [bit for bit in range(128) if not device_case.offer >> bit & 1]

    accepted = [bit for bit in missing if driver.negotiate(VERSION_1 | 1 << bit)]

    assert len(missing) >= 100
    assert accepted == []


@pytest.mark.spec("COM-15")
@pytest.mark.parametrize("case", [case for case in CASES if case.requires], ids=lambda c: c.name)
def test_features_ok_is_refused_for_a_feature_without_its_prerequisite(
    case: DeviceCase, make_rig: RigMaker
) -> None:
    driver = make_rig(case.make()).driver
    lacking = [
        (bit, needed)
        for bit, prerequisites in case.requires.items()
        for needed in prerequisites
        if driver.negotiate(case.offer & ~(1 << needed) | 1 << bit)
    ]

    assert lacking == []
    assert driver.negotiate(case.offer)


@pytest.mark.spec("COM-16")
def test_features_written_after_features_ok_change_nothing(gadget: Rig) -> None:
    gadget.prepare()

    gadget.driver.accept_features(gadget.driver.offered_features())
    gadget.driver.go_live()

    gadget.driver.write(0x30, 2)
    assert gadget.driver.read(0x34) == 0, "the queue of a feature that was not accepted"
    ring = gadget.rings[0]
    assert isinstance(ring, SplitDriver)
    ring.set_avail_event(0xBEEF)
    assert gadget.request(0, ((b"x",), (1,))).data == b"x"
    assert ring.avail_event == 0xBEEF


@pytest.mark.spec("COM-16")
def test_features_taken_back_after_features_ok_stay_accepted(gadget: Rig) -> None:
    gadget.prepare(BASE | EXTRA)

    gadget.driver.accept_features(0)
    gadget.driver.write(0x24, 7)
    gadget.driver.write(0x20, 1)
    gadget.driver.status = 0x0B
    gadget.driver.go_live()

    assert gadget.driver.status == 0x0F
    assert gadget.request(2, ((b"x",), (1,))).length == 0


@pytest.mark.spec("COM-17")
def test_set_is_accepted_again_after_every_reset(
    device_case: DeviceCase, form: Form, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make(ring_features=EVERY_RING))
    accepted = device_case.offer | form.features

    outcomes = [rig.driver.negotiate(accepted) for _ in range(100)]

    assert outcomes == [True] * 100


@pytest.mark.spec("COM-18")
def test_event_idx_is_not_used_when_only_offered_in_a_split_ring(
    device_case: DeviceCase, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())
    rig.start()
    ring = rig.rings[device_case.queue]
    assert isinstance(ring, SplitDriver)
    ring.set_avail_event(0xBEEF)
    ring.set_used_event(0x4000)

    rig.request(device_case.queue, device_case.request)

    assert ring.avail_event == 0xBEEF
    assert rig.driver.interrupt_status == 1


@pytest.mark.spec("COM-18")
def test_event_idx_is_not_used_when_only_offered_in_a_packed_ring(
    device_case: DeviceCase, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=PACKED)
    ring = rig.rings[device_case.queue]
    assert isinstance(ring, PackedDriver)
    ring.set_driver_event(0x7FFF, 2)

    rig.request(device_case.queue, device_case.request)

    assert ring.device_event[1] in (0, 1)
    assert rig.driver.interrupt_status == 1


@pytest.mark.spec("COM-18")
def test_queues_of_features_that_are_only_offered_do_not_exist(
    device_case: DeviceCase, make_rig: RigMaker
) -> None:
    rig = make_rig(device_case.make())

    rig.negotiate()

    assert rig.present_queues() == list(range(device_case.plain_queues))


@pytest.mark.spec("COM-18")
def test_indirect_descriptor_is_an_error_when_the_feature_is_only_offered(
    gadget: Rig, form: Form, make_rig: RigMaker
) -> None:
    rig = make_rig(Gadget(ring_features=EVERY_RING))
    rig.start(form=form)

    rig.rings[0].add([b"x"], [1], indirect=True)
    rig.driver.notify(0)
    rig.serve()

    assert rig.driver.status == 0x4F


@pytest.mark.spec("COM-19")
def test_addresses_are_guest_physical(
    device_case: DeviceCase, form: Form, make_rig: RigMaker
) -> None:
    high = flat_memory((0x8_0000_0000, 4 << 20))
    rig = make_rig(device_case.make(ring_features=EVERY_RING), high)
    rig.start(form=form)

    used = rig.request(device_case.queue, device_case.request)

    assert rig.rings[0].layout.descriptor_area > 0x8_0000_0000
    assert used.length == device_case.answer


@pytest.mark.spec("COM-19")
def test_host_address_is_not_guest_memory(gadget: Rig) -> None:
    gadget.start()

    gadget.rings[0].add_segments([Segment(0x7F00_0000_0000, 64, True)])
    gadget.driver.notify(0)
    gadget.serve()

    assert gadget.driver.status == 0x4F


@pytest.mark.spec("COM-20")
def test_in_order_is_offered_only_by_devices_that_keep_the_order() -> None:
    offering = {
        case.name
        for case in CASES
        if case.make(ring_features=EVERY_RING | IN_ORDER).device_features >> 35 & 1
    }

    assert offering == {"entropy", "console", "net", "net-minimal", "vsock", "balloon"}


@pytest.mark.spec("COM-20")
def test_entropy_keeps_the_order_when_the_first_request_is_the_slow_one(
    form: Form, make_rig: RigMaker
) -> None:
    supplies = iter([b"", b"", b"1", b"2", b"3"])
    entropy = Entropy(source=lambda length: next(supplies), ring_features=EVERY_RING | IN_ORDER)
    rig = make_rig(entropy)
    rig.start(1 << 35, form=form)
    tokens = [rig.rings[0].add([], [size]) for size in (64, 1, 1)]

    rig.driver.notify(0)
    rig.serve()
    early = rig.rings[0].collect()
    rig.loop.advance(1)
    rig.loop.advance(1)
    used = rig.rings[0].collect()

    assert early == []
    assert [one.token for one in used] == tokens
    assert [one.data[:1] for one in used] == [b"1", b"2", b"3"]
