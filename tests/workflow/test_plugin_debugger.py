"""The time of a test stands still while a person looks at its guest."""

from pathlib import Path

import pytest

from tests.workflow.child_pytest import GENEROUS, run_pytest
from vmm.x86 import kvm_fault

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(kvm_fault() is not None, reason=str(kvm_fault())),
]

LOOKED_AT = """
from time import sleep


def time_passes(guest):
    left = guest.limit.left
    sleep(0.1)
    return guest.limit.left < left


def test_fails(guest):
    assert time_passes(guest)
    assert guest.run(["true"]).returncode == 1


def test_stops(guest):
    breakpoint()
    assert time_passes(guest)
"""


def test_the_clock_stands_still_at_a_prompt(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(GENEROUS)
    (tmp_path / "test_looked_at.py").write_text(LOOKED_AT)
    look = "p 'passes', time_passes(guest), guest.run(['echo', 'alive']).stdout\n"

    run = run_pytest(tmp_path, "--pdb", typed=f"{look}c\n{look}c\n")

    assert run.output.count(r"('passes', False, 'alive\n')") == 2, run.output
    assert run.outcomes == {"test_fails": "failure", "test_stops": "passed"}, run.output
