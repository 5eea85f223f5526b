"""The agent as the first process of a guest."""

import pytest

from vmm.testing import Guest

pytestmark = pytest.mark.timeout(1200)

WAIT_FOR_THE_LAST_ZOMBIE = "while cat /proc/[0-9]*/stat | grep -q ') Z '; do :; done"


def test_processes_that_nobody_waits_for_do_not_stay(guest: Guest) -> None:
    guest.run(["sh", "-c", "for i in 1 2 3 4 5 6; do (true & exit 0); done"], check=True)

    guest.run(["sh", "-c", WAIT_FOR_THE_LAST_ZOMBIE], timeout=30, check=True)
