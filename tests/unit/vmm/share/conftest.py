from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.unit.vmm.share.shared import Shared

Share = Callable[..., Shared]


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    """Return what shares the test's own directory; all are closed at the end."""
    with ExitStack() as stack:

        def make(**options: Any) -> Shared:
            made = Shared(tmp_path, **options)
            stack.callback(made.close)
            return made

        yield make
