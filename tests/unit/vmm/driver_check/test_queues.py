"""Drivers that set up their queues wrongly."""

import pytest

from tests.unit.vmm.driver_check.bench import RING_RESET, Bench, Gadget
from tests.unit.vmm.driver_check.conftest import MakeBench


def write_size(bench: Bench, size: int) -> None:
    if bench.kind == "mmio":
        bench.driver.write(0x30, 0)
        bench.driver.write(0x38, size)
    else:
        bench.driver.select(0)
        bench.driver.set_common(0x18, size, 2)


def enable(bench: Bench, value: int = 1) -> None:
    if bench.kind == "mmio":
        bench.driver.write(0x44, value)
    else:
        bench.driver.set_common(0x1C, value, 2)


def write_addresses(bench: Bench, *addresses: int) -> None:
    for number, address in enumerate(addresses):
        if bench.kind == "mmio":
            bench.driver.write(0x80 + 0x10 * number, address)
        else:
            bench.driver.set_common(0x20 + 8 * number, address, 4)


@pytest.mark.parametrize("size", [0, 32, 17])
def test_a_size_that_the_queue_cannot_have(bench: Bench, size: int) -> None:
    bench.negotiate()
    write_size(bench, size)
    assert bench.found() == ["queue-size-impossible"]
    assert bench.last.place == "gadget/0"
    assert "1 to 16" in bench.last.expected


def test_a_size_of_0_is_told_once_when_the_queue_is_enabled_with_it(mmio: Bench) -> None:
    mmio.negotiate()
    _, *areas = mmio.ring.layout
    mmio.driver.set_up_queue(0, 0, *areas)
    assert mmio.found() == ["queue-size-impossible"]


def test_a_size_that_is_no_power_of_two(bench: Bench) -> None:
    bench.negotiate()
    write_size(bench, 12)
    assert bench.found() == ["queue-size-not-power-of-two"]


def test_a_packed_queue_of_any_size_is_allowed(make_bench: MakeBench) -> None:
    bench = make_bench("pci", packed=True, size=12)
    bench.go_live()
    assert bench.found() == []


@pytest.mark.parametrize("area", [0, 1, 2])
def test_an_area_that_is_not_aligned(bench: Bench, area: int) -> None:
    bench.negotiate()
    size, *areas = bench.ring.layout
    areas[area] += 1
    bench.driver.set_up_queue(0, size, *areas)
    assert bench.found() == ["queue-misaligned"]
    assert "must be aligned to" in bench.last.did


def test_a_ring_in_no_memory(bench: Bench) -> None:
    bench.negotiate()
    size, table, _, used = bench.ring.layout
    bench.driver.set_up_queue(0, size, table, 0x40_0000_0000, used)
    assert bench.found() == ["queue-outside-memory"]
    assert "available ring" in bench.last.did


def test_a_queue_without_addresses(bench: Bench) -> None:
    bench.negotiate()
    write_size(bench, 16)
    write_addresses(bench, 0x1000)
    enable(bench)
    assert bench.found() == ["queue-without-addresses"]
    assert "its driver area and device area" in bench.last.did


def test_a_queue_without_a_size(mmio: Bench) -> None:
    mmio.negotiate()
    write_addresses(mmio, *mmio.ring.layout[1:])
    enable(mmio)
    assert mmio.found() == ["queue-size-never-written"]


def test_a_queue_before_features_ok(bench: Bench) -> None:
    bench.introduce()
    bench.driver.set_up_queue(0, *bench.ring.layout)
    assert bench.found() == ["queue-before-features-ok"]


def test_a_queue_after_driver_ok(bench: Bench) -> None:
    bench.negotiate()
    bench.driver.status = 0x0F
    bench.driver.set_up_queue(0, *bench.ring.layout)
    assert bench.found() == ["queue-after-driver-ok"]


def test_a_change_of_an_enabled_queue(bench: Bench) -> None:
    bench.go_live()
    write_addresses(bench, 0x8000)
    assert bench.found() == ["queue-changed-while-enabled"]


def test_a_queue_that_does_not_exist(bench: Bench) -> None:
    bench.negotiate()
    bench.driver.set_up_queue(5, *bench.ring.layout)
    assert bench.found() == ["queue-missing"]
    assert "queue 0 to 0" in bench.last.expected


def test_an_enable_register_that_is_written_with_0(pci: Bench) -> None:
    pci.go_live()
    enable(pci, 0)
    assert pci.found() == ["queue-enable-zero"]


def test_a_queue_that_is_stopped_and_not_read_back(mmio: Bench) -> None:
    mmio.go_live()
    mmio.driver.write(0x44, 0)
    mmio.driver.write(0x30, 0)
    assert mmio.found() == ["queue-stop-not-read-back"]


def test_a_queue_that_is_stopped_and_read_back_is_kept(mmio: Bench) -> None:
    mmio.go_live()
    mmio.driver.write(0x44, 0)
    mmio.driver.read(0x44)
    assert mmio.found() == []
    assert "DRV-QUE-09" in mmio.kept()


def reset_queue(bench: Bench) -> None:
    if bench.kind == "mmio":
        bench.driver.write(0xC0, 1)
    else:
        bench.driver.set_common(0x3A, 1, 2)


def reset_done(bench: Bench) -> bool:
    if bench.kind == "mmio":
        return bool(bench.driver.read(0xC0) == 0)
    return bool(bench.driver.common(0x3A, 2) == 0)


def test_a_reset_of_a_queue_that_was_not_negotiated(bench: Bench) -> None:
    bench.go_live()
    reset_queue(bench)
    assert bench.found() == ["queue-reset-not-negotiated"]


@pytest.fixture(params=["mmio", "pci"])
def resettable(request: pytest.FixtureRequest, make_bench: MakeBench) -> Bench:
    return make_bench(request.param, Gadget(ring_features=RING_RESET))


def test_a_reset_of_a_queue_that_is_not_waited_for(resettable: Bench) -> None:
    resettable.go_live(RING_RESET)
    reset_queue(resettable)
    resettable.driver.set_up_queue(0, *resettable.ring.layout)
    assert resettable.found() == ["queue-reset-not-waited"]


def test_a_reset_of_a_queue_that_is_waited_for_is_kept(resettable: Bench) -> None:
    resettable.go_live(RING_RESET)
    reset_queue(resettable)
    assert reset_done(resettable)
    assert resettable.driver.set_up_queue(0, *resettable.ring.layout)
    assert resettable.found() == []
    assert "DRV-QUE-10" in resettable.kept()


def test_a_vector_that_is_not_read_back(pci: Bench) -> None:
    pci.negotiate()
    pci.driver.switch_msix()
    pci.driver.select(0)
    pci.driver.set_common(0x1A, 1, 2)
    pci.driver.set_up_queue(0, *pci.ring.layout)
    pci.driver.status = 0x0F
    assert pci.found() == ["vector-not-read-back"]
    assert "queue_msix_vector of queue 0 = 1" in pci.last.did


def test_a_vector_that_the_table_does_not_have(pci: Bench) -> None:
    pci.negotiate()
    pci.driver.switch_msix()
    assert pci.driver.map_config(9) == 0xFFFF
    assert pci.found() == ["vector-refused"]


def test_a_vector_that_is_read_back_is_kept(pci: Bench) -> None:
    pci.negotiate()
    pci.driver.switch_msix()
    assert pci.driver.map_queue(0, 1) == 1
    assert pci.found() == []
    assert "DRV-PCI-01" in pci.kept()
