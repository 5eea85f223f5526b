"""The guest of a test, without a machine."""

import pytest

from vmm.agent import AgentTimeoutError
from vmm.testing.guest import Guest


class SlowGuest(Guest):
    """A guest that takes no file in time."""

    def __init__(self) -> None:
        pass

    def write_file(self, path: str, data: bytes | str, mode: int = 0o644) -> None:
        raise AgentTimeoutError("late")


def test_file_that_does_not_arrive_in_time_is_named_with_its_size() -> None:
    with pytest.raises(AgentTimeoutError) as caught:
        SlowGuest()._put("/opt/big", bytes(1000))

    assert caught.value.__notes__ == ["while /opt/big of files= was written, 1000 bytes"]
