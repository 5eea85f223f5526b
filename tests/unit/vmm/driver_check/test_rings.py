"""Drivers that spoil their rings, or notify wrongly, on every engine of the rings."""

import os

import pytest

from tests.unit.vmm.driver_check.bench import INDIRECT, Bench, Gadget
from tests.unit.vmm.driver_check.conftest import MakeBench
from virtio import engine
from virtio.errors import DriverError
from virtio.testing import Segment
from vmm.trace.events import Completed, Taken

NATIVE = pytest.mark.skipif(
    not engine._module(), reason="the native engine was not built: no C compiler"
)
NEXT, WRITE, IS_INDIRECT = 1, 2, 4


@pytest.fixture(
    autouse=True,
    params=["python", pytest.param("native", marks=NATIVE)],
)
def every_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_chosen", request.param)


def test_an_available_index_that_runs_ahead(bench: Bench) -> None:
    bench.go_live()
    bench.ring.set_avail_idx(17)
    bench.serve_bad_ring()
    assert bench.found() == ["avail-index-ahead"]


def test_a_head_past_the_table(bench: Bench) -> None:
    bench.go_live()
    bench.ring.expose(16)
    bench.serve_bad_ring()
    assert bench.found() == ["head-out-of-range"]


def test_a_next_past_the_table(bench: Bench) -> None:
    bench.go_live()
    bench.ring.write_descriptor(0, 0x8000, 8, NEXT, 16)
    bench.ring.expose(0)
    bench.serve_bad_ring()
    assert bench.found() == ["next-out-of-range"]


def test_a_loop_of_descriptors(bench: Bench) -> None:
    bench.go_live()
    bench.ring.write_descriptor(0, 0x8000, 8, NEXT, 1)
    bench.ring.write_descriptor(1, 0x8000, 8, NEXT, 0)
    bench.ring.expose(0)
    bench.serve_bad_ring()
    assert bench.found() == ["descriptor-loop"]


def test_a_chain_of_more_than_4_gib(bench: Bench) -> None:
    bench.go_live()
    for index in range(3):
        bench.ring.write_descriptor(index, 0, 0xFFFF_FFFF, NEXT if index < 2 else 0, index + 1)
    bench.ring.expose(0)
    bench.serve_bad_ring()
    assert bench.found() in (["chain-too-large"], ["buffer-outside-memory"])


def test_a_chain_that_the_device_finds_too_large(bench: Bench) -> None:
    bench.go_live()
    bench.transport._fail(DriverError("SPL-14", "5 GiB in all", queue=0))
    assert bench.found() == ["chain-too-large"]
    assert bench.last.did.endswith("in queue 0: 5 GiB in all")


def test_a_chain_of_too_many_descriptors(make_bench: MakeBench) -> None:
    bench = make_bench("mmio", Gadget(ring_features=INDIRECT))
    bench.go_live(INDIRECT)
    entries = [(0x8000, 1, NEXT, index + 1) for index in range(2000)]
    table = bench.ring.write_indirect_table(entries, 0x4_0000)
    bench.ring.write_descriptor(0, table, 16 * len(entries), IS_INDIRECT)
    bench.ring.expose(0)
    bench.serve_bad_ring()
    assert bench.found() == ["chain-too-many"]


def test_a_buffer_in_no_memory(bench: Bench) -> None:
    bench.go_live()
    bench.ring.add_segments([Segment(0xFFFF_FFFF_8000_0000, 8, False)])
    bench.serve_bad_ring()
    assert bench.found() == ["buffer-outside-memory"]
    assert bench.last.place == "gadget/0"


def test_a_readable_descriptor_behind_a_writable_one(bench: Bench) -> None:
    bench.go_live()
    bench.ring.add_segments([Segment(0x8000, 8, True), Segment(0x8100, 8, False)])
    bench.serve_bad_ring()
    assert bench.found() == ["readable-after-writable"]


def test_an_indirect_descriptor_that_was_not_negotiated(bench: Bench) -> None:
    bench.go_live()
    bench.ring.add([b"x"], [8], indirect=True)
    bench.serve_bad_ring()
    assert bench.found() == ["indirect-not-negotiated"]


@pytest.fixture(params=["mmio", "pci"])
def indirect(request: pytest.FixtureRequest, make_bench: MakeBench) -> Bench:
    bench = make_bench(request.param, Gadget(ring_features=INDIRECT))
    bench.go_live(INDIRECT)
    return bench


