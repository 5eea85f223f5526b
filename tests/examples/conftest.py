"""What the examples take for granted: the plugin's default guest, on a host however slow."""

import pytest

from vmm.testing import GuestConfig


@pytest.fixture
def guest_config() -> GuestConfig:
    return GuestConfig(deadline=900)
