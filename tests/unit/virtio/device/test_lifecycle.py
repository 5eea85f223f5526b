"""The life of a device, for one that is written by hand without declarations."""

from virtio.device.lifecycle import Activation, EventLoop, VirtioDevice
from virtio.memory import FlatMemory


class Bare(VirtioDevice):
    """The least that a device can be."""

    device_id = 63

    @property
    def device_features(self) -> int:
        return 1 << 32 | 0b11

    @property
    def queue_max_sizes(self) -> tuple[int, ...]:
        return (16, 8)

    def handle_queue(self, index: int) -> bool:
        return False


class NoLoop:
    """Stands where a loop is needed, and is never used."""


def activation() -> Activation:
    loop: EventLoop = NoLoop()  # type: ignore[assignment]
    return Activation(FlatMemory([]), 1 << 32, [None, None], lambda: None, loop)


def test_any_offered_set_with_version_1_is_acceptable() -> None:
    device = Bare()

    assert device.features_acceptable(1 << 32)
    assert device.features_acceptable(1 << 32 | 0b10)


def test_a_set_without_version_1_is_not_acceptable() -> None:
    assert not Bare().features_acceptable(0b11)


def test_a_bit_that_was_not_offered_is_not_acceptable() -> None:
    assert not Bare().features_acceptable(1 << 32 | 0b100)


def test_configuration_space_reads_zero_and_drops_writes_by_default() -> None:
    device = Bare()

    device.write_config(0, b"\xff" * 8)

    assert device.read_config(0, 8) == bytes(8)


def test_queues_past_the_last_have_no_size() -> None:
    device = Bare()

    assert [device.queue_max_size(index) for index in (0, 1, 2, 0xFFFF)] == [16, 8, 0, 0]


def test_reset_returns_a_live_device_to_power_on() -> None:
    device = Bare()
    device.negotiated(1 << 32)
    device.activate(activation())

    device.reset()

    assert device.activation is None
    assert device.driver_features == 0


def test_reset_is_harmless_in_any_state() -> None:
    device = Bare()

    device.reset()
    device.negotiated(1 << 32)
    device.reset()
    device.reset()

    assert device.driver_features == 0


def test_disabling_a_queue_takes_it_from_the_activation() -> None:
    device = Bare()
    live = activation()
    live.queues[1] = object()  # type: ignore[call-overload]
    device.activate(live)

    device.disable_queue(1)

    assert live.queues == [None, None]


def test_queues_of_a_device_that_is_not_live_are_left_alone() -> None:
    device = Bare()

    device.disable_queue(0)

    assert device.activation is None


def test_state_is_carried_over() -> None:
    device, other = Bare(), Bare()
    device.negotiated(1 << 32 | 1)
    device.config_generation = 7

    other.restore(device.state())

    assert (other.driver_features, other.config_generation) == (1 << 32 | 1, 7)
