"""The switch interval is short while there is a machine, and its own again after the last one."""

import sys
from collections.abc import Iterator

import pytest

from vmm.switching import prompt_switching


@pytest.fixture(autouse=True)
def _usual_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    yield
    sys.setswitchinterval(before)


def test_the_interval_is_short_until_the_last_machine_ends() -> None:
    with prompt_switching():
        with prompt_switching():
            assert sys.getswitchinterval() == pytest.approx(100e-6)
        assert sys.getswitchinterval() == pytest.approx(100e-6)
    assert sys.getswitchinterval() == pytest.approx(0.005)


def test_a_shorter_interval_is_left_alone() -> None:
    sys.setswitchinterval(10e-6)
    with prompt_switching():
        assert sys.getswitchinterval() == pytest.approx(10e-6)
    assert sys.getswitchinterval() == pytest.approx(10e-6)


def test_an_error_puts_it_back_too() -> None:
    with pytest.raises(ValueError, match="bad"), prompt_switching():
        raise ValueError("bad")
    assert sys.getswitchinterval() == pytest.approx(0.005)
