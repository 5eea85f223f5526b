"""A failure is shown without our frames, unless it is a bug of ours."""

import traceback
from concurrent.futures import Future

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
            raise Error("no x") from error

    error = caught(Error, fails)
    assert error.__cause__ is not None

    hide_own_frames(info_of(error), request.config)

    assert functions(error.__cause__) == ["fails", "waits"]


def test_those_of_an_error_that_was_handled_are_taken_out_too(
    request: pytest.FixtureRequest,
) -> None:
    def fails() -> None:
        try:
            waits()
        except Error:
            raise Error("no x")  # noqa: B904

    error = caught(Error, fails)
    assert error.__context__ is not None

    hide_own_frames(info_of(error), request.config)

    assert functions(error.__context__) == ["fails", "waits"]


def test_those_of_the_library_that_ours_call_are_taken_out_too(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    library: Future[None] = Future()
    library.set_exception(Error("from afar"))
    monkeypatch.setattr("vmm.console.log._compile", library.result)
    error = caught(Error, waits)
    assert "wait_for" in functions(error)[:-1]

    hide_own_frames(info_of(error), request.config)

    assert functions(error) == ["caught", "waits"]


def test_error_without_a_frame_of_a_test_stays_as_it_is(request: pytest.FixtureRequest) -> None:
    error = caught(ConsoleTimeoutError, waits)
    while error.__traceback__ and error.__traceback__.tb_frame.f_code.co_name != "wait_for":
        error.__traceback__ = error.__traceback__.tb_next

    assert not hide_own_frames(info_of(error), request.config)

    assert functions(error) == ["wait_for"]


def test_all_frames_are_shown_to_who_asks_for_them(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request.config.option, "fulltrace", True)
    error = caught(ConsoleTimeoutError, waits)

    assert hide_own_frames(info_of(error), request.config)

    assert functions(error)[-1] == "wait_for"


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
