"""An error that ends a command is one line on stderr."""

import pytest

from virtio.errors import ConfigurationError
from vmm.cli.status import status_of


def test_name_with_line_breaks_and_escapes_stays_in_the_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work() -> int:
        raise ConfigurationError("kernel two\nlines\x1b[2K: is empty")

    assert status_of(work) == 2
    assert capsys.readouterr().err == "vmm: kernel two\\nlines\\x1b[2K: is empty\n"


def test_long_path_is_named_whole(capsys: pytest.CaptureFixture[str]) -> None:
    path = "a/" * 2047

    def work() -> int:
        raise ConfigurationError(f"kernel {path}: is empty")

    assert status_of(work) == 2
    assert capsys.readouterr().err == f"vmm: kernel {path}: is empty\n"
