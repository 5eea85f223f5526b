"""The steps in a device's life that its transport remembers."""

import pytest

from transport import VirtioMmio
from transport.report import Reporter
from transport.testing import RecordingLine
from virtio import Entropy
from virtio.testing import ManualLoop, flat_memory


def test_the_steps_of_a_device_are_remembered() -> None:
    with VirtioMmio(
        Entropy(), flat_memory((0, 1 << 20)), RecordingLine(), ManualLoop(), name="rng"
    ) as mmio:
        mmio.write(0x70, b"\x01\0\0\0")
        mmio.write(0x70, b"\x03\0\0\0")
        mmio.write(0x70, bytes(4))

        assert [what for _, what in mmio.report.events] == [
            "rng: status ACKNOWLEDGE",
            "rng: status ACKNOWLEDGE DRIVER",
            "rng: reset",
        ]


def test_warning_of_a_mistake_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    reporter = Reporter("rng")

    for _ in range(3):
        reporter.warn_once("the driver forgot something")

    assert [record.getMessage() for record in caplog.records] == [
        "rng: the driver forgot something"
    ]
    assert len(reporter.events) == 3
