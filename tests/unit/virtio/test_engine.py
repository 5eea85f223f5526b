"""The choice of the engine: what there is, what is wanted, and what cannot be had."""

import pytest

from virtio import engine
from virtio.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_chosen", None)
    monkeypatch.delenv("PYVMM_ENGINE", raising=False)


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behave as where there was no C compiler."""
    monkeypatch.setattr(engine, "_module", lambda: None)


def test_the_fast_engine_is_the_default_where_it_was_built() -> None:
    pytest.importorskip("virtio.native._native", reason="the native engine was not built")
    assert engine.current() == "native"
    assert engine.native() is not None


@pytest.mark.usefixtures("unbuilt")
def test_python_is_the_default_where_nothing_was_built() -> None:
    assert engine.current() == "python"
    assert engine.native() is None


@pytest.mark.usefixtures("unbuilt")
def test_an_engine_that_was_not_built_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="engine native: it was not built; install"):
        engine.use("native")


def test_an_engine_that_does_not_exist_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match="engine 'fast': native, rings, python are allowed"
    ):
        engine.use("fast")


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_ENGINE", "python")
    assert engine.current() == "python"


def test_a_bad_word_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_ENGINE", "rust")
    with pytest.raises(ConfigurationError, match="engine 'rust'"):
        engine.check_environment()


def test_what_is_chosen_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_ENGINE", "rust")
    engine.use("python")
    assert engine.native() is None
