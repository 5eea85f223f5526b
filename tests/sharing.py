"""How pytest-xdist divides the tests among its processes: by file, and some one by one.

A file goes to one process as a whole, so that tests which share a guest boot it once.
"""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.order import ONE_BY_ONE


class InOrder(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a process that has little left to do what comes next in the order of the tests."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        # By itself xdist begins with the files that have the most tests, not with the fast ones.
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(ONE_BY_ONE) else nodeid.partition("::")[0]
