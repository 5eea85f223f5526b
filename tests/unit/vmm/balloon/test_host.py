"""The balloon from outside: sizes that are refused, and waits that end."""

import pytest

from tests.spec.bal import ACTUAL, POISON, BalloonRig
from virtio.errors import ConfigurationError
from vmm import MachineConfig
from vmm.balloon import host
from vmm.balloon.host import BalloonLostError, BalloonTimeoutError, MachineBalloon

MEMORY = 4 << 20


@pytest.fixture
def rig() -> BalloonRig:
    return BalloonRig()


@pytest.fixture
def balloon(rig: BalloonRig) -> MachineBalloon:
    return MachineBalloon(rig.balloon, MEMORY)


@pytest.mark.parametrize("size", [-4096, 1, MEMORY + 4096])
def test_a_size_that_cannot_be_is_refused(balloon: MachineBalloon, size: int) -> None:
    with pytest.raises(ConfigurationError, match="must be a multiple of 4096 from 0 to 4194304"):
        balloon.target_bytes = size
    with pytest.raises(ConfigurationError, match="must be a multiple of 4096"):
        MachineConfig(memory_bytes=MEMORY, balloon=size)


def test_target_is_what_the_driver_reads_and_actual_what_it_says(
    rig: BalloonRig, balloon: MachineBalloon
) -> None:
    balloon.target_bytes = 1 << 20
    rig.write_config(ACTUAL, (256).to_bytes(4, "little"))
    balloon.wait(0)

    assert rig.balloon.num_pages == 256
    assert balloon.target_bytes == balloon.actual_bytes == 1 << 20


def test_a_guest_that_does_nothing_is_waited_for_no_longer_than_asked(
    balloon: MachineBalloon,
) -> None:
    balloon.target_bytes = 1 << 20

    with pytest.raises(BalloonTimeoutError, match="does not reach its target within 0 s"):
        balloon.wait(0)
    with pytest.raises(BalloonTimeoutError, match="no statistics came from the guest within 0 s"):
        balloon.statistics(0)


def test_the_end_of_the_guest_ends_the_wait(balloon: MachineBalloon) -> None:
    balloon.target_bytes = 1 << 20
    balloon.end("the guest powered off")

    with pytest.raises(BalloonLostError, match="the guest powered off"):
        balloon.wait(60)
    with pytest.raises(BalloonLostError, match="the guest powered off"):
        balloon.statistics(60)
    assert balloon.hints() == []


def test_a_guest_that_gives_no_hint_is_not_waited_for(
    balloon: MachineBalloon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "SILENT_SECONDS", 0.0)

    assert balloon.hints() == []


def test_free_pages_that_must_hold_something_are_not_left_out(
    rig: BalloonRig, balloon: MachineBalloon
) -> None:
    assert rig.balloon.can_hint
    rig.write_config(POISON, b"\xaa\xaa\xaa\xaa")

    assert not rig.balloon.can_hint


def test_hints_of_a_driver_that_is_gone_mean_nothing(
    rig: BalloonRig, balloon: MachineBalloon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balloon, "_asked", lambda: True)
    monkeypatch.setattr(balloon, "_hints", lambda: [(0, 4096)])
    monkeypatch.setattr(balloon, "_free_bytes", lambda: None)
    assert balloon.hints() == [(0, 4096)]

    rig.write_config(POISON, b"\xaa\xaa\xaa\xaa")

    assert balloon.hints() == []
