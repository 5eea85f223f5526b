"""A failure is shown without our frames, unless it is a bug of ours."""

import traceback

import pytest

from virtio.errors import Error, InternalError
from vmm.console.log import ConsoleLog, ConsoleTimeoutError
from vmm.testing.frames import hide_own_frames


def functions(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def info_of(error: BaseException) -> pytest.ExceptionInfo[BaseException]:
    return pytest.ExceptionInfo.from_exception(error)


def waits() -> None:
    ConsoleLog().wait_for("x", timeout=0)


def caught(error_class: type[BaseException], call: object, *arguments: object) -> BaseException:
    assert callable(call)
    with pytest.raises(error_class) as caught:
        call(*arguments)
    return caught.value


def test_our_frames_are_taken_out(request: pytest.FixtureRequest) -> None:
    error = caught(ConsoleTimeoutError, waits)
    assert functions(error)[-1] == "wait_for"

    assert hide_own_frames(info_of(error), request.config)

    assert functions(error) == ["caught", "waits"]


def test_those_of_a_cause_are_taken_out_too(request: pytest.FixtureRequest) -> None:
    def fails() -> None:
        try:
            waits()
        except Error as error:
            raise AssertionError("no x") from error

    error = caught(AssertionError, fails)
    assert error.__cause__ is not None

    hide_own_frames(info_of(error.__cause__), request.config)

    assert functions(error.__cause__) == ["fails", "waits"]


@pytest.mark.parametrize("error_class", [InternalError, KeyError])
def test_a_bug_of_ours_keeps_its_frames(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, error_class: type[Exception]
) -> None:
    def broken(*_: object) -> None:
        raise error_class("broken")

    monkeypatch.setattr("vmm.console.log._compile", broken)
    error = caught(error_class, waits)
    before = functions(error)

    hide_own_frames(info_of(error), request.config)

    assert functions(error) == before == ["caught", "waits", "wait_for", "broken"]
