"""A machine configuration is checked when it is made, with what is allowed in the message."""

from typing import Any

import pytest

from virtio.errors import ConfigurationError
from vmm.config import MachineConfig, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("128M", 134217728),
        ("1g", 1073741824),
        ("64MiB", 67108864),
        ("2KB", 2048),
        (" 1T ", 1099511627776),
    ],
)
def test_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5G", "12X", "0x100", "1" * 13, "1 M"])
def test_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="a number of bytes"):
        parse_size(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_bytes": 0}, "4M to 255G"),
        ({"memory_bytes": 4194303}, "4M to 255G"),
        ({"memory_bytes": 1 << 60}, "4M to 255G"),
        ({"memory_bytes": (64 << 20) + 512}, "multiple of 4096"),
        ({"cpus": 0}, "1 to 254"),
        ({"cpus": -3}, "1 to 254"),
        ({"cpus": 255}, "1 to 254"),
        ({"boot": "uefi"}, "auto, pvh, linux64"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        MachineConfig(**options)


def test_defaults_are_a_small_machine() -> None:
    config = MachineConfig()

    assert (config.memory_bytes, config.cpus, config.rng) == (134217728, 1, True)
