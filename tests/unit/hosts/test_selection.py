"""What runs in the hardware host: all that touches KVM, but what is left out with a reason."""

from pathlib import Path

from tests.hosts.selection import CHOSEN, LEFT_OUT, SHORT
from tests.hosts.suite import command

ROOT = Path(__file__).parents[3]


def test_folders_of_guest_tests_are_chosen_as_a_whole() -> None:
    assert {"tests/guest", "tests/workflow", "tests/examples"} <= set(CHOSEN)
    assert all((ROOT / path).is_dir() for path in CHOSEN)


def test_what_is_left_out_is_there_and_has_a_reason() -> None:
    for path, reason in LEFT_OUT.items():
        assert (ROOT / path).is_file(), path
        assert str(Path(path).parent) in CHOSEN
        assert reason


def test_short_part_is_a_part_of_what_is_chosen() -> None:
    for path in SHORT:
        assert (ROOT / path).exists(), path
        assert path in CHOSEN or str(Path(path).parent) in CHOSEN
        assert path not in LEFT_OUT


def test_what_is_left_out_is_not_run(tmp_path: Path) -> None:
    words = command(tmp_path, short=False, until=None)

    assert set(CHOSEN) < set(words)
    assert "--ignore=tests/workflow/test_wheel.py" in words


def test_time_that_is_left_reaches_the_tests(tmp_path: Path) -> None:
    assert "--until=1800000000" in command(tmp_path, short=True, until=1_800_000_000.4)
