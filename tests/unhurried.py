"""A fixture for tests that count what a turn of a handler does, whatever else the host does."""

from collections.abc import Iterator

import pytest

MODULES = (
    *("virtio.device.handlers", "virtio.balloon.device", "virtio.console.stream"),
    *("virtio.net.device", "virtio.net.transmit", "virtio.vsock.device"),
)


HALF_AN_HOUR_NS = 1800 * 10**9


@pytest.fixture(scope="module", autouse=True)
def unhurried() -> Iterator[None]:
    """Let turns end by their bytes and counts, and not by their time: a host may be slow."""
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            patch.setattr(f"{module}.TURN_NS", HALF_AN_HOUR_NS)
        yield
