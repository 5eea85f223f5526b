"""Drivers that take the steps of the initialization wrongly, on both transports."""

import pytest

from tests.unit.vmm.driver_check.bench import VERSION_1, Bench
from virtio.testing import SplitDriver


def test_a_driver_that_does_all_right_gets_no_diagnosis(bench: Bench) -> None:
    bench.go_live()
    for _ in range(40):
        bench.ring.add([b"request"], [8])
        bench.kick()
        assert len(bench.ring.collect()) == 1
    if bench.kind == "mmio":
        bench.driver.acknowledge(bench.driver.interrupt_status)
    bench.reset()
    bench.ring = SplitDriver(bench.memory, 16, base=0x4_0000)
    bench.go_live()
    assert bench.stalls() == []


def test_a_driver_of_packed_rings_that_does_all_right_gets_none(packed: Bench) -> None:
    packed.go_live()
    for _ in range(40):
        packed.ring.add([b"a", b"b"], [8])
        packed.kick()
        assert len(packed.ring.collect()) == 1
    if packed.kind == "mmio":
        packed.driver.acknowledge(packed.driver.interrupt_status)
    assert packed.stalls() == []
    assert {"DRV-RNG-13", "DRV-RNG-15", "DRV-RNG-06", "DRV-NTF-04"} <= packed.kept()


def test_duties_that_a_good_driver_keeps_are_told(mmio: Bench) -> None:
    mmio.go_live()
    mmio.ring.add([b"request"], [8])
    mmio.kick()
    mmio.ring.collect()
    mmio.driver.acknowledge(mmio.driver.interrupt_status)
    kept = mmio.kept()
    assert {f"DRV-INI-0{number}" for number in range(1, 9)} <= kept
    assert {"DRV-STA-01", "DRV-STA-02", "DRV-FEA-01", "DRV-FEA-07", "DRV-REG-03"} <= kept
    assert {"DRV-QUE-01", "DRV-QUE-05", "DRV-NTF-01", "DRV-INT-01", "DRV-RNG-12"} <= kept
    assert "DRV-CFG-02" not in kept
    assert "DRV-RNG-07" not in kept


def test_a_status_without_a_look_at_the_identity(mmio: Bench) -> None:
    mmio.driver.read(0x000)
    mmio.reset()
    mmio.driver.status = 1
    assert mmio.found() == ["not-identified"]
    assert "without having read Version and DeviceID" in mmio.last.did


def test_no_reset_at_the_beginning(bench: Bench) -> None:
    bench.find()
    bench.driver.status = 1
    assert bench.found() == ["never-reset"]


def test_driver_without_acknowledge(bench: Bench) -> None:
    bench.find()
    bench.reset()
    bench.driver.status = 2
    assert bench.found() == ["driver-without-acknowledge"]


def test_acknowledge_and_driver_at_once_are_allowed(bench: Bench) -> None:
    bench.find()
    bench.reset()
    bench.driver.status = 3
    assert bench.found() == []


def test_features_ok_without_any_features(bench: Bench) -> None:
    bench.introduce()
    bench.driver.offered_features()
    bench.driver.status = 0x0B
    assert bench.found() == ["features-never-written"]


def test_features_ok_before_driver(bench: Bench) -> None:
    bench.find()
    bench.reset()
    bench.driver.status = 1
    bench.driver.status = 9
    assert bench.found() == ["features-ok-before-driver"]


def test_features_ok_and_driver_ok_at_once(bench: Bench) -> None:
    bench.introduce()
    bench.driver.offered_features()
    bench.driver.accept_features(VERSION_1)
    bench.driver.status = 0x0F
    assert bench.found() == ["features-ok-not-read-back"]


def test_queues_before_a_look_at_features_ok(bench: Bench) -> None:
    bench.introduce()
    bench.driver.offered_features()
    bench.driver.accept_features(VERSION_1)
    bench.driver.status = 0x0B
    bench.driver.set_up_queue(0, *bench.ring.layout)
    assert bench.found() == ["features-ok-not-read-back"]
    assert "the queues" in bench.last.did


