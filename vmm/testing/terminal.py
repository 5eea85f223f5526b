"""Shows what takes long while pytest captures the output."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from vmm.image.progress import Progress


class TestTerminal:
    """The terminal of a test run, beside its capture; a worker of pytest-xdist has only stderr."""

    __test__ = False

    def __init__(self, config: pytest.Config) -> None:
        in_worker = hasattr(config, "workerinput")  # whose reporter writes nowhere
        found = config.pluginmanager.getplugin("terminalreporter")
        self._reporter: Any = None if in_worker else found
        self._capture = config.pluginmanager.getplugin("capturemanager")
        self._quiet = config.get_verbosity() < -1
        self._begun = False

    def isatty(self) -> bool:
        """Whether a line can be written over."""
        return self._reporter is not None and bool(self._reporter.isatty)

    def write(self, text: str) -> None:
        """Show the text now."""
        if self._quiet:
            return
        with self._uncaptured():
            if self._reporter is None:
                sys.stderr.write(text)
                sys.stderr.flush()
            else:
                if not self._begun:
                    self._begin_line()
                self._reporter.write(text, flush=True)

    def flush(self) -> None:
        """Nothing waits."""

    def _begin_line(self) -> None:
        self._begun = True
        self._reporter.ensure_newline()
        if self._reporter._tw.width_of_current_line:  # the letters of tests that are through
            self._reporter.write("\n")

    def _uncaptured(self) -> AbstractContextManager[None]:
        if self._capture is None:
            return nullcontext()
        shown: AbstractContextManager[None] = self._capture.global_and_fixture_disabled()
        return shown


@contextmanager
def visible_progress(config: pytest.Config) -> Iterator[Progress]:
    """Give what shows progress to the person who waits for the tests."""
    from vmm.image.progress import ProgressLine

    with closing(ProgressLine(TestTerminal(config))) as progress:
        yield progress
