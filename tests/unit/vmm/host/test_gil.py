"""The switch interval is short while there is a machine, and its own again after the last one."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmm.host.gil import short_switch_interval, use_exact_timers


@pytest.fixture(autouse=True)
def _usual_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    yield
    sys.setswitchinterval(before)


def test_the_interval_is_short_until_the_last_machine_ends() -> None:
    with short_switch_interval():
        with short_switch_interval():
            assert sys.getswitchinterval() == pytest.approx(10e-6)
        assert sys.getswitchinterval() == pytest.approx(10e-6)
    assert sys.getswitchinterval() == pytest.approx(0.005)


def test_an_error_puts_it_back_too() -> None:
    with pytest.raises(ValueError, match="bad"), short_switch_interval():
        raise ValueError("bad")
    assert sys.getswitchinterval() == pytest.approx(0.005)


def test_a_thread_of_a_machine_has_exact_timers() -> None:
    slack: list[str] = []

    def work() -> None:
        use_exact_timers()
        slack.append(Path(f"/proc/{threading.get_native_id()}/timerslack_ns").read_text())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert slack == ["1\n"]