def test_an_indirect_descriptor_that_goes_on(indirect: Bench) -> None:
    indirect.ring.write_descriptor(0, 0x8000, 16, IS_INDIRECT | NEXT, 1)
    indirect.ring.expose(0)
    indirect.serve_bad_ring()
    assert indirect.found() == ["indirect-with-next"]


def test_an_indirect_table_in_an_indirect_table(indirect: Bench) -> None:
    table = indirect.ring.write_indirect_table([(0x8000, 16, IS_INDIRECT, 0)])
    indirect.ring.write_descriptor(0, table, 16, IS_INDIRECT)
    indirect.ring.expose(0)
    indirect.serve_bad_ring()
    assert indirect.found() == ["indirect-nested"]


def test_an_indirect_table_whose_length_is_no_number_of_entries(indirect: Bench) -> None:
    indirect.ring.write_descriptor(0, 0x8000, 1, IS_INDIRECT)
    indirect.ring.expose(0)
    indirect.serve_bad_ring()
    assert indirect.found() == ["indirect-table-size"]


def test_indirect_descriptors_that_are_right_are_kept(indirect: Bench) -> None:
    indirect.ring.add([b"x"], [8], indirect=True)
    indirect.kick()
    assert indirect.stalls(stuck=False) == []
    assert {"DRV-RNG-07", "DRV-RNG-08", "DRV-RNG-09", "DRV-RNG-10"} <= indirect.kept()


def test_a_chain_longer_than_the_queue(indirect: Bench) -> None:
    indirect.ring.add([b"x"] * 20, [8], indirect=True)
    indirect.kick()
    assert indirect.found() == ["chain-longer-than-queue"]
    assert "21 descriptors in queue 0, which has 16" in indirect.last.did


class Holder(Gadget):
    """Keeps the chains that it gets."""

    def handle_queue(self, index: int) -> bool:
        queue = self.queues[index]
        assert queue is not None
        self.held = list(queue)
        return False


def test_a_chain_that_is_made_available_again_before_it_came_back(make_bench: MakeBench) -> None:
    bench = make_bench("mmio", Holder())
    bench.go_live()
    bench.ring.write_descriptor(3, 0x8000, 8, WRITE)
    bench.ring.expose(3)
    bench.kick()
    assert bench.found() == []
    bench.ring.expose(3)
    bench.kick()
    bench.found()
    assert bench.found() == ["chain-reused"]
    assert "made chain 3 of queue 0" in bench.last.did


def test_a_chain_whose_return_is_told_late_is_no_reused_one(make_bench: MakeBench) -> None:
    bench = make_bench("mmio")
    bench.go_live()
    bench.found()
    place = ("gadget", "gadget", 0)
    first, again = Taken(10, *place, id=3, total=1), Taken(30, *place, id=3, total=1)
    back, last = Completed(20, *place, id=3), Completed(40, *place, id=3)
    bench.doctor.feed([first, again])
    bench.doctor.feed([back])
    bench.doctor.feed([last])
    bench.doctor.feed([first])
    assert bench.stalls(stuck=False) == []


def test_a_chain_that_is_reused_at_the_very_end_is_told(make_bench: MakeBench) -> None:
    bench = make_bench("mmio")
    bench.go_live()
    bench.found()
    place = ("gadget", "gadget", 0)
    bench.doctor.feed([Taken(10, *place, id=3, total=1), Taken(20, *place, id=3, total=1)])
    assert bench.stalls(stuck=False) == ["chain-reused"]


def test_lost_records_make_no_chain_a_reused_one(make_bench: MakeBench) -> None:
    bench = make_bench("mmio", Holder())
    bench.go_live()
    bench.ring.write_descriptor(3, 0x8000, 8, WRITE)
    bench.ring.expose(3)
    bench.kick()
    bench.found()
    bench.recorder._lost = 5
    bench.found()
    bench.ring.expose(3)
    bench.kick()
    assert bench.found() == []


def test_a_packed_list_that_does_not_end(packed: Bench) -> None:
    packed.go_live()
    packed.ring.write_descriptor(0, 0x8000, 8, 0, NEXT | packed.ring.available_flags(1))
    packed.serve_bad_ring()
    assert packed.found() == ["packed-list-broken"]


