"""Drivers that stand still: what they left out is told at the end, or after a while."""

from time import monotonic_ns

import pytest

from tests.unit.vmm.driver_check.bench import VERSION_1, Bench
from tests.unit.vmm.driver_check.conftest import MakeBench


def test_a_device_that_nobody_looked_at(bench: Bench) -> None:
    assert bench.stalls(stuck=False) == ["no-driver"]
    assert f"CONFIG_VIRTIO_{bench.kind.upper()}=y" in bench.last.next


def test_a_device_that_was_looked_at_and_left(mmio: Bench) -> None:
    mmio.find()
    assert mmio.stalls(stuck=False) == ["no-driver"]
    assert "though its registers were read" in mmio.last.did


def test_a_function_whose_memory_space_is_off(pci: Bench) -> None:
    pci.driver.capabilities()
    assert pci.stalls(stuck=False) == ["memory-space-off"]


def test_a_device_that_no_driver_took(bench: Bench) -> None:
    bench.find()
    bench.reset()
    bench.driver.status = 1
    assert bench.stalls(stuck=False) == ["driver-never-set"]
    assert "CONFIG_VIRTIO_BLK=y, or the module virtio_blk" in bench.last.next


def test_features_that_are_never_written(bench: Bench) -> None:
    bench.introduce()
    bench.driver.offered_features()
    assert bench.stalls(stuck=False) == []
    assert bench.stalls() == ["features-stalled"]


def test_features_ok_that_is_never_set(bench: Bench) -> None:
    bench.introduce()
    bench.driver.offered_features()
    bench.driver.accept_features(VERSION_1)
    assert bench.stalls() == ["features-ok-never-set"]


def test_driver_ok_that_is_never_set(bench: Bench) -> None:
    bench.negotiate()
    bench.driver.set_up_queue(0, *bench.ring.layout)
    assert bench.stalls() == ["driver-ok-never-set"]
    assert "enabled 1 of 1 queues" in bench.last.did


def test_a_live_device_without_queues(bench: Bench) -> None:
    bench.negotiate()
    bench.driver.status = 0x0F
    assert bench.stalls() == ["no-queue-enabled"]


def test_buffers_without_a_notification(bench: Bench) -> None:
    bench.go_live()
    bench.transport.service()
    bench.ring.add([b"x"], [8])
    assert bench.stalls() == ["never-kicked"]


def test_buffers_in_a_packed_ring_without_a_notification(packed: Bench) -> None:
    packed.go_live()
    packed.transport.service()
    packed.ring.add([b"x"], [8])
    assert packed.stalls() == ["never-kicked"]


@pytest.mark.parametrize("form", ["split", "packed"])
def test_buffers_of_which_the_device_wants_no_notification(
    make_bench: MakeBench, form: str
) -> None:
    bench = make_bench("mmio", packed=form == "packed")
    bench.go_live()
    bench.transport.service()
    queue = bench.transport.queues[0].queue
    assert queue is not None
    queue.disable_notification()
    bench.ring.add([b"x"], [8])
    assert bench.stalls() == []


def test_a_notification_with_nothing_available(bench: Bench) -> None:
    bench.go_live()
    bench.ring.add([b"x"], [8], publish=False)
    bench.kick()
    assert bench.stalls() == ["nothing-available"]
    assert "avail.idx is still 0" in bench.last.did


def test_a_notification_with_nothing_in_a_packed_ring(packed: Bench) -> None:
    packed.go_live()
    packed.ring.add([b"x"], [8], publish=False)
    packed.kick()
    assert packed.stalls() == ["nothing-available"]
    assert "entry 0 of the ring" in packed.last.did


def test_a_wrap_counter_that_begins_with_0(packed: Bench) -> None:
    packed.go_live()
    packed.ring.write_descriptor(0, 0x8000, 8, 0, packed.ring.available_flags(0))
    packed.kick()
    assert packed.stalls() == ["packed-wrap"]
    assert "AVAIL = 1 and USED = 0" in packed.last.expected


def test_a_wrap_counter_that_is_not_flipped(packed: Bench) -> None:
    packed.go_live()
    for _ in range(8):
        packed.ring.add([b"x"], [8])
        packed.kick()
        packed.ring.collect()
    packed.driver.acknowledge(1) if packed.kind == "mmio" else packed.driver.isr
    packed.ring.write_descriptor(0, 0x8000, 8, 0, packed.ring.available_flags(1))
    packed.kick()
    assert "packed-wrap" in packed.stalls()


def test_an_entry_that_a_list_of_the_last_lap_left_is_no_wrong_wrap_counter(
    packed: Bench,
) -> None:
    packed.go_live()
    packed.ring.add([b"x"] * 15, [8])
    packed.kick()
    packed.ring.collect()
    packed.ring.add([b"x"], [])
    packed.kick()
    packed.kick()
    if packed.kind == "mmio":
        packed.driver.acknowledge(packed.driver.interrupt_status)
    assert packed.stalls() == []


def test_interrupts_that_nobody_acknowledges(mmio: Bench) -> None:
    mmio.go_live()
    mmio.ring.add([b"x"], [8])
    mmio.kick()
    assert mmio.stalls() == ["interrupt-never-acknowledged"]
    assert "none of 1 interrupts" in mmio.last.did


def test_msix_without_a_vector_for_any_queue(pci: Bench) -> None:
    pci.negotiate()
    pci.driver.switch_msix()
    pci.driver.set_up_queue(0, *pci.ring.layout)
    pci.driver.status = 0x0F
    pci.ring.add([b"x"], [8])
    pci.kick()
    assert pci.stalls() == ["no-vector"]


def test_a_driver_that_gave_up(bench: Bench) -> None:
    bench.introduce()
    bench.driver.status = 0x83
    assert bench.stalls() == ["driver-gave-up"]


def test_a_broken_device_that_is_not_reset(bench: Bench) -> None:
    bench.go_live()
    bench.ring.expose(16)
    bench.serve_bad_ring()
    assert bench.stalls() == ["head-out-of-range", "needs-reset-ignored"]


def test_a_stall_is_told_after_quiet_time_and_not_before(bench: Bench) -> None:
    bench.negotiate()
    assert bench.found() == []
    now = bench.doctor.cases[0].last
    bench.doctor.look_for_stalls(now + 9, 10)
    assert bench.found() == []
    bench.doctor.look_for_stalls(now + 10, 10)
    assert bench.found() == ["driver-ok-never-set"]


@pytest.mark.parametrize("step", ["nothing", "acknowledged"])
def test_a_guest_without_a_driver_is_told_at_the_end_only(mmio: Bench, step: str) -> None:
    if step == "acknowledged":
        mmio.find()
        mmio.reset()
        mmio.driver.status = 1
    mmio.found()
    mmio.doctor.look_for_stalls(monotonic_ns() + (1 << 40), 10)
    assert mmio.found() == []
