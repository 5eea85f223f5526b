"""Loggers: silent without ``logging``, and a part of it where that is used."""

import logging
import subprocess
import sys

import pytest

from virtio.log import DEBUG, INFO, Logger

FAIL = """
try:
    1 / 0
except ZeroDivisionError as error:
    {0}
"""


def run(code: str) -> str:
    """Return what a new process writes to stderr, and whether it imported ``logging``."""
    program = (
        "import sys; from virtio.log import INFO, Logger, show\n"
        f"logger = Logger('some.module')\n{code}\n"
        "print('logging' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    return done.stderr


def test_what_nobody_wants_to_see_imports_nothing() -> None:
    assert run("logger.info('a'); logger.debug('b'); assert not logger.shows(INFO)") == "False\n"


def test_warning_gets_to_stderr_by_logging() -> None:
    assert run("logger.warning('%d of %d', 1, 2)") == "1 of 2\nTrue\n"


def test_program_shows_what_is_logged_without_logging() -> None:
    code = "show(INFO); logger.info('%d of %d', 1, 2); logger.debug('b')"

    assert run(code) == "vmm: INFO: some.module: 1 of 2\nFalse\n"


def test_percent_sign_stays_where_there_are_no_values() -> None:
    assert run("show(INFO); logger.error('100 %')") == "vmm: ERROR: some.module: 100 %\nFalse\n"


@pytest.mark.parametrize(
    "call", ["logger.exception('it failed')", "logger.error('it failed', traceback_of=error)"]
)
def test_program_shows_the_traceback_of_a_failure(call: str) -> None:
    first, *trace, _ = run("show(INFO)" + FAIL.format(call)).splitlines()

    assert first == "vmm: ERROR: some.module: it failed"
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-1] == "ZeroDivisionError: division by zero"


def test_program_that_uses_logging_gets_its_handler() -> None:
    code = "import logging; show(INFO); logging.getLogger('other').info('a'); logger.info('b')"

    assert run(code).splitlines()[:2] == ["vmm: INFO: other: a", "vmm: INFO: some.module: b"]


def test_gone_stderr_ends_nothing() -> None:
    assert (
        run("show(INFO); sys.stderr.close(); logger.error('a'); sys.stderr = sys.__stdout__") == ""
    )


def test_records_are_those_of_the_module_that_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "some.module")

    Logger("some.module").info("%d of %d", 1, 2)
    Logger("some.module").debug("not seen")

    [record] = caplog.records
    assert (record.name, record.levelname, record.message) == ("some.module", "INFO", "1 of 2")
    assert record.pathname == __file__


def test_level_of_logging_decides(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "some.module")

    assert (Logger("some.module").shows(INFO), Logger("some.module").shows(DEBUG)) == (True, False)