def test_a_packed_indirect_descriptor_that_was_not_negotiated(packed: Bench) -> None:
    packed.go_live()
    packed.ring.write_descriptor(0, 0x8000, 16, 0, IS_INDIRECT | packed.ring.available_flags(1))
    packed.serve_bad_ring()
    assert packed.found() == ["packed-indirect"]


def test_a_rule_of_the_device_has_its_diagnosis_too(bench: Bench) -> None:
    bench.go_live()
    bench.transport._fail(DriverError("BLK-99", "no header", queue=0, chain=2))
    assert bench.found() == ["device-rule-broken"]
    assert bench.last.did == "broke rule BLK-99 of this device: chain 2: no header"


def test_a_device_that_fails_is_no_mistake_of_the_driver(bench: Bench) -> None:
    bench.go_live()
    bench.transport._fail(ValueError("ours"))
    assert bench.found() == []


# Notifications


def test_a_notification_before_driver_ok(bench: Bench) -> None:
    bench.negotiate()
    bench.driver.set_up_queue(0, *bench.ring.layout)
    bench.ring.add([b"x"], [8])
    bench.driver.notify(0)
    bench.driver.status = 0x0F
    assert bench.found() == ["kick-before-driver-ok"]


@pytest.mark.parametrize("before", [True, False], ids=["served-before", "served-after"])
def test_a_notification_before_driver_ok_that_kvm_took(bench: Bench, before: bool) -> None:
    bench.negotiate()
    bench.driver.set_up_queue(0, *bench.ring.layout)
    os.eventfd_write(bench.transport.queues[0].notify_fd, 1)
    if before:
        bench.transport.service()
    bench.driver.status = 0x0F
    bench.transport.service()
    assert bench.found() == ["kick-before-driver-ok"]


def test_a_notification_that_was_in_time_is_not_too_early_after_a_reset(bench: Bench) -> None:
    bench.go_live()
    os.eventfd_write(bench.transport.queues[0].notify_fd, 1)
    bench.reset()
    bench.transport.service()
    bench.go_live()
    bench.transport.service()
    assert bench.found() == []


class Broken(Gadget):
    """Has a bug of its own."""

    def handle_queue(self, index: int) -> bool:
        raise ValueError("ours")


def test_a_notification_of_a_device_that_waits_to_be_mended_is_in_order(
    make_bench: MakeBench,
) -> None:
    bench = make_bench("mmio", Broken())
    bench.transport.on_bug = lambda _: True
    bench.go_live()
    for _ in range(3):
        os.eventfd_write(bench.transport.queues[0].notify_fd, 1)
        bench.transport.service()
    assert bench.transport.suspended
    assert bench.found() == []


def test_a_notification_of_a_queue_that_is_not_enabled(bench: Bench) -> None:
    bench.negotiate()
    bench.driver.status = 0x0F
    os.eventfd_write(bench.transport.queues[0].notify_fd, 1)
    bench.transport.service()
    assert bench.found() == ["kick-of-disabled-queue"]


def test_a_notification_of_a_queue_that_does_not_exist(mmio: Bench) -> None:
    mmio.go_live()
    mmio.driver.notify(7)
    assert mmio.found() == ["kick-of-missing-queue"]


def test_a_notification_without_bus_master(pci: Bench) -> None:
    pci.driver.switch_on(0xC200_0000, command=2)
    pci.reset()
    pci.driver.status = 1
    pci.driver.status = 3
    pci.driver.offered_features()
    pci.driver.accept_features(1 << 32)
    pci.driver.status = 0x0B
    assert pci.driver.status == 0x0B
    pci.driver.set_up_queue(0, *pci.ring.layout)
    pci.driver.status = 0x0F
    pci.driver.notify(0)
    assert pci.found() == ["no-bus-master"]


# Interrupts


def test_an_acknowledgement_of_undefined_bits(mmio: Bench) -> None:
    mmio.go_live()
    mmio.driver.write(0x64, 0xFFFF_FFFF)
    assert mmio.found() == ["acknowledged-undefined"]


def test_an_acknowledgement_without_a_look_at_the_status(mmio: Bench) -> None:
    mmio.go_live()
    mmio.ring.add([b"x"], [8])
    mmio.kick()
    mmio.driver.acknowledge(1)
    assert mmio.found() == ["acknowledged-unread"]