def test_driver_ok_without_features_ok(bench: Bench) -> None:
    bench.introduce()
    bench.driver.status = 7
    assert bench.found() == ["driver-ok-without-features-ok"]


def test_going_on_after_the_device_refused_the_features(bench: Bench) -> None:
    bench.introduce()
    bench.driver.offered_features()
    bench.driver.accept_features(VERSION_1 | 1 << 19)
    bench.driver.status = 0x0B
    assert bench.driver.status == 3
    bench.driver.status = 0x0F
    assert bench.found() == ["feature-not-offered", "refused-features-ignored"]


def test_a_bit_of_the_status_is_cleared(bench: Bench) -> None:
    bench.negotiate()
    bench.driver.status = 4
    assert bench.found() == ["status-bit-cleared"]
    assert "cleared ACKNOWLEDGE DRIVER FEATURES_OK" in bench.last.did


def test_bits_that_are_not_the_drivers(bench: Bench) -> None:
    bench.find()
    bench.reset()
    bench.driver.status = 0x61
    assert bench.found() == ["status-bit-foreign"]


def test_going_on_after_failed(bench: Bench) -> None:
    bench.introduce()
    bench.driver.status = 0x83
    assert bench.found() == []
    bench.driver.status = 0x8B
    assert bench.found() == ["continued-after-failed"]


def test_a_reset_that_is_not_waited_for(pci: Bench) -> None:
    pci.find()
    pci.driver.status = 0
    pci.driver.status = 1
    assert pci.found() == ["reset-not-waited"]


def test_a_feature_that_is_not_offered(bench: Bench) -> None:
    bench.introduce()
    bench.driver.offered_features()
    bench.driver.accept_features(VERSION_1 | 1 << 44)
    bench.driver.status = 0x0B
    assert bench.found() == ["feature-not-offered"]
    assert "bit 44" in bench.last.did


def test_a_feature_past_the_last_word(bench: Bench) -> None:
    bench.introduce()
    bench.driver.offered_features()
    bench.driver.accept_features(VERSION_1)
    if bench.kind == "mmio":
        bench.driver.write(0x24, 7)
        bench.driver.write(0x20, 1)
    else:
        bench.driver.set_common(0x08, 7, 4)
        bench.driver.set_common(0x0C, 1, 4)
    bench.driver.status = 0x0B
    assert bench.found() == ["feature-not-offered"]


def test_a_feature_without_what_it_requires(bench: Bench) -> None:
    bench.introduce()
    bench.driver.offered_features()
    bench.driver.accept_features(VERSION_1 | 2)
    bench.driver.status = 0x0B
    assert bench.found() == ["feature-without-prerequisite"]
    assert "(bit 1), without" in bench.last.did
    assert "(bit 0)" in bench.last.did


def test_a_set_that_the_device_cannot_serve(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.device, "features_acceptable", lambda _: False)
    bench.introduce()
    bench.driver.offered_features()
    bench.driver.accept_features(VERSION_1)
    bench.driver.status = 0x0B
    assert bench.found() == ["features-refused"]


def test_no_version_1(bench: Bench) -> None:
    bench.introduce()
    bench.driver.offered_features()
    bench.driver.accept_features(1)
    bench.driver.status = 0x0B
    assert bench.found() == ["version-1-missing"]


def test_features_accepted_without_a_look_at_the_offer(bench: Bench) -> None:
    bench.introduce()
    bench.driver.accept_features(VERSION_1)
    bench.driver.status = 0x0B
    assert bench.found() == ["features-unread"]


def test_features_after_features_ok(bench: Bench) -> None:
    bench.negotiate()
    bench.driver.accept_features(VERSION_1 | 1)
    assert bench.found() == ["features-changed-late"]


def test_features_before_driver(bench: Bench) -> None:
    bench.find()
    bench.reset()
    bench.driver.status = 1
    bench.driver.accept_features(VERSION_1)
    assert bench.found() == ["features-before-driver"]


def test_a_word_of_features_that_was_not_selected(mmio: Bench) -> None:
    mmio.introduce()
    mmio.driver.read(0x10)
    assert mmio.found() == ["feature-word-not-selected"]
    assert "DeviceFeaturesSel" in mmio.last.did
