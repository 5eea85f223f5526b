"""Devices of the user's own are not confined unless somebody says so."""

from types import SimpleNamespace
from typing import Any

import pytest

from vmm.cli.sandbox_options import sandbox_of, tell_unconfined
from vmm.sandbox.mode import VARIABLE


def options(**values: object) -> Any:
    return SimpleNamespace(
        **({"sandbox": None, "device": ["dice.py:Dice"], "jail": False, "reload": False} | values)
    )


@pytest.fixture(autouse=True)
def _nobody_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def test_own_device_is_not_confined_by_default_and_a_line_says_how(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sandbox = sandbox_of(options())
    tell_unconfined(options(), sandbox)

    assert sandbox.mode == "off"
    assert "--sandbox=auto" in capsys.readouterr().err


def test_without_own_devices_the_default_is_as_ever() -> None:
    assert sandbox_of(options(device=[])).mode == "auto"


def test_own_device_is_confined_where_the_user_asks_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = sandbox_of(options(sandbox="auto")).mode
    monkeypatch.setenv(VARIABLE, "log")

    assert (asked, sandbox_of(options()).mode) == ("auto", "log")


def test_own_device_in_a_jail_is_confined() -> None:
    assert sandbox_of(options(), jailed=True).mode == "auto"


def test_who_wants_no_sandbox_is_told_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = options(sandbox="off")

    tell_unconfined(wanted, sandbox_of(wanted))

    assert capsys.readouterr().err == ""
